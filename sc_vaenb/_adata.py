"""The one file that knows AnnData: reading counts and batches out of it, and writing results into it.

Every refusal says what was wrong, where, what was found and what to do, before any work is done.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from ._names import means_no_label, names_of, no_names, texts
from ._session import shared
from .data.matrix import ROWS_AT_ONCE, check_kind, read_matrix, row_blocks
from .data.sparse import dense, sound

if TYPE_CHECKING:
    from anndata import AnnData

MANY_GENES = 10_000  # more than anyone chooses to model


def keys(mapping: Iterable[Any]) -> list[str]:
    """The names in a slot of an AnnData; anndata >= 0.13 lists X among the layers as None."""
    return [str(key) for key in mapping if key is not None]


def check_obs_key(adata: AnnData, name: str, key: str) -> None:
    """Refuse a key that names no column of obs, or several."""
    _check_column(adata, "obs", name, key)


def check_can_be_cut(adata: AnnData) -> None:
    """Refuse an AnnData of which anndata can cut out no cells, as columns of obs or var have one name."""
    for slot in ("obs", "var"):
        columns = getattr(adata, slot).columns
        if not columns.is_unique:
            _check_column(adata, slot, slot, columns[columns.duplicated()][0])


def _check_column(adata: AnnData, slot: str, name: str, key: str) -> None:
    columns = list(getattr(adata, slot).columns)
    n = columns.count(key)
    if n == 0:
        msg = f"{name}={key!r} is not in adata.{slot}. Its columns are {list(map(str, columns))}."
        raise KeyError(msg)
    if n > 1:
        msg = f"{slot} holds {n} columns named {key!r}. Rename one of them, or keep one."
        raise ValueError(msg)


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
    if isinstance(mask_var, str):
        _check_column(adata, "var", "mask_var", mask_var)
        column = adata.var[mask_var]
        if column.isna().any() or not pd.api.types.is_bool_dtype(column):
            msg = f"var[{mask_var!r}] has dtype {column.dtype}, not bool without gaps. Give a column of True and False."
            raise ValueError(msg)
        mask = column.to_numpy(dtype=bool)
    else:
        unnamed = isinstance(getattr(mask_var, "index", None), pd.RangeIndex)  # numbers in the order of the genes
        if isinstance(mask_var, pd.Series) and not unnamed and not mask_var.index.equals(adata.var_names):
            msg = "mask_var is a Series whose index is not var_names. Give mask_var.reindex(adata.var_names)."
            raise ValueError(msg)
        mask = np.array(mask_var)
        if mask.dtype != bool or mask.shape != (adata.n_vars,):
            msg = f"mask_var has dtype {mask.dtype} and shape {mask.shape}; give {adata.n_vars} booleans, one per gene."
            raise ValueError(msg)
    if not mask.any():
        msg = "mask_var selects no gene. Run sc_vaenb.pp.prepare(adata) to find variable genes, or pass mask_var=None."
        raise ValueError(msg)
    return mask


def matrix_of(adata: AnnData, layer: str | None) -> tuple[Any, str]:
    """The matrix of a layer (None: X) and its name for messages."""
    if adata.is_view and (parent := getattr(adata, "_adata_ref", None)) is not None:
        matrix, where = matrix_of(parent, layer)
        if sparse.issparse(matrix):  # checked before scipy cuts the view out of it, which reads whatever indices say
            check_kind(matrix, where)
            whole = sound(matrix, where)
            if whole is not matrix:  # scipy could not cut it
                return whole[adata._oidx][:, adata._vidx], where
    if layer is None:
        if adata.X is None:
            msg = "adata.X is empty. Name the layer with raw counts."
            raise ValueError(msg)
        return adata.X, "X"
    if layer not in keys(adata.layers):
        prepared = adata.uns.get("prepare")
        if layer != "counts":
            hint = "Pass one of these, or layer=None for X."
        elif isinstance(prepared, dict) and prepared.get("source") == "X":
            hint = "sc_vaenb.pp.prepare found the raw counts in X: pass layer=None."
        else:
            hint = (
                "Run sc_vaenb.pp.prepare(adata) to find the raw counts and keep them there, or pass layer=None for X."
            )
        msg = f"layer={layer!r} is not in adata.layers, which holds {keys(adata.layers)}. {hint}"
        raise KeyError(msg)
    return adata.layers[layer], f"layers[{layer!r}]"


def read_counts(
    adata: AnnData, layer: str | None, mask: NDArray[np.bool_], *, allow_non_integer: bool = False
) -> sparse.csr_matrix:
    """Counts of the chosen genes as float32 CSR without explicit zeros, after every check.

    Raises
    ------
    KeyError, TypeError, ValueError
        The layer does not exist or has no usable type; a value is negative, not finite or (unless allowed) not an
        integer; a cell has no counts.
    """
    from scanpy import logging as logg

    matrix, where = matrix_of(adata, layer)
    genes = adata.var_names[mask]
    counts = read_matrix(matrix, where, adata.obs_names, genes, mask, allow_non_integer, logg.info)
    check_no_empty(np.diff(counts.indptr) == 0, matrix, where, adata.obs_names, len(genes))
    return counts


def check_no_empty(empty: NDArray[np.bool_], matrix: Any, where: str, cells: pd.Index, n_genes: int) -> None:
    """Refuse cells without counts, and say of them whether other genes of the matrix have counts."""
    if not empty.any():
        return
    every = np.ones(matrix.shape[1], dtype=bool)
    depths = [depth(block) for block in row_blocks(matrix, where, every, ROWS_AT_ONCE)]
    silent = empty & (np.concatenate(depths) == 0)
    advice = []
    if silent.any():
        which = "They" if silent.sum() == empty.sum() else f"{silent.sum()} of them"
        advice.append(f"{which} have none in any gene: remove these, as sc.pp.filter_cells(adata, min_counts=1) does.")
    if silent.sum() < empty.sum():
        which = f"{empty.sum() - silent.sum()} of them" if silent.any() else "They"
        advice.append(f"{which} have counts in other genes: use more genes (mask_var), or remove these cells by name.")
    msg = (
        f"{where}: {empty.sum()} cells have no counts in the {n_genes} genes used (first: "
        f"{str(cells[int(np.argmax(empty))])!r}), so they have no size factor. {' '.join(advice)}"
    )
    raise ValueError(msg)


def without_silent_genes(
    counts: sparse.csr_matrix, genes: NDArray[np.str_]
) -> tuple[sparse.csr_matrix, NDArray[np.str_]]:
    """Leave out genes without a single count, and log it: there is nothing to learn about them."""
    seen = np.zeros(len(genes), dtype=bool)
    seen[counts.indices] = True
    if seen.all():
        return counts, genes
    warn_of_silent(genes, seen)
    return counts[:, np.flatnonzero(seen)], genes[seen]


def warn_of_silent(genes: NDArray[np.str_], seen: NDArray[np.bool_]) -> None:
    from scanpy import logging as logg

    silent = genes[~seen]
    logg.warning(
        f"{len(silent)} of {len(genes)} genes have no counts in these cells (first: {str(silent[0])!r}) "
        "and are left out of the model."
    )


def depth(counts: sparse.csr_matrix) -> NDArray[np.float64]:
    """Counts of each cell over the genes used."""
    return np.asarray(counts.sum(axis=1, dtype=np.float64)).ravel()


def read_size_factor(adata: AnnData, key: str | None, counts: sparse.csr_matrix) -> NDArray[np.float64]:
    """Positive size factors: a column of obs, or (None) the depth, each cell's counts over the genes used."""
    return depth(counts) if key is None else size_factor_column(adata, key)


