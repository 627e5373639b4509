"""Matrices of every supported kind, in memory or on disk: some rows at a time, or all of them, as checked counts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from ._dask import by_genes, computed, is_dask

ROWS_AT_ONCE = 16_384  # cells read together, so that a dense or backed matrix is never doubled in memory
LARGEST = 3e38  # what float32 holds


def from_a_file(matrix: Any) -> bool:
    """Whether a matrix is on disk: of a backed AnnData, or put into one as anndata, dask, h5py or zarr opened it."""
    from anndata.abc import CSCDataset, CSRDataset

    dense = type(matrix).__module__.partition(".")[0] in {"h5py", "zarr"}
    return dense or isinstance(matrix, CSCDataset | CSRDataset) or is_dask(matrix)


def row_blocks(
    matrix: Any, where: str, genes: NDArray[np.bool_], n_rows: int, cells: slice = slice(None)
) -> Iterator[sparse.csr_matrix]:
    """Rows of any supported matrix (those of a slice), some at a time, as canonical CSR of the chosen genes."""
    if not (from_a_file(matrix) or isinstance(matrix, np.ndarray) or sparse.issparse(matrix)):
        msg = (
            f"{where} is a {type(matrix).__module__}.{type(matrix).__name__}. Give a numpy array, a scipy CSR or CSC "
            "matrix or array, a dask array of these, or a backed AnnData."
        )
        raise TypeError(msg)
    if sparse.issparse(matrix) and matrix.format not in {"csr", "csc"}:
        msg = f"{where} is a sparse matrix in {matrix.format} format. Convert it with .tocsr() first."
        raise TypeError(msg)
    if is_by_genes(matrix):  # in memory or on disk: rows of it would be read one by one
        whole = next(computed(matrix, where, [slice(0, matrix.shape[0])])) if is_dask(matrix) else matrix
        matrix = whole[:, np.flatnonzero(genes)].tocsr()
        genes = np.ones(matrix.shape[1], dtype=bool)
    first, last, _ = cells.indices(matrix.shape[0])
    yield from rows_of(
        matrix, where, genes, (slice(start, min(start + n_rows, last)) for start in range(first, last, n_rows))
    )


def is_by_genes(matrix: Any) -> bool:
    """Whether a matrix, of any supported kind, is kept gene by gene."""
    return by_genes(matrix) if is_dask(matrix) else getattr(matrix, "format", "") == "csc"


def rows_of(matrix: Any, where: str, genes: NDArray[np.bool_], slices: Iterable[slice]) -> Iterator[sparse.csr_matrix]:
    """The rows of each slice (in order, each row once) as canonical CSR of the chosen genes."""
    chosen = np.flatnonzero(genes)
    for rows in computed(matrix, where, slices) if is_dask(matrix) else (matrix[part] for part in slices):
        yield canonical(rows if genes.all() else rows[:, chosen], where)


def canonical(rows: Any, where: str) -> sparse.csr_matrix:
    """Numbers as a CSR matrix of its own, with sorted indices, each once."""
    if rows.dtype.kind not in "fiub":
        msg = f"{where} has dtype {rows.dtype}, which is not a number. Give integer counts."
        raise TypeError(msg)
    # scipy knows no sparse float16, and float32 holds every count up to 16.7 million
    block = sparse.csr_matrix(rows.astype(np.float32) if rows.dtype == np.float16 else rows, copy=True)
    block.sum_duplicates()
    return block


def read_matrix(
    matrix: Any, where: str, cells: pd.Index, genes: pd.Index, mask: NDArray[np.bool_], allow_non_integer: bool
) -> sparse.csr_matrix:
    """The chosen genes (named `genes`) of a matrix as float32 CSR without explicit zeros, every value checked."""
    n_cells, done, filled = matrix.shape[0], 0, 0
    lengths = np.zeros(n_cells, np.int64)
    # Room as the first cells suggest, not pieces to be joined later: so counts are never held twice.
    data, indices = np.empty(0, np.float32), np.empty(0, np.int32)
    for block in row_blocks(matrix, where, mask, ROWS_AT_ONCE):
        check_values(block, where, cells[done:], genes, allow_non_integer)
        block.eliminate_zeros()
        lengths[done : done + block.shape[0]] = np.diff(block.indptr)
        done, end = done + block.shape[0], filled + block.nnz
        if end > len(data):
            room = int(1.05 * end * n_cells / done)
            data, indices = _enlarged(data, filled, room), _enlarged(indices, filled, room)
        data[filled:end], indices[filled:end] = block.data, block.indices
        filled = end
    pointer = np.concatenate([[0], np.cumsum(lengths)])
    index_type = np.int32 if filled <= np.iinfo(np.int32).max else np.int64
    parts = (data[:filled], indices[:filled].astype(index_type, copy=False), pointer.astype(index_type))
    return sparse.csr_matrix(parts, shape=(n_cells, len(genes)))


def _enlarged(values: NDArray, filled: int, room: int) -> NDArray:
    larger = np.empty(room, values.dtype)
    larger[:filled] = values[:filled]
    return larger


def check_values(
    block: sparse.csr_matrix, where: str, cells: pd.Index, genes: pd.Index, allow_non_integer: bool
) -> None:
    """Refuse the first value that cannot be a count, by the names of its cell and gene."""
    data = block.data

    def refuse(bad: NDArray[np.bool_], what: str, advice: str) -> None:
        at = int(np.argmax(bad))
        cell = cells[np.searchsorted(block.indptr, at, side="right") - 1]
        gene = str(genes[block.indices[at]])
        msg = f"{where} holds {what} (cell {str(cell)!r}, gene {gene!r}: {data[at]:.6g}){advice}"
        raise ValueError(msg)

    finite = np.abs(data) < LARGEST  # False for NaN
    if not finite.all():
        refuse(~finite, "values that are not finite", ". Give raw counts; a missing value is not a zero.")
    if data.size and data.min() < 0:
        refuse(data < 0, "negative values", ": this looks scaled or batch-corrected. Pass the layer with raw counts.")
    if data.dtype.kind == "f" and not allow_non_integer and (data != np.rint(data)).any():
        refuse(
            data != np.rint(data),
            "non-integer values",
            ": this looks log-normalised. Pass the layer with raw counts, or allow_non_integer=True for "
            "ambient-corrected counts.",
        )
