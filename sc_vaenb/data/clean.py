"""Take counts that need no repair from a CSR matrix in memory: one compiled pass, and no copy where none is needed.

Most matrices are clean: whole numbers above zero in float32, with sorted genes and no duplicates. Whatever is not clean
is read by `matrix.read_matrix`, which repairs it, or says what is wrong and where.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from ..model.compiled import cached_njit

KINDS = np.float32, np.float64, np.int32, np.int64
LARGEST_EXACT = 2.0**24  # whole numbers up to this are exact in float32


def clean_counts(matrix: Any, genes: NDArray[np.bool_], copy: bool) -> sparse.csr_matrix | None:
    """The chosen genes of a clean matrix as float32 CSR; None if the matrix is of another kind, or not clean.

    Without `copy`, the result may share memory with the matrix, so it must not be changed.
    """
    if not sparse.issparse(matrix) or matrix.format != "csr" or type(matrix.data) is not np.ndarray:
        return None
    data, indices, pointer = matrix.data, matrix.indices, matrix.indptr
    if data.dtype not in KINDS or {indices.dtype, pointer.dtype} != {np.dtype(np.int32)}:
        return None
    if (
        not (data.dtype.isnative and indices.dtype.isnative)
        or len(pointer) != matrix.shape[0] + 1
        or len(data) != len(indices)
    ):
        return None
    column = np.where(genes, np.cumsum(genes) - 1, -1).astype(indices.dtype)
    n_kept = _count_if_clean(data, indices, pointer, column)
    if n_kept < 0:
        return None
    if data.dtype == np.float32 and genes.all() and not copy:
        parts = data[:n_kept], indices[:n_kept], pointer
    else:
        parts = np.empty(n_kept, np.float32), np.empty(n_kept, indices.dtype), np.empty_like(pointer)
        _select(data, indices, pointer, column, *parts)
    counts = sparse.csr_matrix(parts, shape=(matrix.shape[0], int(genes.sum())), copy=False)
    counts.has_canonical_format = True
    return counts


@cached_njit
def _count_if_clean(data: NDArray, indices: NDArray, pointer: NDArray, column: NDArray) -> int:
    """How many entries have a column; -1 if the matrix is not clean."""
    n_kept, n_columns, end = 0, len(column), 0
    if pointer[0] != 0:
        return -1
    for i in range(len(pointer) - 1):
        begin, end = end, pointer[i + 1]
        if end < begin or end > len(data):
            return -1
        before = -1
        for k in range(begin, end):
            j, value = indices[k], data[k]
            if not (before < j < n_columns and 0 < value <= LARGEST_EXACT and value == np.floor(value)):
                return -1
            before = j
            n_kept += column[j] >= 0
    return n_kept


@cached_njit
def _select(
    data: NDArray,
    indices: NDArray,
    pointer: NDArray,
    column: NDArray,
    new_data: NDArray,
    new_indices: NDArray,
    new_pointer: NDArray,
) -> None:
    at = 0
    for i in range(len(pointer) - 1):
        new_pointer[i] = at
        for k in range(pointer[i], pointer[i + 1]):
            j = column[indices[k]]
            if j >= 0:
                new_data[at], new_indices[at] = data[k], j
                at += 1
    new_pointer[-1] = at
