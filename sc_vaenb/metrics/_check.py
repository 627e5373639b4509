"""Validation shared by all metrics: one array check, one group check, errors that say what to do."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.intp]
BoolArray = NDArray[np.bool_]


class Groups(NamedTuple):
    """A categorical annotation of cells as integer codes, with the names behind the codes."""

    codes: IntArray
    names: list[str]

    @property
    def sizes(self) -> IntArray:
        """Cells in each group, shape (n_groups,)."""
        return np.bincount(self.codes, minlength=len(self.names))


def check_embedding(values: ArrayLike, what: str = "embedding", *, min_cells: int = 2) -> FloatArray:
    """Return `values` as a finite, C-contiguous float64 matrix (cells x dimensions) or raise ValueError."""
    if hasattr(values, "toarray"):
        raise ValueError(f"{what} is a sparse matrix: metrics need a dense (cells x dimensions) array, such as a PCA.")
    try:
        array = np.ascontiguousarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{what} cannot be read as numbers ({error}): pass a (cells x dimensions) array.") from error
    if array.ndim != 2 or array.shape[1] == 0:
        raise ValueError(f"{what} has shape {array.shape}: pass a 2-D array of cells x dimensions.")
    if array.shape[0] < min_cells:
        raise ValueError(f"{what} has {array.shape[0]} cells: at least {min_cells} are needed.")
    finite = np.isfinite(array)
    if not finite.all():
        cell, dimension = np.argwhere(~finite)[0]
        raise ValueError(
            f"{what} holds {int((~finite).sum())} non-finite values (first: cell {cell}, dimension {dimension}: "
            f"{array[cell, dimension]}): remove these cells, or fit the embedding again."
        )
    return array


def _is_missing(value: Any) -> bool:
    return value is None or type(value).__name__ in {"NAType", "NaTType"} or bool(value != value)


def check_groups(values: ArrayLike, n_cells: int, what: str, *, min_groups: int = 1) -> Groups:
    """Return `values` (one per cell; strings, numbers or a categorical) as :class:`Groups` or raise ValueError.

    Group names are the values' text; codes follow the sorted order of names (of numbers, for numbers).
    """
    array = np.asarray(values)
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
        if array.dtype.kind != "f":
            array = np.array([str(value) for value in array])
    names, codes = np.unique(array, return_inverse=True)
    if len(names) < min_groups:
        raise ValueError(
            f"{what} has {len(names)} distinct value{'s' if len(names) != 1 else ''} ({str(names[0])!r}) but at least "
            f"{min_groups} are needed: pass another annotation, or leave out the metrics that need {what}."
        )
    return Groups(codes.astype(np.intp), [str(name) for name in names])
