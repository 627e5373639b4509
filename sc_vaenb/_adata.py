"""Read counts, genes and embeddings from an AnnData, and write results into it. `_obs` reads columns of obs.

Every error says what is wrong, where, what was found and what to do, before any work is done.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from ._obs import check_column, check_obs_key, read_mask
from ._session import shared
from .data.matrix import ROWS_AT_ONCE, check_kind, on_host, read_matrix, row_blocks
from .data.sparse import checked_matrix, dense

if TYPE_CHECKING:
    from anndata import AnnData

MANY_GENES = 10_000  # more genes than a user selects on purpose


def keys(mapping: Iterable[Any]) -> list[str]:
    """The names in a slot of an AnnData; anndata >= 0.13 lists X among the layers as None."""
    return [str(key) for key in mapping if key is not None]


def check_can_be_subset(adata: AnnData) -> None:
    """Refuse an AnnData with duplicate column names in obs or var: anndata cannot subset its cells."""
    for slot in ("obs", "var"):
        columns = getattr(adata, slot).columns
        if not columns.is_unique:
            check_column(adata, slot, slot, columns[columns.duplicated()][0])


def gene_mask(adata: AnnData, mask_var: str | NDArray[np.bool_] | None) -> NDArray[np.bool_]:
    """Which genes to use: a boolean column of var, a boolean array, or None for all.

    The default column "highly_variable" is used where it exists and means all genes where it does not.
    """
    from scanpy import logging as logg

    if isinstance(mask_var, str) and mask_var == "highly_variable" and mask_var not in adata.var:
        if adata.n_vars > MANY_GENES:
            logg.warning(
                f"var has no column 'highly_variable', so all {adata.n_vars:,} genes are used; "
                "sc_vaenb.pp.prepare(adata) chooses 2,000."
            )
        mask_var = None
    if mask_var is None:
        return np.ones(adata.n_vars, dtype=bool)
    mask = read_mask(adata, "var", "mask_var", mask_var)
    if not mask.any():
        msg = "mask_var selects no gene. Run sc_vaenb.pp.prepare(adata) to find variable genes, or pass mask_var=None."
        raise ValueError(msg)
    return mask


def matrix_of(adata: AnnData, layer: str | None) -> tuple[Any, str]:
    """The matrix of a layer (None: X) and its name for messages."""
    if adata.is_view and (parent := getattr(adata, "_adata_ref", None)) is not None:
        matrix, where = matrix_of(parent, layer)
        if sparse.issparse(matrix):  # checked before scipy subsets it, because scipy trusts the indices
            check_kind(matrix, where)
            repaired = checked_matrix(matrix, where)
            if repaired is not matrix:  # scipy cannot subset the original
                return repaired[adata._oidx][:, adata._vidx], where
    if layer is None:
        if adata.X is None:
            msg = "adata.X is empty. Name the layer with raw counts."
            raise ValueError(msg)
        return on_host(adata.X), "X"
    if layer not in keys(adata.layers):
        prepare_record = adata.uns.get("prepare")
        if layer != "counts":
            hint = "Pass one of these, or layer=None for X."
        elif isinstance(prepare_record, dict) and prepare_record.get("source") == "X":
            hint = "sc_vaenb.pp.prepare found the raw counts in X: pass layer=None."
        else:
            hint = (
                "Run sc_vaenb.pp.prepare(adata) to find the raw counts and keep them there, or pass layer=None for X."
            )
        msg = f"layer={layer!r} is not in adata.layers, which holds {keys(adata.layers)}. {hint}"
        raise KeyError(msg)
    return on_host(adata.layers[layer]), f"layers[{layer!r}]"


def read_counts(
    adata: AnnData,
    layer: str | None,
    mask: NDArray[np.bool_],
    *,
    allow_non_integer: bool = False,
    copy: bool = True,
    may_be_empty: NDArray[np.bool_] | None = None,
    more_advice: str = "",
) -> sparse.csr_matrix:
    """Counts of the chosen genes as float32 CSR without explicit zeros, after every check.

    Without `copy`, they may share memory with the AnnData, so they must not be changed. Cells in `may_be_empty` need
    no counts. `more_advice` is for the error about other cells without counts.

    Raises
    ------
    KeyError, TypeError, ValueError
        The layer does not exist or has no usable type; a value is negative, not finite or (unless allowed) not an
        integer; a cell has no counts.
    """
    from scanpy import logging as logg

    matrix, where = matrix_of(adata, layer)
    genes = adata.var_names[mask]
    counts = read_matrix(matrix, where, adata.obs_names, genes, mask, allow_non_integer, logg.info, copy)
    empty = np.diff(counts.indptr) == 0
    if may_be_empty is not None:
        empty &= ~may_be_empty
    check_no_empty_cells(empty, matrix, where, adata.obs_names, len(genes), more_advice)
    return counts


def check_no_empty_cells(
    empty: NDArray[np.bool_], matrix: Any, where: str, cells: pd.Index, n_genes: int, more: str = ""
) -> None:
    """Refuse cells without counts in the genes used; the error says how many of them have counts in other genes.

    `more` is added to the advice of the error.
    """
    if not empty.any():
        return
    all_genes = np.ones(matrix.shape[1], dtype=bool)
    depths = [depth(block) for block in row_blocks(matrix, where, all_genes, ROWS_AT_ONCE)]
    empty_in_all_genes = empty & (np.concatenate(depths) == 0)
    advice = []
    if empty_in_all_genes.any():
        subject = "They" if empty_in_all_genes.sum() == empty.sum() else f"{empty_in_all_genes.sum()} of them"
        advice.append(
            f"{subject} have none in any gene: remove these, as sc.pp.filter_cells(adata, min_counts=1) does."
        )
    if empty_in_all_genes.sum() < empty.sum():
        subject = f"{empty.sum() - empty_in_all_genes.sum()} of them" if empty_in_all_genes.any() else "They"
        advice.append(
            f"{subject} have counts in other genes: use more genes (mask_var), or remove these cells by name."
        )
    msg = (
        f"{where}: {empty.sum()} cells have no counts in the {n_genes} genes used (first: "
        f"{str(cells[int(np.argmax(empty))])!r}), so they have no size factor. {' '.join([*advice, more]).strip()}"
    )
    raise ValueError(msg)


def without_silent_genes(
    counts: sparse.csr_matrix, genes: NDArray[np.str_]
) -> tuple[sparse.csr_matrix, NDArray[np.str_]]:
    """Leave out genes without counts, from which nothing can be learned, and log a warning."""
    has_counts = np.zeros(len(genes), dtype=bool)
    has_counts[counts.indices] = True
    if has_counts.all():
        return counts, genes
    warn_of_silent(genes, has_counts)
    return counts[:, np.flatnonzero(has_counts)], genes[has_counts]


def warn_of_silent(genes: NDArray[np.str_], has_counts: NDArray[np.bool_]) -> None:
    from scanpy import logging as logg

    silent = genes[~has_counts]
    logg.warning(
        f"{len(silent)} of {len(genes)} genes have no counts in these cells (first: {str(silent[0])!r}) "
        "and are left out of the model."
    )


def depth(counts: sparse.csr_matrix) -> NDArray[np.float64]:
    """The sum of counts of each cell over the genes used."""
    return np.asarray(counts.sum(axis=1, dtype=np.float64)).ravel()


def read_size_factor(adata: AnnData, key: str | None, counts: sparse.csr_matrix) -> NDArray[np.float64]:
    """Positive size factors: a column of obs or, if `key` is None, the depth of each cell."""
    return depth(counts) if key is None else size_factor_column(adata, key)


def size_factor_column(adata: AnnData, key: str) -> NDArray[np.float64]:
    """Positive size factors in a column of obs."""
    check_obs_key(adata, "size_factor", key)
    column = pd.to_numeric(adata.obs[key], errors="coerce").to_numpy(dtype=np.float64)
    bad = ~(np.isfinite(column) & (column > 0))
    if bad.any():
        first_bad = int(np.argmax(bad))
        msg = (
            f"obs[{key!r}] holds {bad.sum()} size factors that are not positive numbers (cell "
            f"{str(adata.obs_names[first_bad])!r}: {adata.obs[key].iloc[first_bad]}). Remove these cells "
            "or give other size factors."
        )
        raise ValueError(msg)
    return column


def locate_genes(adata: AnnData, genes: list[str], key: str) -> NDArray[np.int64]:
    """The position in `adata` of each gene of a model."""
    positions = adata.var_names.get_indexer(genes)
    missing = [gene for gene, position in zip(genes, positions, strict=True) if position < 0]
    if missing:
        msg = (
            f"{len(missing)} of the {len(genes)} genes of the model in uns[{key!r}] are not in var_names (first: "
            f"{missing[0]!r}). Use an AnnData with the genes that the model was fitted on."
        )
        raise ValueError(msg)
    return positions


def gene_values(adata: AnnData, gene: str, layer: str | None) -> NDArray[Any]:
    """The values of one gene in a layer (None: X), also in a file. AnnData.obs_vector is deprecated since 0.13."""
    matrix, where = (adata.X, "X") if layer is None else (adata.layers[layer], f"layers[{layer!r}]")
    start = adata.var_names.get_loc(gene)
    return np.asarray(dense(on_host(matrix[:, start : start + 1]), where)).ravel()


def read_embedding(adata: AnnData, key: str, *, finite: bool = True, dtype: type = np.float32) -> NDArray[Any]:
    """An embedding in obsm, which must be a matrix of (`finite`) numbers."""
    if key not in adata.obsm:
        msg = f"{key!r} is not in adata.obsm, which holds {list(adata.obsm)}. Choose one of these."
        raise KeyError(msg)
    matrix = dense(adata.obsm[key], f"obsm[{key!r}]")
    try:
        values: NDArray[Any] = np.asarray(matrix, dtype=dtype)
    except (TypeError, ValueError) as error:
        msg = f"obsm[{key!r}] is not a matrix of numbers ({error}). Choose another embedding."
        raise ValueError(msg) from error
    finite_cells = np.isfinite(values).all(axis=1) if values.ndim == 2 else np.zeros(1, bool)
    if values.ndim != 2 or (finite and not finite_cells.all()):
        problem = (
            f"cell {str(adata.obs_names[int(np.argmin(finite_cells))])!r}" if values.ndim == 2 else f"{values.ndim}-d"
        )
        msg = f"obsm[{key!r}] is not a matrix of finite numbers ({problem}). Compute it again."
        raise ValueError(msg)
    return values


def pca_key(adata: AnnData) -> str:
    """The key of obsm with the PCA: `X_pca`, or `pca` where scanpy 2, or its preset, has written it."""
    return "pca" if "pca" in adata.obsm and "X_pca" not in adata.obsm else "X_pca"


def read_coordinates(adata: AnnData, basis: str) -> NDArray[np.float64]:
    """Coordinates of the cells in a tissue: cells x 2 or more."""
    coordinates: NDArray[np.float64] = read_embedding(adata, basis, finite=False, dtype=np.float64)
    if coordinates.shape[1] < 2:
        msg = f"basis={basis!r}: obsm[{basis!r}] has {coordinates.shape[1]} columns. Give coordinates: cells x 2."
        raise ValueError(msg)
    lost = ~np.isfinite(coordinates).all(axis=1)
    if lost.any():
        msg = (
            f"obsm[{basis!r}] holds no finite coordinates for {lost.sum()} cells (first: "
            f"{str(adata.obs_names[int(np.argmax(lost))])!r}). Remove them: "
            f"adata = adata[numpy.isfinite(adata.obsm[{basis!r}]).all(axis=1)].copy()."
        )
        raise ValueError(msg)
    return coordinates


def write_result(
    adata: AnnData, key: str, embedding: NDArray[np.float32], record: dict[str, Any] | None = None
) -> None:
    """Write an embedding to obsm["X_" + key] and, if there is one, its record to uns[key]; nothing else changes."""
    with _write_to_view():
        adata.obsm[f"X_{key}"] = embedding
    if record is not None:
        write_record(adata, key, record)


def check_key_added(adata: AnnData, key_added: str) -> None:
    """Refuse to write a result over a fitted model in uns."""
    existing = adata.uns.get(key_added)
    if isinstance(existing, dict) and "model" in existing:
        msg = f"key_added={key_added!r} names a model in uns, which would be lost. Choose another name."
        raise ValueError(msg)


def write_record(adata: AnnData, key: str, record: dict[str, Any]) -> None:
    """Write a record to uns[key]."""
    with _write_to_view():
        adata.uns[key] = record


EXTRAS = (  # what a fit with components or labels writes beside the embedding: columns of obs, an entry of obsm
    (("_component",), "_components"),
    (("_label", "_label_probability"), "_label_probabilities"),
)


def remove_extras(adata: AnnData, key: str) -> None:
    """Remove what an earlier model wrote under this key beside its embedding: the next model may lack these."""
    with _write_to_view():
        for columns, table in EXTRAS:
            names = [key + column for column in columns]
            # if all are there, a fit wrote them, not the user
            if key + table in adata.obsm and set(names) <= set(adata.obs):
                del adata.obsm[key + table]
                for name in names:
                    del adata.obs[name]


def loadings_key(key: str) -> str:
    """The name in varm of the loadings of an embedding."""
    return f"{key}_loadings"


def write_loadings(adata: AnnData, key: str, genes: Sequence[str], loadings: NDArray[np.float32] | None) -> None:
    """Write loadings (of these genes x dimensions) to varm, or remove them; as in scanpy, other genes have zeros."""
    with _write_to_view():
        if loadings is None:
            adata.varm.pop(loadings_key(key), None)
            return
        out = np.zeros((adata.n_vars, loadings.shape[1]), np.float32)
        out[adata.var_names.get_indexer(list(genes))] = loadings
        adata.varm[loadings_key(key)] = out


def read_loadings(adata: AnnData, key: str, genes: Sequence[str], n_dimensions: int) -> NDArray[np.float32] | None:
    """The loadings of these genes (genes x dimensions); None if there are none of so many dimensions."""
    loadings = adata.varm.get(loadings_key(key))
    if not isinstance(loadings, np.ndarray) or loadings.shape != (adata.n_vars, n_dimensions):
        return None
    return loadings[adata.var_names.get_indexer(list(genes))].astype(np.float32)


def write_layer(adata: AnnData, key: str, values: NDArray[np.float32] | sparse.csr_matrix) -> None:
    """Write a matrix of cells x genes to layers[key]."""
    with _write_to_view():
        adata.layers[key] = values


def write_array(adata: AnnData, key: str, values: NDArray[np.float32]) -> None:
    """Write an array with a row for each cell to obsm[key]."""
    with _write_to_view():
        adata.obsm[key] = values


def write_table(adata: AnnData, key: str, table: pd.DataFrame) -> None:
    """Write a table with a row for each cell to obsm[key]."""
    with _write_to_view():
        adata.obsm[key] = table


@contextmanager
def _write_to_view() -> Iterator[None]:
    """Suppress anndata's warning when a result is written to a view, which turns the view into a copy."""
    from anndata import ImplicitModificationWarning

    with shared(), warnings.catch_warnings():
        warnings.simplefilter("ignore", ImplicitModificationWarning)
        yield
