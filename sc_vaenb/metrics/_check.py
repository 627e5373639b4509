"""What all metrics share: checks of embeddings, graphs and groups (errors say what to do), and one kind of mean."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array, issparse

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.intp]
BoolArray = NDArray[np.bool_]


LARGEST = 1e100  # squares of larger numbers overflow float64


class Groups(NamedTuple):
    """A categorical annotation of cells as integer codes, with the names behind the codes."""

    codes: IntArray
    names: list[str]

    @property
    def sizes(self) -> IntArray:
        """Cells in each group, shape (n_groups,)."""
        return np.bincount(self.codes, minlength=len(self.names))

    def cells(self) -> list[IntArray]:
        """Return the cells of each group, sorted."""
        return np.split(np.argsort(self.codes, kind="stable"), np.cumsum(self.sizes)[:-1])

    def crosstab(self, other: Groups) -> IntArray:
        """Count the cells of each group in each group of `other`, shape (n_groups, n_groups of `other`)."""
        table = np.zeros((len(self.names), len(other.names)), dtype=np.intp)
        np.add.at(table, (self.codes, other.codes), 1)
        return table


def defined_mean(values: ArrayLike) -> float:
    """Return the mean of the values that are not NaN, or NaN if there are none."""
    array = np.asarray(values, dtype=np.float64)
    defined = array[~np.isnan(array)]
    return float(defined.mean()) if len(defined) else float("nan")


def check_embedding(values: ArrayLike, what: str = "embedding", *, min_cells: int = 2) -> FloatArray:
    """Return `values` as a finite, C-contiguous float64 matrix (cells x dimensions) or raise ValueError."""
    if issparse(values):  # not by "toarray", which the dense arrays of a view of an AnnData have, too
        raise ValueError(f"{what} is a sparse matrix: metrics need a dense (cells x dimensions) array, such as a PCA.")
    try:
        raw = np.ma.filled(values, np.nan) if isinstance(values, np.ma.MaskedArray) else np.asarray(values)
        if raw.dtype.kind not in "biufO" or (raw.dtype.kind == "O" and any(isinstance(v, str) for v in raw.ravel())):
            raise TypeError(f"it holds {'text' if raw.dtype.kind in 'USO' else raw.dtype}")
        array = np.ascontiguousarray(raw, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{what} cannot be read as numbers ({error}): pass a (cells x dimensions) array.") from error
    if array.ndim != 2 or array.shape[1] == 0:
        raise ValueError(f"{what} has shape {np.shape(values)}: pass a 2-D array of cells x dimensions.")
    if array.shape[0] < min_cells:
        raise ValueError(f"{what} has {array.shape[0]} cells: at least {min_cells} are needed.")
    finite = np.abs(array) <= LARGEST  # False for NaN too
    if not finite.all():
        cell, dimension = np.argwhere(~finite)[0]
        raise ValueError(
            f"{what} holds {int((~finite).sum())} non-finite values (first: cell {cell}, dimension {dimension}: "
            f"{array[cell, dimension]}): remove these cells, or fit the embedding again."
        )
    return array


def check_graph(graph: Any) -> csr_array:
    """Return a square sparse matrix of finite weights, none negative, as float64 CSR, or raise ValueError."""
    if graph.ndim != 2 or graph.shape[0] != graph.shape[1] or not graph.shape[0]:
        raise ValueError(f"graph has shape {graph.shape}: pass a square one, cells x cells, such as of fuzzy_graph.")
    if graph.dtype.kind not in "biuf":
        raise ValueError(f"graph holds {graph.dtype}: pass one of weights, such as of fuzzy_graph.")
    checked = csr_array(graph, dtype=np.float64)
    if not (np.isfinite(checked.data).all() and (checked.data >= 0).all()):
        raise ValueError("graph holds weights that are negative or not finite: pass one such as of fuzzy_graph.")
    return checked


def _is_missing(value: Any) -> bool:
    return value is None or type(value).__name__ in {"NAType", "NaTType"} or (np.isscalar(value) and value != value)


def check_groups(values: ArrayLike, n_cells: int, what: str, *, min_groups: int = 1) -> Groups:
    """Return `values` (one per cell; strings, numbers or a categorical) as :class:`Groups` or raise ValueError.

    Group names are the values' text; codes follow the sorted order of names (of numbers, for numbers).
    """
    try:
        array = np.asarray(values)
    except ValueError as error:  # a list of lists of different lengths
        raise ValueError(f"{what} is no array ({error}): pass a 1-D array with one entry per cell.") from error
    if isinstance(values, np.ma.MaskedArray):
        array = np.ma.filled(values.astype(object), None)
    if array.ndim != 1:
        raise ValueError(f"{what} has shape {array.shape}: pass a 1-D array with one entry per cell.")
    if array.shape[0] != n_cells:
        raise ValueError(f"{what} has {array.shape[0]} entries but there are {n_cells} cells: pass one entry per cell.")
    if array.dtype.kind not in "iubSU":
        missing = np.fromiter((_is_missing(value) for value in array), dtype=bool, count=n_cells)
        if missing.any():
            raise ValueError(
                f"{what} has {int(missing.sum())} missing values (first: cell {int(np.argmax(missing))}): "
                "drop these cells, or give them a name such as 'unknown'."
            )
        if not_scalar := next(
            (value for value in array if not np.isscalar(value) and not hasattr(value, "year")), None
        ):
            raise ValueError(f"{what} holds a {type(not_scalar).__name__}: pass names or numbers, one for each cell.")
        if array.dtype.kind != "f":
            array = np.array([str(value) for value in array])
    names, codes = np.unique(array, return_inverse=True)
    if len(names) < min_groups:
        raise ValueError(
            f"{what} has {len(names)} distinct value{'s' if len(names) != 1 else ''} ({str(names[0])!r}) but at least "
            f"{min_groups} are needed: pass another annotation, or leave out the metrics that need {what}."
        )
    return Groups(codes.astype(np.intp), [str(name) for name in names])
