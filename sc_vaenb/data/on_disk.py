"""Counts in a file: some cells are read at a time, and a fit holds only the cells that it uses.

A fit of 700 steps with 128 cells each uses 90,000 cells, however many there are. They are drawn before anything is
read. One pass checks all counts and collects these cells, and the fit is the same as with all counts in memory. A
longer fit uses one window of cells after the other: random blocks of neighbouring cells, which a disk reads fast,
shuffled together in memory.
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
from .counts import ALL_CELLS, CELLS_AT_ONCE, Counts, shuffled
from .matrix import as_counts, check_values, from_a_file, is_by_genes, log_rounded, row_blocks, rows_of

WINDOW = 131_072  # cells in memory that steps draw from; more than a fit with the default steps uses
BLOCK = 128  # neighbouring cells read together: fewer are slow to read, and more are too similar
N_PARTS = 8  # of a window. Steps wait for the first window, so it has one part; each next one has twice as many


@dataclass(frozen=True)
class MatrixOnDisk:
    """Counts of the chosen genes (named `genes`) in a matrix on disk, which messages call `where`."""

    matrix: Any
    where: str
    cells: pd.Index
    genes: pd.Index
    mask: NDArray[np.bool_]
    allow_non_integer: bool
    log: Callable[[str], object]
    progress: bool = False

    def blocks(self, cells: slice = ALL_CELLS, *, check: bool = True) -> Iterator[sparse.csr_matrix]:
        """These cells in order, as canonical float32 CSR without explicit zeros; `check` checks every value."""
        start, last, _ = cells.indices(len(self.cells))
        n_rounded, no_bar = 0, not self.progress
        with tqdm(total=last - start, desc="reading", disable=no_bar, leave=False, delay=2, mininterval=0.5) as bar:
            for block in row_blocks(self.matrix, self.where, self.mask, CELLS_AT_ONCE, cells):
                if check:
                    n_rounded += check_values(block, self.where, self.cells[start:], self.genes, self.allow_non_integer)
                start += block.shape[0]
                bar.update(block.shape[0])
                yield as_counts(block, self.allow_non_integer)
        log_rounded(n_rounded, self.where, self.log)

    def read(self, blocks: NDArray[np.int64]) -> sparse.csr_matrix:
        """The cells of the blocks with these numbers, as canonical float32 CSR without explicit zeros."""
        is_gap = np.diff(blocks) > 1
        is_full = np.arange(1, len(blocks)) % max(CELLS_AT_ONCE // BLOCK, 1) == 0  # a run has all genes in memory
        runs = np.split(blocks, np.flatnonzero(is_gap | is_full) + 1)
        slices = (slice(BLOCK * run[0], BLOCK * (run[-1] + 1)) for run in runs)
        counts = sparse.vstack(list(rows_of(self.matrix, self.where, self.mask, slices)), format="csr")
        return as_counts(counts, self.allow_non_integer)


def on_disk(matrix: Any, where: str, warn: Callable[[str], object]) -> bool:
    """Whether a matrix (named `where`) is in a file and can be read from there some cells at a time."""
    if not from_a_file(matrix):
        return False
    if is_by_genes(matrix):
        warn(
            f"{where} is a CSC matrix on disk. Cells of it cannot be read some at a time: all its counts are read into "
            "memory. Write it as CSR once to avoid this."
        )
        return False
    return True


@dataclass(kw_only=True)
class CountsOnDisk(Counts):
    """Counts on disk; `matrix` has those of the cells in `held`.

    Attributes
    ----------
    blocks
        Gives the cells of a slice in order, a few thousand at a time.
    read
        Gives the cells of the blocks with these numbers (sorted); a block is `BLOCK` neighbouring cells.
    """

    blocks: Callable[[slice], Iterator[sparse.csr_matrix]]
    read: Callable[[NDArray[np.int64]], sparse.csr_matrix]

    def __post_init__(self) -> None:
        assert self.held is not None
        self.always_held = self.held, self.matrix  # also in later windows, and when a second fit begins

    def in_order(self, device: torch.device, cells: slice = ALL_CELLS) -> Iterator[Minibatch]:
        start = cells.indices(len(self))[0]
        for block in prefetch(self.blocks(cells)):
            part = slice(start, start := start + block.shape[0])
            yield self.with_counts(block, ALL_CELLS, part, device)

    def shuffled(self, cells: NDArray[np.int64], size: int, rng: np.random.Generator) -> Iterator[NDArray[np.int64]]:
        if self.complete:
            yield from shuffled(cells, size, rng)
        size = min(size, len(cells))
        for window in prefetch(self.windows(cells, -(-max(WINDOW, 4 * size) // (BLOCK * N_PARTS)), rng)):
            order, self.held, self.matrix = window
            yield from (order[start : start + size] for start in range(0, len(order) - size + 1, size))

    def windows(self, cells: NDArray[np.int64], part: int, rng: np.random.Generator) -> Iterator[Window]:
        """Windows of random blocks, pass after pass; `part` is the number of blocks in a part of a window.

        Every window also holds the cells that are held from the start.
        """
        always_held, matrix = self.always_held
        is_training = np.zeros(len(self), dtype=bool)
        is_training[cells] = True
        random_parts, n_parts = shuffled(np.arange(-(-len(self) // BLOCK)), part, rng), 1
        while True:
            blocks = np.unique(np.concatenate(list(islice(random_parts, n_parts))))
            n_parts = min(2 * n_parts, N_PARTS)
            window_cells = (BLOCK * blocks[:, None] + np.arange(BLOCK)).ravel()
            window_cells = window_cells[window_cells < len(self)]
            held, rows = np.unique(np.concatenate([always_held, window_cells]), return_index=True)
            window_matrix = sparse.vstack([matrix, self.read(blocks)], format="csr")[rows]
            yield Window(rng.permutation(window_cells[is_training[window_cells]]), held, window_matrix)


class Window(NamedTuple):
    """Cells in the order in which steps use them, all cells in memory (sorted), and the rows of these."""

    order: NDArray[np.int64]
    held: NDArray[np.int64]
    matrix: sparse.csr_matrix


class Scan(NamedTuple):
    """Result of one pass over all cells: total counts of each cell, which genes have counts, rows of some cells."""

    depth: NDArray[np.float64]
    seen: NDArray[np.bool_]
    matrix: sparse.csr_matrix


def scan(blocks: Iterator[sparse.csr_matrix], n_genes: int, cells: NDArray[np.int64]) -> Scan:
    """Read all cells in one pass, and keep the counts of some `cells` (sorted)."""
    depth, kept_rows = [np.empty(0)], [sparse.csr_matrix((0, n_genes), dtype=np.float32)]
    seen, start = np.zeros(n_genes, dtype=bool), 0
    for block in prefetch(blocks):
        depth.append(np.asarray(block.sum(axis=1, dtype=np.float64)).ravel())
        seen[block.indices] = True
        first, last = np.searchsorted(cells, [start, start + block.shape[0]])
        kept_rows.append(block[cells[first:last] - start])
        start += block.shape[0]
    return Scan(np.concatenate(depth), seen, sparse.vstack(kept_rows, format="csr"))


T = TypeVar("T")


def prefetch(items: Iterator[T]) -> Iterator[T]:
    """The same items; another thread makes the next item while the present one is in use."""
    end = object()
    with ThreadPoolExecutor(1) as thread:
        next_item = thread.submit(next, items, end)
        while (item := next_item.result()) is not end:
            next_item = thread.submit(next, items, end)
            yield item  # type: ignore[misc]
