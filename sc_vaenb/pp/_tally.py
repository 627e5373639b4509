"""The variable genes of counts that stay on disk, from sums over their cells."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version
from typing import NamedTuple

import numba
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from packaging.version import Version
from scipy import sparse
from skmisc.loess import loess

from .. import _adata
from ..data.on_disk import MatrixOnDisk, prefetch

MIN_POINTS_FOR_LOESS = 16  # loess fails on fewer points, and below 4 of them it crashes the whole process
SPAN, DEGREE = 0.3, 2  # of the loess fit in seurat_v3

# Genes that few cells have are alike to the last bit but one, so that which is chosen depends on how scanpy rounds: it
# takes variances from sums of squares, but since 1.12.2 those within batches from Welford's running sums.
WELFORD = Version(version("scanpy")) >= Version("1.12.2")


class Tally(NamedTuple):
    """What one pass over counts on disk finds: the depth of each cell; of each batch its cells and, for each gene
    (batches x genes), the sums of counts and of their squares, and mean and variance as scanpy rounds them."""

    disk: MatrixOnDisk
    depth: NDArray[np.float64]
    n_cells: NDArray[np.int64]
    total: NDArray[np.float64]
    squares: NDArray[np.float64]
    mean: NDArray[np.float64]
    variance: NDArray[np.float64]


def tally(disk: MatrixOnDisk, batches: NDArray[np.int64] | None) -> Tally:
    """One pass over the counts, which checks every value."""
    codes = np.zeros(len(disk.cells), np.int64) if batches is None else batches
    n_cells = np.bincount(codes)
    total, squares, non_zero, mean, around = np.zeros((5, len(n_cells), len(disk.genes)))
    within_batches = WELFORD and batches is not None
    depth = []
    for block, place in _places(disk.blocks(), codes, len(disk.genes)):
        np.add.at(total.reshape(-1), place, block.data)
        np.add.at(squares.reshape(-1), place, block.data**2)  # rounded to float32, as scanpy does
        if within_batches:
            _follow(place, block.data, non_zero.reshape(-1), mean.reshape(-1), around.reshape(-1))
        depth.append(_adata.depth(block))
    n = n_cells[:, None]
    if within_batches:
        zero = n - non_zero
        variance = (around + mean * mean * non_zero * zero / n) / n * (n / (n - 1))
        mean = np.where(zero > 0, mean * non_zero / n, mean)
    else:
        mean, variance = _mean_and_variance(total, squares, n)
    return Tally(disk, np.concatenate(depth), n_cells, total, squares, mean, variance)


def _mean_and_variance(
    total: NDArray[np.float64], squares: NDArray[np.float64], n: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    mean = total / n
    return mean, (squares / n - mean**2) * (n / np.maximum(n - 1, 1))


@numba.njit
def _follow(
    place: NDArray[np.int64],
    value: NDArray[np.float32],
    n: NDArray[np.float64],
    mean: NDArray[np.float64],
    around: NDArray[np.float64],
) -> None:
    """Go on with Welford's number, mean, and sum of squares around it, of the values at each place."""
    for i in range(len(place)):
        at = place[i]
        n[at] += 1
        off = value[i] - mean[at]
        mean[at] += off / n[at]
        around[at] += off * (value[i] - mean[at])


def curve(counts: Tally, batch: int, seen: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The standard deviation expected of each seen gene in a batch, given its mean: ValueError where loess fails."""
    mean, variance = counts.mean[batch, seen], counts.variance[batch, seen]
    varies = variance > 0
    if varies.sum() < MIN_POINTS_FOR_LOESS:
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
    mean = counts.mean[np.ix_(used, seen)]
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
    means, variances = _mean_and_variance(counts.total[used].sum(0), counts.squares[used].sum(0), n.sum())
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
    for block in prefetch(blocks):
        here = codes[done : done + block.shape[0]]
        done += block.shape[0]
        yield block, np.repeat(here * n_genes, np.diff(block.indptr)) + block.indices
