"""Counts of cells, handed out as minibatches: one interface, wherever the counts are.

`Counts` has them in memory; `on_disk.CountsOnDisk` holds some cells and reads the others, `on_device.DeviceCounts` has
them on a CUDA device too. `minibatch`, `in_order`, `shuffled` and `subset` mean the same for each.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from ..model.minibatch import Minibatch
from ..model.nb_compiled import cached_njit

CHECKED = 2**20  # counts with a checksum of their own
CELLS_AT_ONCE = 4096  # in a pass over all cells
ALL_CELLS = slice(None)
EVENLY = 512  # cells at most that stand for all


@dataclass
class Counts:
    """What a fit needs to know of the cells.

    Attributes
    ----------
    matrix
        Counts (cells x genes), float32, no explicit zeros.
    size_factor
        Positive, float32, one per cell, with mean 1 over the fitted cells.
    batch_index
        Batch codes, int64, one per cell (zeros if there is but one kind).
    side_inputs
        What else is known of each cell, by name: arrays with one row per cell.
    held
        The cells of the rows of `matrix`, sorted; None if it has all cells.
    complete
        Whether `matrix` has all cells that a fit will see.
    """

    matrix: csr_matrix
    size_factor: NDArray[np.float32]
    batch_index: NDArray[np.int64]
    side_inputs: dict[str, NDArray] = field(default_factory=dict)
    held: NDArray[np.int64] | None = None
    complete: bool = True

    def __len__(self) -> int:
        return len(self.batch_index)

    def fingerprint(self) -> dict[str, list[int]]:
        """Numbers that tell these cells from any others, in a fraction of the time that reading them takes.

        Of gigabytes of counts a checksum would take seconds. So a million of them, evenly spread, have one; and there
        are the sums of all counts (as bits, so that they are exact) and of their genes, which a change of any moves.
        """
        matrix, bits = self.matrix, self.matrix.data.view(np.uint32)
        sums = [int(bits.sum(dtype=np.uint64)), int(matrix.indices.sum(dtype=np.int64))]
        every = slice(None, None, matrix.nnz // CHECKED + 1)
        parts = matrix.indptr.astype(np.int64), matrix.indices[every].astype(np.int64), bits[every]
        return {
            "counts": [*matrix.shape, *sums, checksum(*parts)],
            "size factors": [checksum(self.size_factor)],
            "batches": [checksum(self.batch_index)],
            **{name: [checksum(values)] for name, values in self.side_inputs.items()},
        }

    def minibatch(self, cells: NDArray[np.integer] | slice, device: torch.device) -> Minibatch:
        """The chosen cells, on the device."""
        side_inputs = {name: values[cells] for name, values in self.side_inputs.items()}
        return minibatch_of(
            self.matrix, self.rows(cells), self.size_factor[cells], self.batch_index[cells], side_inputs, device
        )

    def subset(self, cells: NDArray[np.integer] | slice) -> Counts:
        """The chosen cells alone."""
        side_inputs = {name: values[cells] for name, values in self.side_inputs.items()}
        return Counts(self.matrix[self.rows(cells)], self.size_factor[cells], self.batch_index[cells], side_inputs)

    def in_order(self, device: torch.device, cells: slice = ALL_CELLS) -> Iterator[Minibatch]:
        """These cells (neighbours), some at a time."""
        first, last, _ = cells.indices(len(self))
        for start in range(first, last, CELLS_AT_ONCE):
            yield self.minibatch(slice(start, min(start + CELLS_AT_ONCE, last)), device)

    def shuffled(self, cells: NDArray[np.int64], size: int, rng: np.random.Generator) -> Iterator[NDArray[np.int64]]:
        """Endless minibatches of these cells."""
        return shuffled(cells, size, rng)

    def rows(self, cells: NDArray[np.integer] | slice) -> NDArray[np.integer] | slice:
        """The rows of the matrix that these cells have; LookupError for cells that are not held in memory."""
        if self.held is None:
            return cells
        wanted = np.arange(len(self))[cells]
        at = np.searchsorted(self.held, wanted)
        if not np.array_equal(self.held[np.minimum(at, len(self.held) - 1)], wanted):
            msg = "counts of cells on disk are asked for that are not held in memory"
            raise LookupError(msg)
        return at

    def typical_depth(self) -> float:
        """The median of the cells' counts, of at most 512 cells."""
        cells = self.matrix[self.rows(evenly(len(self)))]
        return float(np.median(np.asarray(cells.sum(1, dtype=np.float64))))


def minibatch_of(
    matrix: csr_matrix,
    rows: NDArray[np.integer] | slice,
    size_factor: NDArray[np.float32],
    batch_index: NDArray[np.int64],
    side_inputs: dict[str, NDArray],
    device: torch.device,
) -> Minibatch:
    """Rows of a matrix, with what goes with each of them, on the device."""
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


def checksum(*arrays: NDArray) -> int:
    value = 0
    for array in arrays:
        value = zlib.crc32(np.ascontiguousarray(array).view(np.uint8).data, value)
    return value


def evenly(n_cells: int) -> NDArray[np.int64]:
    """At most 512 cells, spread over all."""
    return np.arange(0, n_cells, -(-n_cells // EVENLY))


def cells_by_code(codes: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """The cells of each code that occurs, in the order of the codes; one sort, however many codes there are."""
    order = np.argsort(codes, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(codes[order])) + 1) if len(codes) else []


def shuffled(cells: NDArray[np.int64], size: int, rng: np.random.Generator) -> Iterator[NDArray[np.int64]]:
    """Endless minibatches of exactly `size` cells: pass after pass in a new order, joined without a short last one."""
    size = min(size, len(cells))
    waiting = rng.permutation(cells)
    while True:
        if len(waiting) < size:
            waiting = np.concatenate([waiting, rng.permutation(cells)])
        yield waiting[:size]
        waiting = waiting[size:]


Entries = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]


def csr_rows(matrix: csr_matrix, cells: NDArray[np.integer] | slice) -> Entries:
    """Row (in the order of `cells`), gene and count of every non-zero of these cells."""
    if isinstance(cells, slice):  # neighbours, whose entries lie together
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