def size_factor_column(adata: AnnData, key: str) -> NDArray[np.float64]:
    """Positive size factors in a column of obs."""
    check_obs_key(adata, "size_factor", key)
    column = pd.to_numeric(adata.obs[key], errors="coerce").to_numpy(dtype=np.float64)
    bad = ~(np.isfinite(column) & (column > 0))
    if bad.any():
        at = int(np.argmax(bad))
        msg = (
            f"obs[{key!r}] holds {bad.sum()} size factors that are not positive numbers (cell "
            f"{str(adata.obs_names[at])!r}: {adata.obs[key].iloc[at]}). Remove these cells or give other size factors."
        )
        raise ValueError(msg)
    return column


def read_categories(adata: AnnData, name: str, key: str) -> pd.Series:
    """A column of obs as categories, in text: those that have cells. A cell may have none."""
    check_obs_key(adata, name, key)
    column = adata.obs[key]
    try:
        column = column.astype("category").cat.remove_unused_categories()
    except (TypeError, ValueError) as error:
        raise no_names(column) from error
    names = names_of(column.cat.categories)
    if len(set(names)) < len(names):
        first = next(text for text in names if names.count(text) > 1)
        msg = (
            f"obs[{key!r}] holds values of one name and different types (first: {first!r}). Make all of them strings: "
            f"adata.obs[{key!r}] = adata.obs[{key!r}].astype(str)."
        )
        raise ValueError(msg)
    return column.cat.rename_categories(names)


