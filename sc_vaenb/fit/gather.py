"""The non-zeros of some cells, taken out of the counts in one pass."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from ..model.nb_compiled import kept

Entries = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]


def csr_rows(matrix: csr_matrix, cells: NDArray[np.integer] | slice) -> Entries:
    """Row (in the order of `cells`), gene and count of every non-zero of these cells."""
    if isinstance(cells, slice):  # neighbours, whose entries lie together
        part = matrix[cells]
        return np.repeat(np.arange(part.shape[0]), np.diff(part.indptr)), part.indices.astype(np.int64), part.data
    return _gather(matrix.indptr, matrix.indices, matrix.data, cells)


@kept
def _gather(pointer: NDArray, genes: NDArray, counts: NDArray, cells: NDArray) -> Entries:
    n = 0
    for cell in cells:
        n += pointer[cell + 1] - pointer[cell]
    row, gene, count = np.empty(n, np.int64), np.empty(n, np.int64), np.empty(n, np.float32)
    at = 0
    for i in range(len(cells)):
        for k in range(pointer[cells[i]], pointer[cells[i] + 1]):
            row[at], gene[at], count[at] = i, genes[k], counts[k]
            at += 1
    return row, gene, count
