"""Check sparse matrices of users before scipy or a compiled kernel reads them.

Neither checks the bounds of indices. With an invalid matrix, the result would be unrelated memory, or the process would
crash. Big-endian numbers, half precision and duplicate entries are valid, but not supported everywhere, so they are
converted here.
"""

from __future__ import annotations

from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

BUILD_AGAIN = "Build the matrix again from its source; what wrote it has an error."
Parts = tuple[NDArray, NDArray, NDArray]  # values, indices, index pointer
CLASSES = {"csr": sparse.csr_matrix, "csc": sparse.csc_matrix}


def native(values: Any) -> NDArray:
    """A numpy array in the byte order of this machine; half precision becomes single, because scipy lacks it."""
    values = np.asarray(values)
    if values.dtype == np.float16:
        return values.astype(np.float32)
    return values if values.dtype.isnative else values.astype(values.dtype.newbyteorder("="))


def checked_matrix(matrix: Any, where: str, first_row: int = 0) -> Any:
    """A CSR or CSC matrix, checked and in native byte order; any other matrix is returned as it is.

    Raises ValueError for an invalid matrix. `first_row` is the row of `where` in which a CSR matrix begins.
    """
    if not sparse.issparse(matrix) or matrix.format not in CLASSES:
        return matrix
    parts = np.asarray(matrix.data), np.asarray(matrix.indices), np.asarray(matrix.indptr)
    checked = checked_parts(parts, matrix.shape, matrix.format, where, first_row if matrix.format == "csr" else 0)
    if all(part is checked_part for part, checked_part in zip(parts, checked, strict=True)):
        return matrix
    return CLASSES[matrix.format](checked, shape=matrix.shape)


def checked_parts(parts: Parts, shape: tuple[int, int], kind: str, where: str, first: int) -> Parts:
    """Values, indices and index pointer of a CSR or CSC matrix, checked and in native byte order.

    `first` is the number of its first row (CSC: column) in messages.
    """
    data, index, pointer = parts
    names = ("row", "column") if kind == "csr" else ("column", "row")
    n_lines, n_across = shape if kind == "csr" else shape[::-1]
    check_pointer(pointer, n_lines, len(index), len(data), names[0], where)
    used = index[: int(pointer[-1])]
    if used.dtype.kind not in "iu":
        refuse(where, f"its indices are {used.dtype}, not integers")
    if used.size and (used.min() < 0 or used.max() >= n_across):
        entry = int(np.argmax((used < 0) | (used >= n_across)))
        line = int(np.searchsorted(pointer, entry, side="right")) - 1 + first
        refuse(
            where,
            f"{names[0]} {line} has the {names[1]} index {used[entry]}, but its {n_across} {names[1]}s count from 0",
            "If its indices start at 1, as in R, subtract 1 from each. " if used[entry] > 0 else "",
        )
    return native(data), native(index), native(pointer)


def check_pointer(pointer: NDArray, n_lines: int, n_indices: int, n_values: int, line: str, where: str) -> None:
    """Refuse an index pointer that does not divide the entries of a matrix among its rows (CSC: columns)."""
    if pointer.dtype.kind not in "iu" or pointer.shape != (n_lines + 1,):
        refuse(
            where, f"indptr holds {pointer.size} x {pointer.dtype}, not {n_lines + 1} integers for {n_lines} {line}s"
        )
    if n_indices != n_values:
        refuse(where, f"it has {n_indices} indices for {n_values} values")
    if (decreases := pointer[1:] < pointer[:-1]).any():
        refuse(where, f"indptr decreases after {line} {int(np.argmax(decreases))}")
    if pointer[0] != 0 or int(pointer[-1]) > n_values:
        refuse(where, f"indptr goes from {pointer[0]} to {pointer[-1]}, but there are {n_values} values")


def refuse(where: str, what: str, advice: str = "") -> NoReturn:
    msg = f"{where}: this sparse matrix is invalid: {what}. {advice}{BUILD_AGAIN}"
    raise ValueError(msg)


def dense(matrix: Any, where: str) -> Any:
    """A small sparse matrix as an array, with duplicate entries summed; any other matrix or table as it is."""
    if not sparse.issparse(matrix):
        return matrix
    matrix = checked_matrix(matrix, where)
    return (matrix.astype(np.float64) if matrix.dtype.kind in "iub" else matrix).toarray()


class OnDisk:
    """A sparse matrix in a file that anndata opened; its parts are checked when they are read."""

    def __init__(self, dataset: Any, where: str) -> None:
        group, self.format, self.where = dataset.group, dataset.format, where
        self.shape = tuple(map(int, dataset.shape))
        missing = [name for name in ("data", "indices", "indptr") if name not in group]
        if missing:
            refuse(where, f"it has no {missing[0]!r}")
        self.data, self.indices, self.pointer = group["data"], group["indices"], native(group["indptr"][...])
        n_lines, line = (self.shape[0], "row") if self.format == "csr" else (self.shape[1], "column")
        check_pointer(self.pointer, n_lines, self.indices.shape[0], self.data.shape[0], line, where)

    def lines(self, start: int, stop: int) -> sparse.csr_matrix | sparse.csc_matrix:
        """Neighbouring rows (CSC: columns)."""
        pointer = self.pointer[start : stop + 1]
        entries, n_lines = slice(int(pointer[0]), int(pointer[-1])), len(pointer) - 1
        shape = (n_lines, self.shape[1]) if self.format == "csr" else (self.shape[0], n_lines)
        parts = native(self.data[entries]), native(self.indices[entries]), pointer - pointer[0]
        return CLASSES[self.format](checked_parts(parts, shape, self.format, self.where, start), shape=shape)

    def __getitem__(self, rows: slice) -> sparse.csr_matrix:
        """Neighbouring rows; the matrix must be CSR."""
        start, stop, _ = rows.indices(self.shape[0])
        return self.lines(start, max(start, stop))

    def columns(self, chosen: NDArray[np.int64]) -> sparse.csc_matrix:
        """Some columns (sorted); the matrix must be CSC. Neighbouring columns are read together."""
        runs = np.split(chosen, np.flatnonzero(np.diff(chosen) > 1) + 1)
        return sparse.hstack([self.lines(int(run[0]), int(run[-1]) + 1) for run in runs], format="csc")
