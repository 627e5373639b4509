"""Raw counts found and kept, size factors, and the genes worth modelling."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import scanpy as sc
from scanpy import logging as logg
from scipy import sparse

from .. import _adata
from .._adata import keys, matrix_of
from .._checks import checked
from .._obs import read_batches
from .._session import own_state, shared
from ..data.matrix import from_a_file, read_matrix
from ..data.on_disk import MatrixOnDisk, on_disk, scan
from ..data.sparse import sound
from ._tally import MIN_POINTS_FOR_LOESS, Tally, curve, seurat_v3, tally

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

Place = Callable[[], tuple[Any, str]]  # a matrix and its name

LIKELY = re.compile("count|raw|umi", re.IGNORECASE)  # names of layers that are searched for counts besides "counts"
SAMPLE = 20_000  # cells of counts on disk from which flavor seurat chooses
MAX_SHARE_LEFT_OUT = 0.1  # share of the cells whose batches may have no say, rather than change the choice for all


CHOICE = {  # columns of var that scanpy.pp.highly_variable_genes writes, in one flavor or another
    "highly_variable",
    "highly_variable_intersection",
    "highly_variable_nbatches",
    "highly_variable_rank",
    "means",
    "dispersions",
    "dispersions_norm",
    "variances",
    "variances_norm",
}


class Genes(NamedTuple):
    """Variable genes: columns for var, the flavor that chose them, why not seurat_v3, and batches that had no say."""

    columns: pd.DataFrame
    flavor: str
    fallback: str = ""
    left_out: str = ""


@own_state()
@checked
def prepare(
    adata: AnnData,
    batch_key: str | None = None,
    *,
    layer: str | None = None,
    n_top_genes: int = 2000,
    log1p: bool = False,
    allow_non_integer: bool = False,
    copy: bool = False,
) -> AnnData | None:
    """Find and keep the raw counts, and choose the genes to model.

    One step between a filtered AnnData and :func:`sc_vaenb.tl.cvae`, in whatever state its ``X`` is: raw counts are
    looked for in ``layers['counts']``, ``X``, ``raw`` (the genes of `adata`, matched by name), and layers with count,
    raw or umi in their name, in this order, and the first place without negative and non-integer values is taken.

    Variable genes are those of ``scanpy.pp.highly_variable_genes(flavor='seurat_v3')`` (Stuart et al. 2019), on the
    counts, batch by batch. Its loess fit fails in batches with few cells or low counts. Where these hold at most a
    tenth of the cells, they have no say in the choice; where they hold more, ``flavor='seurat'``
    (Satija et al. 2015) on log-normalised counts takes its place; a warning says so. Genes without counts are never
    chosen; where no more than `n_top_genes` genes have counts, all of these are.

    Parameters
    ----------
    adata
        Annotated data with raw counts somewhere, cells x genes. Counts on disk (``X`` of a backed AnnData, or dask
        arrays, as of files joined lazily) stay there, and are gone through twice, some thousand cells at a time;
        ``raw`` on disk is not looked at.
    batch_key
        Column of ``obs`` with the batch of each cell: a gene is then judged within batches, so that a difference
        between batches does not make it variable.
    layer
        Layer with the raw counts, instead of the search.
    n_top_genes
        Number of genes to choose.
    log1p
        Write normalised log counts into ``X`` (``scanpy.pp.normalize_total``, then ``scanpy.pp.log1p``), in place of
        what it holds.
    allow_non_integer
        Take non-integer values as counts, for counts corrected for ambient RNA. Places with whole numbers go first, and
        where ``uns['log1p']`` says that the data were logarithmised, ``X`` and ``raw`` are not taken.
    copy
        Return a copy instead of writing to `adata`.

    Returns
    -------
    `None`, or a copy of `adata` if `copy`, with these fields added:

    ``layers['counts']``
        The counts as CSR float32; left as it is if it holds them already. Counts on disk are not copied: name their
        layer in what comes next (``layer=None`` if they are in ``X``).
    ``obs['size_factor']``
        Counts of each cell over all genes, divided by their mean over cells; shape (cells,), without unit, mean 1.
    ``var['highly_variable']``
        Whether a gene was chosen; with the other columns, and ``uns['hvg']``, of
        :func:`scanpy.pp.highly_variable_genes`, unless all genes with counts were.
    ``uns['prepare']``
        Record: `source` of the counts, `flavor` that chose the genes (``'all'`` if all with counts), `fallback` (why it
        is seurat, or empty), `left_out` (batches without a say, or empty), `n_top_genes` asked for, `n_genes` chosen,
        `batch_key` (empty if none), `log1p`.
    ``X`` and ``uns['log1p']``
        Only if `log1p`.

    On error `adata` is unchanged.

    Raises
    ------
    KeyError
        If `layer` or `batch_key` does not exist.
    TypeError
        If `adata` is not an AnnData, or `layer` is of an unsupported type.
    ValueError
        If there are no raw counts in any place, with the reason for each; if ``layers['counts']`` holds something else
        than the counts found elsewhere; if a cell has no counts; if a cell has no batch, a batch one cell, or
        `batch_key` one batch; if `adata` is backed and a copy, or another ``X``, is asked for.

    Examples
    --------
    >>> sc_vaenb.pp.prepare(adata, batch_key="sample")
    >>> sc_vaenb.tl.cvae(adata, batch_key="sample")
    """
    if adata.isbacked and log1p:
        msg = "log1p=True would replace X, but adata is backed by a file. Call adata = adata.to_memory() first."
        raise ValueError(msg)
    batches, labels = (None, np.array([""])) if batch_key is None else read_batches(adata, batch_key)
    counts, source = _find_counts(adata, layer, allow_non_integer, batches)
    _check_kept(adata, counts, source)
    depth = _depth(adata, counts, source)

    stored = isinstance(counts, Tally)
    if stored and log1p:
        msg = f"log1p=True would read all counts into memory, but {source} is on disk. Call adata.to_memory() first."
        raise ValueError(msg)

    start = logg.info(f"preparing raw counts found in {source}")
    for slot, column in (("var", "highly_variable"), ("obs", "size_factor")):
        if column in getattr(adata, slot):
            logg.info(f"    replacing {slot}[{column!r}]")
    adata = adata.copy() if copy else adata
    genes = _variable_genes(counts, adata.var_names, batches, labels, n_top_genes)
    logged = _log_normalised(counts) if log1p else None
    record = {
        "source": source,
        "flavor": genes.flavor,
        "fallback": genes.fallback,
        "left_out": genes.left_out,
        "n_top_genes": int(n_top_genes),
        "n_genes": int(genes.columns["highly_variable"].sum()),
        "batch_key": batch_key or "",
        "log1p": bool(log1p),
    }
    _write(adata, counts, depth / depth.mean(), genes, logged, record)
    logg.info(
        "    finished",
        time=start,
        deep=(
            "added\n"
            + ("" if stored else "    'counts', raw counts (adata.layers)\n")
            + "    'size_factor', relative depth (adata.obs)\n"
            f"    'highly_variable', {record['n_genes']} genes by flavor {genes.flavor!r} (adata.var)\n"
            "    'prepare', record (adata.uns)" + ("\n    normalised log counts (adata.X)" if log1p else "")
        ),
    )
    if stored and source != "layers['counts']":
        logg.info(f"the counts stay on disk, in {source}: pass {_layer_argument(source)} to what comes next")
    return adata if copy else None


def _layer_argument(source: str) -> str:
    return "layer=None" if source == "X" else source.replace("layers[", "layer=").removesuffix("]")


def _find_counts(
    adata: AnnData, layer: str | None, allow_non_integer: bool, batches: NDArray[np.int64] | None
) -> tuple[sparse.csr_matrix | Tally, str]:
    """The raw counts of all genes, or if they are on disk what is to be known of them; and where they were found."""
    every = np.ones(adata.n_vars, dtype=bool)

    def read(place: Place, allow: bool) -> tuple[sparse.csr_matrix | Tally, str]:
        matrix, where = place()
        if on_disk(matrix, where, logg.warning):
            shown = sc.settings.verbosity.value > 0
            names = adata.obs_names, adata.var_names
            return tally(MatrixOnDisk(matrix, where, *names, every, allow, logg.info, shown), batches), where
        return read_matrix(matrix, where, adata.obs_names, adata.var_names, every, allow, logg.info), where

    if layer is not None:
        return read(partial(matrix_of, adata, layer), allow_non_integer)

    layers = keys(adata.layers)
    likely = [name for name in layers if name != "counts" and LIKELY.search(name)]
    unlikely = [name for name in layers if name != "counts" and name not in likely]
    kept: list[Place] = [partial(matrix_of, adata, "counts")] if "counts" in layers else []
    usual: list[Place] = [partial(matrix_of, adata, None)]
    usual += [partial(_raw, adata)] if adata.raw is not None else []
    other: list[Place] = [partial(matrix_of, adata, name) for name in likely]

    tries = [(place, False) for place in (*kept, *usual, *other)]
    logarithmised = allow_non_integer and "log1p" in adata.uns
    if allow_non_integer:
        # log-normalised values pass for ambient-corrected counts, so whole numbers go first and known logs never
        tries += [(place, True) for place in (*kept, *([] if logarithmised else usual), *other)]
    refused = []
    for place, allow in tries:
        try:
            return read(place, allow)
        except (TypeError, ValueError) as error:
            refused.append(f"- {error}")
    msg = "\n".join(["adata holds no raw counts. Looked at:", *dict.fromkeys(refused), ""])
    if unlikely:
        msg += f"Not looked at: layers {unlikely}. "
    if logarithmised:
        msg += "X and raw do not pass for ambient-corrected counts, as uns['log1p'] says that they are logarithmised. "
    msg += "Put the raw counts into adata.layers['counts'], or name their layer (layer=...)."
    raise ValueError(msg)


def _raw(adata: AnnData) -> tuple[Any, str]:
    """The matrix of raw, reduced to the genes of adata in their order."""
    if adata.isbacked or from_a_file(adata.raw.X):
        msg = "raw on disk is not looked at, since nothing that comes next could read it from there."
        raise ValueError(msg)
    names = adata.raw.var_names
    if not names.is_unique:
        msg = f"raw names genes twice (first: {str(names[names.duplicated()][0])!r}), so they cannot be matched."
        raise ValueError(msg)
    at = names.get_indexer(adata.var_names)
    if (at < 0).any():
        lost = adata.var_names[at < 0]
        msg = f"raw lacks {len(lost)} of the {adata.n_vars} genes (first: {str(lost[0])!r})."
        raise ValueError(msg)
    return sound(adata.raw.X, "raw")[:, at], "raw"


def _check_kept(adata: AnnData, counts: sparse.csr_matrix | Tally, source: str) -> None:
    """Refuse to lose what layers["counts"] holds."""
    if isinstance(counts, Tally) or source == "layers['counts']" or "counts" not in keys(adata.layers):
        return
    try:
        matrix, where = matrix_of(adata, "counts")
        every = np.ones(adata.n_vars, dtype=bool)
        same = read_matrix(matrix, where, adata.obs_names, adata.var_names, every, True, logg.info)
        differ = (same != counts).nnz > 0
    except (TypeError, ValueError):  # these cannot be any counts
        differ = True
    if differ:
        msg = (
            f"layers['counts'] exists and differs from the counts found in {source}; it is not overwritten. Rename or "
            "delete it, or pass layer='counts' to use it."
        )
        raise ValueError(msg)


def _depth(adata: AnnData, counts: sparse.csr_matrix | Tally, source: str) -> NDArray[np.float64]:
    """Counts of each cell over all genes; refuses cells without any."""
    depth = counts.depth if isinstance(counts, Tally) else _adata.depth(counts)
    empty = np.flatnonzero(depth == 0)
    if len(empty):
        msg = (
            f"{source}: {len(empty)} cells have no counts (first: {str(adata.obs_names[empty[0]])!r}), so they have no "
            "size factor. Remove them, e.g. with sc.pp.filter_cells(adata, min_counts=1)."
        )
        raise ValueError(msg)
    return depth


def _log_normalised(counts: sparse.csr_matrix) -> AnnData:
    data = sc.AnnData(counts.copy())
    sc.pp.normalize_total(data)
    sc.pp.log1p(data)
    return data


def _variable_genes(
    counts: sparse.csr_matrix | Tally,
    names: pd.Index,
    batches: NDArray[np.int64] | None,
    labels: NDArray[np.str_],
    n_top_genes: int,
) -> Genes:
    """Choose genes among those with counts, by seurat_v3 or, where that is impossible, by seurat."""
    seen: NDArray[np.bool_]
    if isinstance(counts, Tally):
        seen = counts.total.sum(0) > 0
    else:
        seen = np.bincount(counts.indices, minlength=len(names)) > 0
    if seen.sum() <= n_top_genes:
        return Genes(pd.DataFrame({"highly_variable": seen}, index=names), "all")
    choose = _genes_on_disk if isinstance(counts, Tally) else _genes_in_memory
    return choose(counts, names, seen, batches, labels, n_top_genes)


def _spread(columns: pd.DataFrame, seen: NDArray[np.bool_], names: pd.Index) -> pd.DataFrame:
    """Columns of the seen genes as columns of all."""
    table = pd.DataFrame(index=names)
    for name, column in columns.items():
        values = np.zeros(len(names), column.dtype)  # of genes without counts: mean, variance, votes
        values[seen] = column
        table[name] = values
    if "highly_variable_rank" in table:
        table.loc[~seen, "highly_variable_rank"] = np.nan
    return table


def _genes_on_disk(
    counts: Tally,
    names: pd.Index,
    seen: NDArray[np.bool_],
    batches: NDArray[np.int64] | None,
    labels: NDArray[np.str_],
    n_top_genes: int,
) -> Genes:
    """By seurat_v3 in a pass over the cells; else from a sample of the cells, as if in memory."""
    expected, failed = [], np.zeros(len(labels), dtype=bool)
    for batch in range(len(labels)):
        try:
            expected.append(curve(counts, batch, seen))
        except ValueError:
            failed[batch] = True
    n_failed = counts.n_cells[failed].sum()
    if n_failed <= MAX_SHARE_LEFT_OUT * counts.n_cells.sum():
        used = np.flatnonzero(~failed)
        table = seurat_v3(counts, batches, used, seen, np.stack(expected), n_top_genes)
        if failed.any():
            _warn_of_left_out(labels[failed], n_failed)
        return Genes(_spread(table, seen, names), "seurat_v3", left_out=", ".join(labels[failed]))
    n_cells = len(counts.depth)
    cells = np.sort(np.random.default_rng(0).permutation(n_cells)[:SAMPLE])
    if len(cells) < n_cells:
        logg.warning(f"variable genes: chosen from {len(cells):,} of the {n_cells:,} cells, drawn at random.")
    sample = scan(counts.disk.blocks(check=False), len(names), cells).matrix
    if batches is None:
        return _variable_genes(sample, names, None, labels, n_top_genes)
    there, codes = np.unique(batches[cells], return_inverse=True)
    return _variable_genes(sample, names, codes, labels[there], n_top_genes)


def _genes_in_memory(
    counts: sparse.csr_matrix,
    names: pd.Index,
    seen: NDArray[np.bool_],
    batches: NDArray[np.int64] | None,
    labels: NDArray[np.str_],
    n_top_genes: int,
) -> Genes:
    matrix = counts if seen.all() else counts[:, np.flatnonzero(seen)]

    def columns(flavor: str, matrix: sparse.csr_matrix, batches: NDArray[np.int64] | None) -> pd.DataFrame:
        return _spread(_scanpy_genes(matrix, batches, flavor, n_top_genes), seen, names)

    try:
        return Genes(columns("seurat_v3", matrix, batches), "seurat_v3")
    except ValueError as error:
        reason = error.args[0] if error.args else ""
        fallback = f"loess failed ({reason.decode() if isinstance(reason, bytes) else reason})"  # bytes from loess

    if batches is not None:
        failed = np.array([not _has_loess(matrix[batches == code]) for code in range(len(labels))])
        cells = failed[batches]
        if 0 < cells.mean() <= MAX_SHARE_LEFT_OUT:
            rest = np.unique(batches[~cells], return_inverse=True)[1]
            genes = _variable_genes(counts[~cells], names, rest, labels[~failed], n_top_genes)
            _warn_of_left_out(labels[failed], cells.sum())
            return genes._replace(left_out=", ".join(labels[failed]))
        fallback += f" in batches {labels[failed].tolist()}"

    logged = _log_normalised(matrix).X
    for codes in [None] if batches is None else [batches, None]:
        try:
            genes = Genes(columns("seurat", logged, codes), "seurat", fallback)
        except (IndexError, ValueError):  # no gene varies within some batch
            fallback += "; seurat failed too, and regards all cells as one batch" if codes is not None else ""
            continue
        logg.warning(
            f"variable genes: flavor='seurat_v3' is not possible here: {fallback}. Used flavor='seurat' on "
            "log-normalised counts instead." + ("" if batches is None else " Merge small batches to avoid this.")
        )
        return genes
    msg = f"No variable genes can be found: {fallback}. Give n_top_genes={seen.sum()} to use all genes with counts."
    raise ValueError(msg)


def _warn_of_left_out(batches: NDArray[np.str_], n_cells: int) -> None:
    logg.warning(
        f"variable genes: batches {batches.tolist()} ({n_cells} cells) have too few cells or counts "
        "for seurat_v3 and have no say in the choice."
    )


def _has_loess(counts: sparse.csr_matrix) -> bool:
    try:
        _scanpy_genes(counts, None, "seurat_v3", 1)
    except ValueError:
        return False
    return True


def _varying(counts: sparse.csr_matrix) -> int:
    """Number of genes that are not the same in all cells."""
    first = counts[0].toarray().ravel()
    detected = np.bincount(counts.indices, minlength=len(first))
    as_first = np.bincount(counts.indices[counts.data == first[counts.indices]], minlength=len(first))
    return int(((detected > 0) & (as_first < counts.shape[0])).sum())


def _scanpy_genes(
    matrix: sparse.csr_matrix, batches: NDArray[np.int64] | None, flavor: str, n_top_genes: int
) -> pd.DataFrame:
    """The columns that scanpy writes into var; a ValueError where seurat_v3's loess is impossible."""
    if flavor == "seurat_v3":
        parts = (matrix[batches == code] for code in np.unique(batches)) if batches is not None else [matrix]
        if (few := min(map(_varying, parts))) < MIN_POINTS_FOR_LOESS:
            msg = f"only {few} genes vary"
            raise ValueError(msg)
    data = sc.AnnData(matrix)
    if batches is not None:
        data.obs["batch"] = pd.Categorical(batches)
    with shared(), warnings.catch_warnings():
        # genes that are constant in a batch give scanpy divisions by zero, which it ranks last, and batches where fewer
        # than n_top_genes vary a warning; neither calls for action
        warnings.simplefilter("ignore", RuntimeWarning)
        warnings.filterwarnings("ignore", "`n_top_genes` .*> number of normalized dispersions", UserWarning)
        sc.pp.highly_variable_genes(
            data,
            flavor=flavor,
            n_top_genes=n_top_genes,
            batch_key=None if batches is None else "batch",
            check_values=False,
        )
    return data.var


def _write(
    adata: AnnData,
    counts: sparse.csr_matrix | Tally,
    size_factor: NDArray[np.float64],
    genes: Genes,
    logged: AnnData | None,
    record: dict[str, Any],
) -> None:
    from anndata import ImplicitModificationWarning

    with shared(), warnings.catch_warnings():
        # writing to a view makes it an AnnData of its own, as everywhere in scanpy
        warnings.simplefilter("ignore", ImplicitModificationWarning)
        adata.obs["size_factor"] = size_factor
    # what an earlier choice of genes left must not be read as part of this one
    for name in CHOICE.intersection(adata.var) - set(genes.columns):
        del adata.var[name]
    adata.uns.pop("hvg", None)
    for name, column in genes.columns.items():
        adata.var[name] = column
    if genes.flavor != "all":
        adata.uns["hvg"] = {"flavor": genes.flavor}
    if "counts" not in keys(adata.layers) and not isinstance(counts, Tally):
        adata.layers["counts"] = counts
    if logged is not None:
        adata.X = logged.X  # after obs: X of a view would be written into its parent
        adata.uns["log1p"] = logged.uns["log1p"]
    adata.uns["prepare"] = record
