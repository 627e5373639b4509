"""Choose the variable genes with scanpy's flavor seurat_v3, or with flavor seurat where seurat_v3 is impossible."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
import scanpy as sc
from scanpy import logging as logg
from scipy import sparse

from .._scanpy import override, scanpy_1
from ..data.on_disk import scan
from ._tally import MIN_POINTS_FOR_LOESS, Tally, expected_sd, seurat_v3

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

N_CELLS_SAMPLED = 20_000  # cells of counts on disk from which flavor seurat chooses
MAX_SHARE_LEFT_OUT = 0.1  # share of the cells in batches that are left out before seurat replaces seurat_v3


class Genes(NamedTuple):
    """Variable genes: columns for var, the flavor that chose them, why it is not seurat_v3, and batches left out."""

    columns: pd.DataFrame
    flavor: str
    fallback: str = ""
    left_out: str = ""


def log_normalised(counts: sparse.csr_matrix) -> AnnData:
    data = sc.AnnData(counts.copy())
    with scanpy_1(), override(verbosity="error"):
        sc.pp.normalize_total(data)
        sc.pp.log1p(data)
    return data


def variable_genes(
    counts: sparse.csr_matrix | Tally,
    names: pd.Index,
    batches: NDArray[np.int64] | None,
    labels: NDArray[np.str_],
    n_top_genes: int,
) -> Genes:
    """Choose among the genes with counts by seurat_v3, or by seurat where seurat_v3 is impossible."""
    has_counts: NDArray[np.bool_]
    if isinstance(counts, Tally):
        has_counts = counts.total.sum(0) > 0
    else:
        has_counts = np.bincount(counts.indices, minlength=len(names)) > 0
    if has_counts.sum() <= n_top_genes:
        return Genes(pd.DataFrame({"highly_variable": has_counts}, index=names), "all")
    choose = _genes_on_disk if isinstance(counts, Tally) else _genes_in_memory
    return choose(counts, names, has_counts, batches, labels, n_top_genes)


def _fill_in(columns: pd.DataFrame, has_counts: NDArray[np.bool_], names: pd.Index) -> pd.DataFrame:
    """Extend columns of the genes with counts to all genes."""
    table = pd.DataFrame(index=names)
    for name, column in columns.items():
        values = np.zeros(len(names), column.dtype)  # the mean, variance and votes of genes without counts
        values[has_counts] = column
        table[name] = values
    if "highly_variable_rank" in table:
        table.loc[~has_counts, "highly_variable_rank"] = np.nan
    return table


def _genes_on_disk(
    counts: Tally,
    names: pd.Index,
    has_counts: NDArray[np.bool_],
    batches: NDArray[np.int64] | None,
    labels: NDArray[np.str_],
    n_top_genes: int,
) -> Genes:
    """Choose by seurat_v3 in one pass over the cells, or if that is impossible, from a sample of cells in memory."""
    expected, is_failed = [], np.zeros(len(labels), dtype=bool)
    for batch in range(len(labels)):
        try:
            expected.append(expected_sd(counts, batch, has_counts))
        except ValueError:
            is_failed[batch] = True
    n_failed = counts.n_cells[is_failed].sum()
    if n_failed <= MAX_SHARE_LEFT_OUT * counts.n_cells.sum():
        codes_used = np.flatnonzero(~is_failed)
        table = seurat_v3(counts, batches, codes_used, has_counts, np.stack(expected), n_top_genes)
        if is_failed.any():
            _warn_about_left_out(labels[is_failed], n_failed)
        return Genes(_fill_in(table, has_counts, names), "seurat_v3", left_out=", ".join(labels[is_failed]))
    n_cells = len(counts.depth)
    cells = np.sort(np.random.default_rng(0).permutation(n_cells)[:N_CELLS_SAMPLED])
    if len(cells) < n_cells:
        logg.warning(f"variable genes: chosen from {len(cells):,} of the {n_cells:,} cells, drawn at random.")
    sample = scan(counts.disk.blocks(check=False), len(names), cells).matrix
    if batches is None:
        return variable_genes(sample, names, None, labels, n_top_genes)
    codes_sampled, codes = np.unique(batches[cells], return_inverse=True)
    return variable_genes(sample, names, codes, labels[codes_sampled], n_top_genes)


def _genes_in_memory(
    counts: sparse.csr_matrix,
    names: pd.Index,
    has_counts: NDArray[np.bool_],
    batches: NDArray[np.int64] | None,
    labels: NDArray[np.str_],
    n_top_genes: int,
) -> Genes:
    matrix = counts if has_counts.all() else counts[:, np.flatnonzero(has_counts)]

    def columns(flavor: str, matrix: sparse.csr_matrix, batches: NDArray[np.int64] | None) -> pd.DataFrame:
        return _fill_in(_scanpy_genes(matrix, batches, flavor, n_top_genes), has_counts, names)

    try:
        return Genes(columns("seurat_v3", matrix, batches), "seurat_v3")
    except ValueError as error:
        reason = error.args[0] if error.args else ""
        fallback = f"loess failed ({reason.decode() if isinstance(reason, bytes) else reason})"  # loess raises bytes

    if batches is not None:
        is_failed = np.array([not _has_loess(matrix[batches == code]) for code in range(len(labels))])
        left_out = is_failed[batches]  # cells
        if 0 < left_out.mean() <= MAX_SHARE_LEFT_OUT:
            codes = np.unique(batches[~left_out], return_inverse=True)[1]
            genes = variable_genes(counts[~left_out], names, codes, labels[~is_failed], n_top_genes)
            _warn_about_left_out(labels[is_failed], left_out.sum())
            return genes._replace(left_out=", ".join(labels[is_failed]))
        fallback += f" in batches {labels[is_failed].tolist()}"

    log_counts = log_normalised(matrix).X
    for batch_codes in [None] if batches is None else [batches, None]:
        try:
            genes = Genes(columns("seurat", log_counts, batch_codes), "seurat", fallback)
        except (IndexError, ValueError):  # in some batch no gene varies
            fallback += "; seurat failed too, and regards all cells as one batch" if batch_codes is not None else ""
            continue
        logg.warning(
            "variable genes: chosen by flavor='seurat' on log-normalised counts, because flavor='seurat_v3' is not "
            f"possible here: {fallback}." + ("" if batches is None else " Merge small batches to avoid this.")
        )
        return genes
    msg = (
        f"No variable genes can be found: {fallback}. Give n_top_genes={has_counts.sum()} to use all genes with counts."
    )
    raise ValueError(msg)


def _warn_about_left_out(batches: NDArray[np.str_], n_cells: int) -> None:
    logg.warning(
        f"variable genes: batches {batches.tolist()} ({n_cells} cells) have too few cells or counts "
        "for seurat_v3 and are left out of the choice."
    )


def _has_loess(counts: sparse.csr_matrix) -> bool:
    try:
        _scanpy_genes(counts, None, "seurat_v3", 1)
    except ValueError:
        return False
    return True


def _n_varying(counts: sparse.csr_matrix) -> int:
    """Number of genes whose counts are not the same in all cells."""
    first_cell = counts[0].toarray().ravel()
    n_detected = np.bincount(counts.indices, minlength=len(first_cell))
    equals_first = counts.data == first_cell[counts.indices]
    n_equal = np.bincount(counts.indices[equals_first], minlength=len(first_cell))
    return int(((n_detected > 0) & (n_equal < counts.shape[0])).sum())


def _scanpy_genes(
    matrix: sparse.csr_matrix, batches: NDArray[np.int64] | None, flavor: str, n_top_genes: int
) -> pd.DataFrame:
    """The columns that scanpy writes into var. Raise a ValueError where the loess fit of seurat_v3 is impossible."""
    if flavor == "seurat_v3":
        parts = (matrix[batches == code] for code in np.unique(batches)) if batches is not None else [matrix]
        if (n_genes := min(map(_n_varying, parts))) < MIN_POINTS_FOR_LOESS:
            msg = f"only {n_genes} genes vary"
            raise ValueError(msg)
    data = sc.AnnData(matrix)
    if batches is not None:
        data.obs["batch"] = pd.Categorical(batches)
    with scanpy_1(), override(verbosity="error"), warnings.catch_warnings():
        # Scanpy divides by zero for genes that are constant in a batch, and ranks them last. It warns about batches
        # where fewer than n_top_genes vary. Neither needs action.
        warnings.simplefilter("ignore", RuntimeWarning)
        warnings.filterwarnings("ignore", "`n_top_genes` .*> number of normalized dispersions", UserWarning)
        sc.pp.highly_variable_genes(
            data,
            flavor=flavor,
            n_top_genes=n_top_genes,
            batch_key=None if batches is None else "batch",
            check_values=False,
            inplace=True,
        )
    return data.var
