"""Counts of cells as minibatches: one interface for counts in memory, on disk and on a device.

`Counts` holds all cells in memory. `on_disk.CountsOnDisk` holds some cells and reads the others from a file.
`on_device.DeviceCounts` also holds them on a CUDA device. `minibatch`, `in_order`, `shuffled` and `subset` do the same
in each of these classes.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from ..model.compiled import cached_njit
from ..model.minibatch import Minibatch

N_CHECKSUM = 2**20  # about so many counts, evenly spread, go into the checksum
CELLS_AT_ONCE = 4096  # in a pass over all cells
CELLS_WITH_PEAKS_AT_ONCE = 512  # which have many more non-zeros
ALL_CELLS = slice(None)
MAX_SPREAD_CELLS = 512  # cells at most that represent all cells


@dataclass
class Counts:
    """The data of a fit: counts, size factors, batches and side inputs of the cells.

    Attributes
    ----------
    matrix
        Counts (cells x genes), float32, no explicit zeros.
    size_factor
        Positive, float32, one per cell; the mean over the fitted cells is 1.
    batch_index
        Batch codes, int64, one per cell (zeros if there is only one batch).
    side_inputs
        Other inputs by name (covariates, proteins): arrays with one row per cell.
    held
        The cells that `matrix` has rows for, sorted; None if it has all cells.
    complete
        Whether `matrix` has all cells that the fit uses.
    peaks
        Counts in peaks (cells x peaks) of all cells, as `matrix`; None if there are none.
    """

    matrix: csr_matrix
    size_factor: NDArray[np.float32]
    batch_index: NDArray[np.int64]
    side_inputs: dict[str, NDArray] = field(default_factory=dict)
    held: NDArray[np.int64] | None = None
    complete: bool = True
    peaks: csr_matrix | None = None

    def __len__(self) -> int:
        return len(self.batch_index)

    def fingerprint(self) -> dict[str, list[int]]:
        """Numbers that identify these data; they take much less time to compute than the data take to read."""
        return {
            "counts": fingerprint(self.matrix),
            "size factors": [checksum(self.size_factor)],
            "batches": [checksum(self.batch_index)],
            **{name: [checksum(values)] for name, values in self.side_inputs.items()},
            **({} if self.peaks is None else {"peaks": fingerprint(self.peaks)}),
        }

    def minibatch(self, cells: NDArray[np.integer] | slice, device: torch.device) -> Minibatch:
        """The minibatch of these cells, on the device."""
        return self.with_counts(self.matrix, self.rows(cells), cells, device)

    def with_counts(
        self,
        matrix: csr_matrix,
        rows: NDArray[np.integer] | slice,
        cells: NDArray[np.integer] | slice,
        device: torch.device,
    ) -> Minibatch:
        """The minibatch of these cells, whose counts are these rows of a matrix."""
        side_inputs = {name: values[cells] for name, values in self.side_inputs.items()}
        size_factor, batch_index = self.size_factor[cells], self.batch_index[cells]
        batch = minibatch_of(matrix, rows, size_factor, batch_index, side_inputs, device)
        if self.peaks is not None:
            ones = np.ones_like(size_factor)
            batch.peaks = minibatch_of(self.peaks, cells, ones, batch_index, {}, device)
        return batch

    def subset(self, cells: NDArray[np.integer] | slice) -> Counts:
        """The counts of these cells only."""
        side_inputs = {name: values[cells] for name, values in self.side_inputs.items()}
        peaks = None if self.peaks is None else self.peaks[cells]
        return Counts(
            self.matrix[self.rows(cells)], self.size_factor[cells], self.batch_index[cells], side_inputs, peaks=peaks
        )

    def without(self, *, genes: bool, peaks: bool) -> Counts:
        """The same cells without their counts in genes or in peaks, as if these had not been measured."""
        matrix = csr_matrix(self.matrix.shape, dtype=np.float32) if genes else self.matrix
        return replace(self, matrix=matrix, peaks=None if peaks else self.peaks)

    def in_order(self, device: torch.device, cells: slice = ALL_CELLS) -> Iterator[Minibatch]:
        """Minibatches of a slice of cells, in order."""
        first, last, _ = cells.indices(len(self))
        size = CELLS_AT_ONCE if self.peaks is None else CELLS_WITH_PEAKS_AT_ONCE
        for start in range(first, last, size):
            yield self.minibatch(slice(start, min(start + size, last)), device)

    def shuffled(self, cells: NDArray[np.int64], size: int, rng: np.random.Generator) -> Iterator[NDArray[np.int64]]:
        """Minibatches of these cells, without end."""
        return shuffled(cells, size, rng)

    def rows(self, cells: NDArray[np.integer] | slice) -> NDArray[np.integer] | slice:
        """The rows of these cells in the matrix; LookupError for cells that are not in memory."""
        if self.held is None:
            return cells
        requested = np.arange(len(self))[cells] if isinstance(cells, slice) else cells
        rows = np.searchsorted(self.held, requested)
        if not np.array_equal(self.held[np.minimum(rows, len(self.held) - 1)], requested):
            msg = "the counts of some requested cells are on disk and not in memory"
            raise LookupError(msg)
        return rows

    def typical_depth(self) -> float:
        """The median total count per cell, of at most 512 cells."""
        cells = self.matrix[self.rows(evenly_spread(len(self)))]
        return float(np.median(np.asarray(cells.sum(1, dtype=np.float64))))


def minibatch_of(
    matrix: csr_matrix,
    rows: NDArray[np.integer] | slice,
    size_factor: NDArray[np.float32],
    batch_index: NDArray[np.int64],
    side_inputs: dict[str, NDArray],
    device: torch.device,
) -> Minibatch:
    """The minibatch of these rows of a matrix and of the other data of their cells, on the device."""
    row, gene, count = csr_rows(matrix, rows)

    def to_device(values: NDArray) -> torch.Tensor:
        return torch.from_numpy(values).to(device)

    return Minibatch(
        row=to_device(row),
        gene=to_device(gene),
        count=to_device(count),
        size_factor=to_device(size_factor),
        batch_index=to_device(batch_index),
        n_genes=matrix.shape[1],
        side_inputs={name: to_device(values) for name, values in side_inputs.items()},
    )


def fingerprint(matrix: csr_matrix) -> list[int]:
    """Numbers that identify float32 counts.

    A checksum of gigabytes of counts would take seconds. So the checksum is of a million counts, evenly spread. The
    sums of all counts (as bits, so they are exact) and of all column indices detect a change of any other count.
    """
    bits = matrix.data.view(np.uint32)
    sums = [int(bits.sum(dtype=np.uint64)), int(matrix.indices.sum(dtype=np.int64))]
    spread = slice(None, None, matrix.nnz // N_CHECKSUM + 1)
    parts = matrix.indptr.astype(np.int64), matrix.indices[spread].astype(np.int64), bits[spread]
    return [*matrix.shape, *sums, checksum(*parts)]


def checksum(*arrays: NDArray) -> int:
    value = 0
    for array in arrays:
        value = zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data, value)
    return value


def evenly_spread(n_cells: int) -> NDArray[np.int64]:
    """At most 512 cells, evenly spread over all."""
    return np.arange(0, n_cells, -(-n_cells // MAX_SPREAD_CELLS))


def cells_by_code(codes: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """The cells of each code that occurs, in the order of the codes; one sort, however many codes there are."""
    order = np.argsort(codes, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(codes[order])) + 1) if len(codes) else []


def shuffled(cells: NDArray[np.int64], size: int, rng: np.random.Generator) -> Iterator[NDArray[np.int64]]:
    """Minibatches of exactly `size` cells, without end: every pass has a new order, and no pass ends in a short one."""
    size = min(size, len(cells))
    queue = rng.permutation(cells)
    while True:
        if len(queue) < size:
            queue = np.concatenate([queue, rng.permutation(cells)])
        yield queue[:size]
        queue = queue[size:]


Entries = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]


def csr_rows(matrix: csr_matrix, cells: NDArray[np.integer] | slice) -> Entries:
    """Row (in the order of `cells`), gene and count of every non-zero count of these cells."""
    if isinstance(cells, slice):  # the entries of neighbouring rows are contiguous
        part = matrix[cells]
        return np.repeat(np.arange(part.shape[0]), np.diff(part.indptr)), part.indices.astype(np.int64), part.data
    return _gather(matrix.indptr, matrix.indices, matrix.data, cells)


@cached_njit
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
