"""Counts that stay on disk, of which a fit holds the cells that it sees.

A fit of 700 steps of 128 cells sees 90,000, however many there are. Chance draws them before anything is read, so that
the one pass which checks all counts collects them, and the fit is the same as if all were in memory. Longer fits see
window after window of cells: random blocks of neighbours, which a disk reads fast, shuffled together in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse

from ..model.minibatch import Minibatch
from .batches import ALL_CELLS, Counts, checksum, evenly, minibatch_of, shuffled
from .distributed import Processes
from .loop import FitConfig, split_cells
from .overlap import sample_per_batch
from .prefetch import prefetch

WINDOW = 131_072  # cells held for steps to draw from; more than a fit with the default steps sees
BLOCK = 128  # neighbouring cells read together: few would be slow to read, many would be too much alike
PARTS = 8  # of a window: the first, for which steps have to wait, has one, and each that follows twice as many


@dataclass(kw_only=True)
class StoredCounts(Counts):
    """Counts on disk, and in `matrix` those of the cells held.

    Attributes
    ----------
    held
        The cells of the rows of `matrix`, sorted.
    complete
        Whether these are all that the fit will see.
    blocks
        The cells of a slice in order, some thousand at a time.
    read
        The cells of the blocks of neighbours with these numbers (sorted), `BLOCK` cells each.
    """

    held: NDArray[np.int64]
    complete: bool
    blocks: Callable[[slice], Iterator[sparse.csr_matrix]]
    read: Callable[[NDArray[np.int64]], sparse.csr_matrix]

    def minibatch(self, cells: NDArray[np.integer] | slice, device: torch.device) -> Minibatch:
        chosen = np.arange(len(self))[cells] if isinstance(cells, slice) else cells
        side_inputs = {name: values[chosen] for name, values in self.side_inputs.items()}
        return minibatch_of(
            self.matrix, self.rows(chosen), self.size_factor[chosen], self.condition[chosen], side_inputs, device
        )

    def in_order(self, device: torch.device, cells: slice = ALL_CELLS) -> Iterator[Minibatch]:
        done = cells.indices(len(self))[0]
        for block in prefetch(self.blocks(cells)):
            here = slice(done, done := done + block.shape[0])
            side_inputs = {name: values[here] for name, values in self.side_inputs.items()}
            yield minibatch_of(block, ALL_CELLS, self.size_factor[here], self.condition[here], side_inputs, device)

    def shuffled(self, cells: NDArray[np.int64], size: int, rng: np.random.Generator) -> Iterator[NDArray[np.int64]]:
        if self.complete:
            yield from shuffled(cells, size, rng)
        size = min(size, len(cells))
        for window in prefetch(self.windows(cells, -(-max(WINDOW, 4 * size) // (BLOCK * PARTS)), rng)):
            order, self.held, self.matrix = window
            yield from (order[start : start + size] for start in range(0, len(order) - size + 1, size))

    def rows(self, cells: NDArray[np.integer]) -> NDArray[np.integer]:
        at = np.searchsorted(self.held, cells)
        if not np.array_equal(self.held[np.minimum(at, len(self.held) - 1)], cells):
            msg = "counts of cells on disk are asked for that are not held in memory"
            raise LookupError(msg)
        return at

    def windows(self, cells: NDArray[np.int64], part: int, rng: np.random.Generator) -> Iterator[Window]:
        """Random blocks, pass after pass: their cells in random order; with those held from the start, and counts."""
        kept, matrix = self.held, self.matrix
        fitted = np.zeros(len(self), dtype=bool)
        fitted[cells] = True
        drawn, parts = shuffled(np.arange(-(-len(self) // BLOCK)), part, rng), 1
        while True:
            blocks = np.unique(np.concatenate(list(islice(drawn, parts))))
            parts = min(2 * parts, PARTS)
            here = (BLOCK * blocks[:, None] + np.arange(BLOCK)).ravel()
            here = here[here < len(self)]
            held, first = np.unique(np.concatenate([kept, here]), return_index=True)
            window = sparse.vstack([matrix, self.read(blocks)], format="csr")[first]
            yield Window(rng.permutation(here[fitted[here]]), held, window)


class Window(NamedTuple):
    """Cells in the order in which steps see them, and the rows of all cells held, which are sorted."""

    order: NDArray[np.int64]
    held: NDArray[np.int64]
    matrix: sparse.csr_matrix


def cells_seen(condition: NDArray[np.int64], options: FitConfig, seed: int) -> tuple[NDArray[np.int64], bool]:
    """The cells that a fit of these batches needs in memory, sorted, and whether that is all it will see.

    They are drawn here as they will be by the fit, `find_overlap` and `refit_dispersion`.
    """
    train, validation, first, rng = split_cells(condition, options, seed)
    parts = [validation, first, evenly(len(condition)), *sample_per_batch(condition)]
    complete = min(options.n_steps * options.batch_size, len(train)) <= WINDOW
    if complete:
        parts += islice(shuffled(train, options.batch_size, rng), options.n_steps)
    return np.unique(np.concatenate(parts)), complete


class Scan(NamedTuple):
    """What one pass over all cells finds: counts of each cell, genes that have any, and the rows of some cells."""

    depth: NDArray[np.float64]
    seen: NDArray[np.bool_]
    matrix: sparse.csr_matrix


def scan(blocks: Iterator[sparse.csr_matrix], n_genes: int, cells: NDArray[np.int64]) -> Scan:
    """One pass over all cells, of which the counts of some (sorted) are kept."""
    depth, kept = [np.empty(0)], [sparse.csr_matrix((0, n_genes), dtype=np.float32)]
    seen, done = np.zeros(n_genes, dtype=bool), 0
    for block in prefetch(blocks):
        depth.append(np.asarray(block.sum(axis=1, dtype=np.float64)).ravel())
        seen[block.indices] = True
        first, last = np.searchsorted(cells, [done, done + block.shape[0]])
        kept.append(block[cells[first:last] - done])
        done += block.shape[0]
    return Scan(np.concatenate(depth), seen, sparse.vstack(kept, format="csr"))


def scan_together(
    processes: Processes,
    blocks: Callable[[slice], Iterator[sparse.csr_matrix]],
    n_genes: int,
    n_cells: int,
    cells: NDArray[np.int64],
) -> Scan:
    """The same, for which each process goes through its part of the cells; all have what all of them find."""
    processes.check_same({"counts": [n_cells, n_genes], "cells that the fit sees": [len(cells), checksum(cells)]})
    part = processes.part(n_cells)
    here = cells[np.searchsorted(cells, part.start) : np.searchsorted(cells, part.stop)] - part.start
    found = processes.each(lambda: scan(blocks(part), n_genes, here))
    if processes.size == 1:
        return found
    seen: NDArray[np.bool_] = np.any(processes.join(found.seen).reshape(processes.size, n_genes), axis=0)
    lengths, gene, count = map(processes.join, (np.diff(found.matrix.indptr), found.matrix.indices, found.matrix.data))
    pointer = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    matrix = sparse.csr_matrix((count, gene, pointer), shape=(len(cells), n_genes))
    return Scan(processes.join(found.depth), seen, matrix)
