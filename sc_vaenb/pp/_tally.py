"""The variable genes of counts that stay on disk, from sums over their cells."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse
from skmisc.loess import loess

from .. import _adata
from .._disk import DiskCounts
from ..fit.ahead import ahead

FEWEST_POINTS = 16  # loess fails on fewer points, and below 4 of them it crashes the whole process
SPAN, DEGREE = 0.3, 2  # of the loess fit in seurat_v3


class Tally(NamedTuple):
    """What one pass over counts on disk finds: the depth of each cell; of each batch its cells and, for each gene
    (batches x genes), the sums of counts and of their squares."""

    disk: DiskCounts
    depth: NDArray[np.float64]
    n_cells: NDArray[np.int64]
    total: NDArray[np.float64]
    squares: NDArray[np.float64]

    def mean_and_variance(self, batches: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Of each gene over the cells of these batches together."""
        n = self.n_cells[batches].sum()
        mean = self.total[batches].sum(0) / n
        return mean, (self.squares[batches].sum(0) / n - mean**2) * (n / max(n - 1, 1))


def tally(disk: DiskCounts, batches: NDArray[np.int64] | None) -> Tally:
    """One pass over the counts, which checks every value."""
    codes = np.zeros(len(disk.cells), np.int64) if batches is None else batches
    n_cells = np.bincount(codes)
    total, squares = np.zeros((2, len(n_cells), len(disk.genes)))
    depth = []
    for block, place in _places(disk.blocks(), codes, len(disk.genes)):
        values = block.data.astype(np.float64)
        np.add.at(total.reshape(-1), place, values)
        np.add.at(squares.reshape(-1), place, values**2)
        depth.append(_adata.depth(block))
    return Tally(disk, np.concatenate(depth), n_cells, total, squares)


def curve(counts: Tally, batch: int, seen: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The standard deviation expected of each seen gene in a batch, given its mean: ValueError where loess fails."""
    mean, variance = (values[seen] for values in counts.mean_and_variance(np.array([batch])))
    varies = variance > 0
    if varies.sum() < FEWEST_POINTS:
        msg = f"only {varies.sum()} genes vary"
        raise ValueError(msg)
    fitted = np.zeros(len(mean))
    model = loess(np.log10(mean[varies]), np.log10(variance[varies]), span=SPAN, degree=DEGREE)
    model.fit()
    fitted[varies] = model.outputs.fitted_values
    return np.sqrt(10**fitted)


def seurat_v3(
    counts: Tally,
    batches: NDArray[np.int64] | None,
    used: NDArray[np.int64],
    seen: NDArray[np.bool_],
    expected: NDArray[np.float64],
    n_top_genes: int,
) -> pd.DataFrame:
    """What `scanpy.pp.highly_variable_genes(flavor="seurat_v3")` writes, of the seen genes, in a second pass.

    `used`: the batches with a say; `expected`: the standard deviations of their genes, from `curve`.
    """
    codes = np.zeros(len(counts.depth), np.int64) if batches is None else batches
    n = counts.n_cells[used][:, None]
    mean = counts.total[np.ix_(used, seen)] / n
    ceiling = np.full(counts.total.shape, np.inf)
    ceiling[np.ix_(used, seen)] = expected * np.sqrt(n) + mean
    total, squares = np.zeros((2, *counts.total.shape))
    for block, place in _places(counts.disk.blocks(check=False), codes, total.shape[1]):
        clipped = np.minimum(block.data, ceiling.reshape(-1)[place])
        np.add.at(total.reshape(-1), place, clipped)
        np.add.at(squares.reshape(-1), place, clipped**2)
    chosen = np.ix_(used, seen)
    scaled = (1 / ((n - 1) * np.square(expected))) * (n * np.square(mean) + squares[chosen] - 2 * total[chosen] * mean)

    rank = np.argsort(np.argsort(-scaled, axis=1), axis=1).astype(np.float32)
    votes = (rank < n_top_genes).sum(0)
    rank[rank >= n_top_genes] = np.nan
    median = np.ma.median(np.ma.masked_invalid(rank), axis=0).filled(np.nan)
    order = np.lexsort((-votes, np.where(np.isnan(median), np.inf, median)))
    highly_variable = np.zeros(len(order), dtype=bool)
    highly_variable[order[:n_top_genes]] = True
    means, variances = counts.mean_and_variance(used)
    table = pd.DataFrame(
        {
            "highly_variable": highly_variable,
            "highly_variable_rank": median,
            "means": means[seen],
            "variances": variances[seen],
            "variances_norm": scaled.mean(0),
        }
    )
    if batches is not None:
        table["highly_variable_nbatches"] = votes
    return table


def _places(
    blocks: Iterator[sparse.csr_matrix], codes: NDArray[np.int64], n_genes: int
) -> Iterator[tuple[sparse.csr_matrix, NDArray[np.int64]]]:
    """Blocks of cells, and where each non-zero belongs in a flattened table of batches x genes."""
    done = 0
    for block in ahead(blocks):
        here = codes[done : done + block.shape[0]]
        done += block.shape[0]
        yield block, np.repeat(here * n_genes, np.diff(block.indptr)) + block.indices
