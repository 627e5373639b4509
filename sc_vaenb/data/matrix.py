"""Read matrices of every supported kind, in memory or on disk, as checked counts: some rows at a time, or all.

anndata uses dask arrays for lazy reading and for the concatenation of files. This module does not import dask.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from .clean import clean_counts
from .sparse import OnDisk, checked_matrix, native

ROWS_AT_ONCE = 16_384  # cells read together, so that memory never holds a dense or backed matrix twice
LARGEST = 3e38  # value that float32 holds
# Largest rounding error of a whole number, relative to it (to 1, if it is smaller). The error of a float32 is 2^-24. If
# a logarithm is undone, expm1(log1p(x)), the error of the logarithm becomes log1p(x) times as large in x: 2^-20 for
# x = 60,000. Twice this value also covers an earlier scaling, and still refuses 1.00001.
ROUNDING = 2.0**-19


def from_a_file(matrix: Any) -> bool:
    """Whether a matrix is on disk: in a backed AnnData, or as an object of anndata, dask, h5py or zarr."""
    library = type(matrix).__module__.partition(".")[0]
    return library in {"h5py", "zarr"} or (library == "anndata" and hasattr(matrix, "group")) or is_dask(matrix)


def on_host(matrix: Any) -> Any:
    """A matrix of cupy or cupyx, on a GPU, as the same of numpy or scipy; any other matrix as it is."""
    if not hasattr(matrix, "get"):
        return matrix
    parts = matrix, getattr(matrix, "data", None)  # a sparse matrix is on the GPU if its values are
    return matrix.get() if any(hasattr(part, "__cuda_array_interface__") for part in parts) else matrix


def row_blocks(
    matrix: Any, where: str, genes: NDArray[np.bool_], n_rows: int, cells: slice = slice(None)
) -> Iterator[sparse.csr_matrix]:
    """The rows of a slice of any supported matrix, some at a time, as canonical CSR of the chosen genes."""
    check_kind(matrix, where)
    matrix = checked_matrix(matrix, where)
    if is_by_genes(matrix):  # in memory or on disk: convert it once, because reading its rows is slow
        chosen = np.flatnonzero(genes)
        if is_dask(matrix):
            matrix = next(computed(matrix, where, [slice(0, matrix.shape[0])]))[:, chosen].tocsr()
        else:
            columns = matrix[:, chosen] if sparse.issparse(matrix) else OnDisk(matrix, where).columns(chosen)
            matrix = columns.tocsr()
        genes = np.ones(matrix.shape[1], dtype=bool)
    first, last, _ = cells.indices(matrix.shape[0])
    yield from rows_of(
        matrix, where, genes, (slice(start, min(start + n_rows, last)) for start in range(first, last, n_rows))
    )


def check_kind(matrix: Any, where: str) -> None:
    """Refuse an unsupported kind of matrix, and values that are not numbers."""
    if not (from_a_file(matrix) or isinstance(matrix, np.ndarray) or sparse.issparse(matrix)):
        msg = (
            f"{where} is a {type(matrix).__module__}.{type(matrix).__name__}. Give a numpy array, a scipy CSR or CSC "
            "matrix or array, a dask array of these, or a backed AnnData."
        )
        raise TypeError(msg)
    if isinstance(matrix, np.ma.MaskedArray):
        msg = f"{where} is a masked array. Give a plain one: matrix.filled(0), if what is masked is no count."
        raise TypeError(msg)
    if sparse.issparse(matrix) and matrix.format not in {"csr", "csc"}:
        msg = f"{where} is a sparse matrix in {matrix.format} format. Convert it with .tocsr() first."
        raise TypeError(msg)
    if matrix.dtype.kind not in "fiub":
        msg = f"{where} has dtype {matrix.dtype}, which is not a number. Give integer counts."
        raise TypeError(msg)


def is_by_genes(matrix: Any) -> bool:
    """Whether a matrix of any supported kind is stored gene by gene (CSC)."""
    return by_genes(matrix) if is_dask(matrix) else getattr(matrix, "format", "") == "csc"


def rows_of(matrix: Any, where: str, genes: NDArray[np.bool_], slices: Iterable[slice]) -> Iterator[sparse.csr_matrix]:
    """The rows of each slice (in order, each row once) as canonical CSR of the chosen genes."""
    chosen = np.flatnonzero(genes)
    if hasattr(matrix, "group"):  # sparse, in a file
        matrix = OnDisk(matrix, where)
    for rows in computed(matrix, where, slices) if is_dask(matrix) else (matrix[part] for part in slices):
        yield canonical(rows if genes.all() else rows[:, chosen], where)


def canonical(rows: Any, where: str) -> sparse.csr_matrix:
    """Copy numbers to a CSR matrix with sorted indices and no duplicate entries."""
    check_kind(rows, where)
    block = sparse.csr_matrix(rows if sparse.issparse(rows) else native(rows), copy=True)
    if not block.has_canonical_format:
        block.data = block.data.astype(np.float64)  # in eight bits, 200 + 100 would be 44
        block.sum_duplicates()
    return block


def as_counts(block: sparse.csr_matrix, allow_non_integer: bool) -> sparse.csr_matrix:
    """Checked values as float32 without explicit zeros, and rounded unless non-integer values are allowed."""
    if block.data.dtype.kind == "f" and not allow_non_integer:
        np.rint(block.data, out=block.data)
    block.eliminate_zeros()
    return block.astype(np.float32, copy=False)


def nearly_whole(values: NDArray) -> NDArray[np.bool_]:
    """Which values are whole numbers, except for rounding errors of float32."""
    with np.errstate(invalid="ignore"):  # infinity minus infinity
        is_whole: NDArray[np.bool_] = np.abs(values - np.rint(values)) <= ROUNDING * np.maximum(np.abs(values), 1)
    return is_whole


def log_rounded(n_rounded: int, where: str, log: Callable[[str], object]) -> None:
    """Log how many values were rounded to the nearest whole number."""
    if n_rounded:
        log(f"{where}: {n_rounded:,} counts differ from whole numbers by rounding errors only, and are rounded.")


def read_matrix(
    matrix: Any,
    where: str,
    cells: pd.Index,
    genes: pd.Index,
    mask: NDArray[np.bool_],
    allow_non_integer: bool,
    log: Callable[[str], object],
    copy: bool = True,
) -> sparse.csr_matrix:
    """The chosen genes (named `genes`) of a matrix as float32 CSR without explicit zeros, every value checked.

    Without `copy`, the result may share memory with the matrix, so it must not be changed.
    """
    if (clean := clean_counts(matrix, mask, copy)) is not None:
        return clean
    n_cells, n_read, filled, n_rounded = matrix.shape[0], 0, 0, 0
    lengths = np.zeros(n_cells, np.int64)
    # Allocate arrays of the size that the first cells suggest: joining blocks at the end would hold the counts twice.
    data, indices = np.empty(0, np.float32), np.empty(0, np.int32)
    for block in row_blocks(matrix, where, mask, ROWS_AT_ONCE):
        n_rounded += check_values(block, where, cells[n_read:], genes, allow_non_integer)
        block = as_counts(block, allow_non_integer)
        lengths[n_read : n_read + block.shape[0]] = np.diff(block.indptr)
        n_read, end = n_read + block.shape[0], filled + block.nnz
        if end > len(data):
            capacity = int(1.05 * end * n_cells / n_read)
            data, indices = _enlarged(data, filled, capacity), _enlarged(indices, filled, capacity)
        data[filled:end], indices[filled:end] = block.data, block.indices
        filled = end
    log_rounded(n_rounded, where, log)
    pointer = np.concatenate([[0], np.cumsum(lengths)])
    index_type = np.int32 if filled <= np.iinfo(np.int32).max else np.int64
    parts = (data[:filled], indices[:filled].astype(index_type, copy=False), pointer.astype(index_type))
    return sparse.csr_matrix(parts, shape=(n_cells, len(genes)))


def _enlarged(values: NDArray, filled: int, capacity: int) -> NDArray:
    larger = np.empty(capacity, values.dtype)
    larger[:filled] = values[:filled]
    return larger


def check_values(
    block: sparse.csr_matrix, where: str, cells: pd.Index, genes: pd.Index, allow_non_integer: bool
) -> int:
    """Refuse values that cannot be counts, with the cell and gene of the first; return how many need rounding."""
    data = block.data

    def refuse(is_bad: NDArray[np.bool_], what: str, advice: str) -> None:
        first = int(np.argmax(is_bad))
        cell = cells[np.searchsorted(block.indptr, first, side="right") - 1]
        gene = str(genes[block.indices[first]])
        msg = f"{where} holds {what} (cell {str(cell)!r}, gene {gene!r}: {data[first]:.6g}){advice}"
        raise ValueError(msg)

    finite = np.abs(data) < LARGEST  # False for NaN
    if not finite.all():
        refuse(~finite, "values that are not finite", ". Give raw counts; a missing value is not a zero.")
    must_be_whole = data.dtype.kind == "f" and not allow_non_integer
    lowest = -ROUNDING if must_be_whole else 0
    if data.size and data.min() < lowest:
        refuse(
            data < lowest, "negative values", ": this looks scaled or batch-corrected. Pass the layer with raw counts."
        )
    if not must_be_whole or not (is_rounded := data != np.rint(data)).any():
        return 0
    if not (is_whole := nearly_whole(data)).all():
        refuse(
            ~is_whole,
            "non-integer values",
            ": this looks log-normalised. Pass the layer with raw counts, or allow_non_integer=True for "
            "ambient-corrected counts.",
        )
    return int(is_rounded.sum())


def is_dask(matrix: Any) -> bool:
    """Whether a matrix is a dask array, or anndata's view of one."""
    return any(kind.__module__.startswith("dask.array") for kind in type(matrix).__mro__)