def batch_labels(adata: AnnData, batch_key: str) -> tuple[NDArray[np.int64], NDArray[np.str_]]:
    """Codes of the batches (one per cell) and their names; categories without cells do not count."""
    check_obs_key(adata, "batch_key", batch_key)
    column = adata.obs[batch_key]
    missing = column.isna().to_numpy()
    if missing.any():
        msg = (
            f"obs[{batch_key!r}] is missing for {missing.sum()} cells (first: "
            f"{str(adata.obs_names[int(np.argmax(missing))])!r}). Label or remove them."
        )
        raise ValueError(msg)
    column = read_categories(adata, "batch_key", batch_key)
    names = [str(name) for name in column.cat.categories]
    return column.cat.codes.to_numpy(dtype=np.int64), np.array(names)


def read_labels(adata: AnnData, name: str, key: str) -> NDArray[np.object_]:
    """The label of each cell in a column of obs (named by the argument `name`) as text, None where it has none.

    Words such as "Unknown" or "NA" are no labels; :func:`warn_of_words` says so.
    """
    check_obs_key(adata, name, key)
    labels = texts(adata.obs[key])
    words = [label for label in set(labels.tolist()) - {None} if means_no_label(label)]
    labels[np.isin(labels.astype(str), words)] = None
    return labels


def warn_of_words(adata: AnnData, key: str, instead: str, *, known: str | None = None) -> None:
    """Name the words in a column of labels that mean "no label" (except a `known` one), and what is made of them."""
    from scanpy import logging as logg

    counts = pd.Series(texts(adata.obs[key]), dtype=object).value_counts()
    found = {word: n for word, n in counts.items() if means_no_label(str(word)) and word != known}
    if found:
        which = ", ".join(f"{word!r} ({n:,} cells)" for word, n in found.items())
        logg.warning(f"obs[{key!r}] holds {which}: {instead}")


NOT_A_LABEL = "taken as no label, like NaN. If it is a cell type, give it another name."


def read_batches(adata: AnnData, batch_key: str) -> tuple[NDArray[np.int64], NDArray[np.str_]]:
    """Codes and names of two batches or more, of two cells or more each: what a fit needs."""
    codes, names = batch_labels(adata, batch_key)
    if len(names) < 2:
        msg = (
            f"obs[{batch_key!r}] holds only one batch ({str(names[0])!r}): there is nothing to integrate. "
            "Use sc_vaenb.tl.vae(adata), or another batch_key."
        )
        raise ValueError(msg)
    sizes = np.bincount(codes)
    if sizes.min() < 2:
        msg = (
            f"obs[{batch_key!r}]: batch {str(names[int(np.argmin(sizes))])!r} has one cell, from which no batch effect "
            "can be learned. Remove the cell, or merge the batch with another."
        )
        raise ValueError(msg)
    return codes, names


def batch_codes(adata: AnnData, batch_key: str, known: list[str]) -> NDArray[np.int64]:
    """Codes of the cells' batches among those a model knows; refuses a batch that it does not know."""
    codes, names = batch_labels(adata, batch_key)
    code_of = {name: code for code, name in enumerate(known)}
    new = [str(name) for name in names if name not in code_of]
    if new:
        msg = f"obs[{batch_key!r}] holds batches that the model was not fitted on: {new}. It knows {known}."
        raise ValueError(msg)
    return np.array([code_of[name] for name in names], np.int64)[codes]


