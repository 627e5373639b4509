"""Counts in a file: read some cells at a time, and a fit holds only the cells that it sees.

A fit of 700 steps of 128 cells sees 90,000, however many there are. They are drawn before anything is read, so that
the one pass which checks all counts collects them, and the fit is the same as if all were in memory. Longer fits see
window after window of cells: random blocks of neighbours, which a disk reads fast, shuffled together in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy import sparse
from tqdm import tqdm

from ..model.minibatch import Minibatch
from .counts import ALL_CELLS, CELLS_AT_ONCE, Counts, minibatch_of, shuffled
from .matrix import as_counts, check_values, from_a_file, is_by_genes, log_rounded, row_blocks, rows_of

WINDOW = 131_072  # cells held for steps to draw from; more than a fit with the default steps sees
BLOCK = 128  # neighbouring cells read together: few would be slow to read, many would be too much alike
PARTS = 8  # of a window: the first, for which steps have to wait, has one, and each that follows twice as many


@dataclass(frozen=True)
class MatrixOnDisk:
    """Counts of the chosen genes (named `genes`) in a matrix on disk, named `where` in messages."""

    matrix: Any
    where: str
    cells: pd.Index
    genes: pd.Index
    mask: NDArray[np.bool_]
    allow_non_integer: bool
    log: Callable[[str], object]
    progress: bool = False

    def blocks(self, cells: slice = ALL_CELLS, *, check: bool = True) -> Iterator[sparse.csr_matrix]:
        """These cells in order as canonical float32 CSR without explicit zeros; with `check`, every value checked."""
        done, last, _ = cells.indices(len(self.cells))
        n_rounded, hidden = 0, not self.progress
        with tqdm(total=last - done, desc="reading", disable=hidden, leave=False, delay=2, mininterval=0.5) as bar:
            for block in row_blocks(self.matrix, self.where, self.mask, CELLS_AT_ONCE, cells):
                if check:
                    n_rounded += check_values(block, self.where, self.cells[done:], self.genes, self.allow_non_integer)
                done += block.shape[0]
                bar.update(block.shape[0])
                yield as_counts(block, self.allow_non_integer)
        log_rounded(n_rounded, self.where, self.log)

    def read(self, blocks: NDArray[np.int64]) -> sparse.csr_matrix:
        """The cells of the blocks of neighbours with these numbers, as canonical float32 CSR without explicit zeros."""
        apart = np.diff(blocks) > 1
        full = np.arange(1, len(blocks)) % max(CELLS_AT_ONCE // BLOCK, 1) == 0  # what is read at once has all genes
        runs = np.split(blocks, np.flatnonzero(apart | full) + 1)
        slices = (slice(BLOCK * run[0], BLOCK * (run[-1] + 1)) for run in runs)
        counts = sparse.vstack(list(rows_of(self.matrix, self.where, self.mask, slices)), format="csr")
        return as_counts(counts, self.allow_non_integer)


def on_disk(matrix: Any, where: str, warn: Callable[[str], object]) -> bool:
    """Whether a matrix (named `where`) is in a file and can be read from there some cells at a time."""
    if not from_a_file(matrix):
        return False
    if is_by_genes(matrix):
        warn(
            f"{where} is a CSC matrix on disk, of which cells cannot be read some at a time: all its counts are read "
            "into memory. Write it as CSR once to avoid this."
        )
        return False
    return True


@dataclass(kw_only=True)
class CountsOnDisk(Counts):
    """Counts on disk, of which `matrix` has the cells in `held`.

    Attributes
    ----------
    blocks
        The cells of a slice in order, some thousand at a time.
    read
        The cells of the blocks of neighbours with these numbers (sorted), `BLOCK` cells each.
    """

    blocks: Callable[[slice], Iterator[sparse.csr_matrix]]
    read: Callable[[NDArray[np.int64]], sparse.csr_matrix]

    def in_order(self, device: torch.device, cells: slice = ALL_CELLS) -> Iterator[Minibatch]:
        done = cells.indices(len(self))[0]
        for block in prefetch(self.blocks(cells)):
            here = slice(done, done := done + block.shape[0])
            side_inputs = {name: values[here] for name, values in self.side_inputs.items()}
            yield minibatch_of(block, ALL_CELLS, self.size_factor[here], self.batch_index[here], side_inputs, device)

    def shuffled(self, cells: NDArray[np.int64], size: int, rng: np.random.Generator) -> Iterator[NDArray[np.int64]]:
        if self.complete:
            yield from shuffled(cells, size, rng)
        size = min(size, len(cells))
        for window in prefetch(self.windows(cells, -(-max(WINDOW, 4 * size) // (BLOCK * PARTS)), rng)):
            order, self.held, self.matrix = window
            yield from (order[start : start + size] for start in range(0, len(order) - size + 1, size))

    def windows(self, cells: NDArray[np.int64], part: int, rng: np.random.Generator) -> Iterator[Window]:
        """Random blocks, pass after pass: their cells in random order; with those held from the start, and counts."""
        assert self.held is not None
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


T = TypeVar("T")


def prefetch(items: Iterator[T]) -> Iterator[T]:
    """The same items, each made in a thread of its own while the one before is in use."""
    end = object()
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, items, end)
        while (item := coming.result()) is not end:
            coming = thread.submit(next, items, end)
            yield item  # type: ignore[misc]
