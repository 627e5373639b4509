"""Counts in a file, read some cells at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scanpy import logging as logg
from scanpy import settings
from scipy import sparse
from tqdm import tqdm

from ._matrix import as_counts, check_values, from_a_file, is_by_genes, log_rounded, row_blocks, rows_of
from .fit.batches import ALL_CELLS, CELLS_AT_ONCE
from .fit.stored import BLOCK


@dataclass(frozen=True)
class DiskCounts:
    """Counts of the chosen genes (named `genes`) in a matrix on disk, named `where` in messages."""

    matrix: Any
    where: str
    cells: pd.Index
    genes: pd.Index
    mask: NDArray[np.bool_]
    allow_non_integer: bool = False

    def blocks(self, cells: slice = ALL_CELLS, *, check: bool = True) -> Iterator[sparse.csr_matrix]:
        """These cells in order as canonical float32 CSR without explicit zeros; with `check`, every value checked."""
        done, last, _ = cells.indices(len(self.cells))
        n_rounded, quiet = 0, settings.verbosity.value < 1
        with tqdm(total=last - done, desc="reading", disable=quiet, leave=False, delay=2, mininterval=0.5) as bar:
            for block in row_blocks(self.matrix, self.where, self.mask, CELLS_AT_ONCE, cells):
                if check:
                    n_rounded += check_values(block, self.where, self.cells[done:], self.genes, self.allow_non_integer)
                done += block.shape[0]
                bar.update(block.shape[0])
                yield as_counts(block, self.allow_non_integer)
        log_rounded(n_rounded, self.where)

    def read(self, blocks: NDArray[np.int64]) -> sparse.csr_matrix:
        """The cells of the blocks of neighbours with these numbers, as canonical float32 CSR without explicit zeros."""
        apart = np.diff(blocks) > 1
        full = np.arange(1, len(blocks)) % max(CELLS_AT_ONCE // BLOCK, 1) == 0  # what is read at once has all genes
        runs = np.split(blocks, np.flatnonzero(apart | full) + 1)
        slices = (slice(BLOCK * run[0], BLOCK * (run[-1] + 1)) for run in runs)
        counts = sparse.vstack(list(rows_of(self.matrix, self.where, self.mask, slices)), format="csr")
        return as_counts(counts, self.allow_non_integer)


def on_disk(matrix: Any, where: str) -> bool:
    """Whether a matrix (named `where`) is in a file and can be read from there some cells at a time."""
    if not from_a_file(matrix):
        return False
    if is_by_genes(matrix):
        logg.warning(
            f"{where} is a CSC matrix on disk, of which cells cannot be read some at a time: all its counts are read "
            "into memory. Write it as CSR once to avoid this."
        )
        return False
    return True