def locate_genes(adata: AnnData, genes: list[str], key: str) -> NDArray[np.int64]:
    """Where each gene of a model is in `adata`, by name."""
    order = adata.var_names.get_indexer(genes)
    missing = [gene for gene, at in zip(genes, order, strict=True) if at < 0]
    if missing:
        msg = (
            f"{len(missing)} of the {len(genes)} genes of the model in uns[{key!r}] are not in var_names (first: "
            f"{missing[0]!r}). Use an AnnData with the genes that the model was fitted on."
        )
        raise ValueError(msg)
    return order


def read_embedding(adata: AnnData, key: str, *, finite: bool = True, dtype: type = np.float32) -> NDArray[Any]:
    """An embedding in obsm, which must be a matrix of (`finite`) numbers."""
    if key not in adata.obsm:
        msg = f"{key!r} is not in adata.obsm, which holds {list(adata.obsm)}. Choose one of these."
        raise KeyError(msg)
    found = dense(adata.obsm[key], f"obsm[{key!r}]")
    try:
        values: NDArray[Any] = np.asarray(found, dtype=dtype)
    except (TypeError, ValueError) as error:
        msg = f"obsm[{key!r}] is not a matrix of numbers ({error}). Choose another embedding."
        raise ValueError(msg) from error
    good = np.isfinite(values).all(axis=1) if values.ndim == 2 else np.zeros(1, bool)
    if values.ndim != 2 or (finite and not good.all()):
        where = f"cell {str(adata.obs_names[int(np.argmin(good))])!r}" if values.ndim == 2 else f"{values.ndim}-d"
        msg = f"obsm[{key!r}] is not a matrix of finite numbers ({where}). Compute it again."
        raise ValueError(msg)
    return values


def write_result(
    adata: AnnData, key: str, embedding: NDArray[np.float32], record: dict[str, Any] | None = None
) -> None:
    """Put an embedding into obsm["X_" + key] and, if given, its record into uns[key]; nothing else changes."""
    with _views_may_become_own():
        adata.obsm[f"X_{key}"] = embedding
    if record is not None:
        write_record(adata, key, record)


def write_record(adata: AnnData, key: str, record: dict[str, Any]) -> None:
    """Put a record into uns[key]."""
    with _views_may_become_own():
        adata.uns[key] = record


EXTRAS = (  # what fits with components, or with labels, write beside the embedding: columns of obs and a part of obsm
    (("_component",), "_components"),
    (("_label", "_label_probability"), "_label_probabilities"),
)


def remove_extras(adata: AnnData, key: str) -> None:
    """Take away what an earlier model wrote under this key beside its embedding, and the next need not write."""
    with _views_may_become_own():
        for columns, table in EXTRAS:
            names = [key + column for column in columns]
            if key + table in adata.obsm and set(names) <= set(adata.obs):  # all of them: none is the user's own
                del adata.obsm[key + table]
                for name in names:
                    del adata.obs[name]


def write_layer(adata: AnnData, key: str, values: NDArray[np.float32] | sparse.csr_matrix) -> None:
    """Put cells x genes into layers[key]."""
    with _views_may_become_own():
        adata.layers[key] = values


def write_array(adata: AnnData, key: str, values: NDArray[np.float32]) -> None:
    """Put an array of the cells into obsm[key]."""
    with _views_may_become_own():
        adata.obsm[key] = values


def write_table(adata: AnnData, key: str, table: pd.DataFrame) -> None:
    """Put a table of the cells into obsm[key]."""
    with _views_may_become_own():
        adata.obsm[key] = table


@contextmanager
def _views_may_become_own() -> Iterator[None]:
    """Writing a result to a view makes it an AnnData of its own, as everywhere in scanpy: no warning of it."""
    from anndata import ImplicitModificationWarning

    with shared(), warnings.catch_warnings():
        warnings.simplefilter("ignore", ImplicitModificationWarning)
        yield