def by_genes(matrix: Any) -> bool:
    """Whether the chunks of a dask array are CSC matrices, so that each row is in many chunks."""
    return getattr(matrix._meta, "format", "") == "csc"


def computed(matrix: Any, where: str, slices: Iterable[slice]) -> Iterator[Any]:
    """The rows of each slice (in order, each row once); each chunk is computed once.

    The chunks are computed in the calling thread, whatever scheduler dask uses, because files are read one after the
    other in any case.
    """
    sizes = np.array(matrix.chunks[0])
    ends, current = np.cumsum(sizes), -1  # `current` is the number of the chunk in memory
    chunk: Any = None
    chunks = matrix.to_delayed()  # once, because selection of one chunk from a dask array is slow with many chunks
    for rows in slices:
        parts = []
        first, last = np.searchsorted(ends, [rows.start, min(rows.stop, ends[-1]) - 1], side="right")
        for number in range(first, last + 1):
            if number != current:
                current, chunk = number, _compute(chunks[number], where, ends[number] - sizes[number])
            start = ends[number] - sizes[number]
            parts.append(chunk[max(rows.start - start, 0) : rows.stop - start])
        join = sparse.vstack if all(map(sparse.issparse, parts)) else np.concatenate
        yield parts[0] if len(parts) == 1 else join(parts)


def _compute(row: Iterable[Any], where: str, first_row: int) -> Any:
    """Compute a row of chunks, and join them side by side."""
    parts = [checked_matrix(chunk.compute(scheduler="synchronous"), where, first_row) for chunk in row]
    if all(map(sparse.issparse, parts)):
        return sparse.hstack(parts, format="csr") if len(parts) > 1 else parts[0].tocsr()
    if all(isinstance(part, np.ndarray) for part in parts):
        return np.concatenate(parts, axis=1) if len(parts) > 1 else parts[0]
    kind = type(parts[0])
    msg = (
        f"{where} is a dask array of {kind.__module__}.{kind.__name__}. Give one whose chunks are numpy "
        "arrays or scipy CSR matrices."
    )
    raise TypeError(msg)
