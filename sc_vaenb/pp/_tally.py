"""Variable genes of counts that stay on disk, computed from sums over their cells."""

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

# Genes that few cells express have scores that differ only by rounding. To choose the same genes as scanpy, variances
# are rounded as in scanpy: from sums of squares, but since scanpy 1.12.2 within batches from Welford's running sums.
WELFORD = Version(version("scanpy")) >= Version("1.12.2")


class Tally(NamedTuple):
    """Sums from one pass over counts on disk.

    `depth`: total counts of each cell. `n_cells`: cells of each batch. The others are batches x genes: the sums of the
    counts and of their squares, and mean and variance with the rounding of scanpy.
    """

    disk: MatrixOnDisk
    depth: NDArray[np.float64]
    n_cells: NDArray[np.int64]
    total: NDArray[np.float64]
    squares: NDArray[np.float64]
    mean: NDArray[np.float64]
    variance: NDArray[np.float64]


def tally(disk: MatrixOnDisk, batches: NDArray[np.int64] | None) -> Tally:
    """Go through the counts once and check every value."""
    codes = np.zeros(len(disk.cells), np.int64) if batches is None else batches
    n_cells = np.bincount(codes)
    total, squares, n_nonzero, mean, square_deviations = np.zeros((5, len(n_cells), len(disk.genes)))
    within_batches = WELFORD and batches is not None
    depth = []
    for block, positions in _positions(disk.blocks(), codes, len(disk.genes)):
        np.add.at(total.reshape(-1), positions, block.data)
        np.add.at(squares.reshape(-1), positions, block.data**2)  # rounded to float32, as scanpy does
        if within_batches:
            welford = n_nonzero.reshape(-1), mean.reshape(-1), square_deviations.reshape(-1)
            _update_welford(positions, block.data, *welford)
        depth.append(_adata.depth(block))
    n = n_cells[:, None]
    if within_batches:
        n_zero = n - n_nonzero
        variance = (square_deviations + mean * mean * n_nonzero * n_zero / n) / n * (n / (n - 1))
        mean = np.where(n_zero > 0, mean * n_nonzero / n, mean)
    else:
        mean, variance = _mean_and_variance(total, squares, n)
    return Tally(disk, np.concatenate(depth), n_cells, total, squares, mean, variance)


def _mean_and_variance(
    total: NDArray[np.float64], squares: NDArray[np.float64], n: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    mean = total / n
    return mean, (squares / n - mean**2) * (n / np.maximum(n - 1, 1))


@numba.njit
def _update_welford(
    positions: NDArray[np.int64],
    values: NDArray[np.float32],
    n: NDArray[np.float64],
    mean: NDArray[np.float64],
    square_deviations: NDArray[np.float64],
) -> None:
    """Update Welford's number, mean and sum of squared deviations at each position with the values there."""
    for i in range(len(positions)):
        k = positions[i]
        n[k] += 1
        deviation = values[i] - mean[k]
        mean[k] += deviation / n[k]
        square_deviations[k] += deviation * (values[i] - mean[k])


def expected_sd(counts: Tally, batch: int, has_counts: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The standard deviation expected of each gene with counts from its mean in a batch. ValueError if loess fails."""
    mean, variance = counts.mean[batch, has_counts], counts.variance[batch, has_counts]
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
    used_batches: NDArray[np.int64],
    has_counts: NDArray[np.bool_],
    expected: NDArray[np.float64],
    n_top_genes: int,
) -> pd.DataFrame:
    """The columns of `scanpy.pp.highly_variable_genes(flavor="seurat_v3")` for the genes with counts, in a second pass.

    `used_batches`: the batches that are not left out. `expected`: `expected_sd` of each of them.
    """
    codes = np.zeros(len(counts.depth), np.int64) if batches is None else batches
    n = counts.n_cells[used_batches][:, None]
    used_entries = np.ix_(used_batches, has_counts)
    mean = counts.mean[used_entries]
    ceiling = np.full(counts.total.shape, np.inf)
    ceiling[used_entries] = expected * np.sqrt(n) + mean
    total, squares = np.zeros((2, *counts.total.shape))
    for block, positions in _positions(counts.disk.blocks(check=False), codes, total.shape[1]):
        clipped = np.minimum(block.data, ceiling.reshape(-1)[positions])
        np.add.at(total.reshape(-1), positions, clipped)
        np.add.at(squares.reshape(-1), positions, clipped**2)
    total, squares = total[used_entries], squares[used_entries]
    scaled = (1 / ((n - 1) * np.square(expected))) * (n * np.square(mean) + squares - 2 * total * mean)

    rank = np.argsort(np.argsort(-scaled, axis=1), axis=1).astype(np.float32)
    votes = (rank < n_top_genes).sum(0)
    rank[rank >= n_top_genes] = np.nan
    median = np.ma.median(np.ma.masked_invalid(rank), axis=0).filled(np.nan)
    order = np.lexsort((-votes, np.where(np.isnan(median), np.inf, median)))
    highly_variable = np.zeros(len(order), dtype=bool)
    highly_variable[order[:n_top_genes]] = True
    means, variances = _mean_and_variance(
        counts.total[used_batches].sum(0), counts.squares[used_batches].sum(0), n.sum()
    )
    table = pd.DataFrame(
        {
            "highly_variable": highly_variable,
            "highly_variable_rank": median,
            "means": means[has_counts],
            "variances": variances[has_counts],
            "variances_norm": scaled.mean(0),
        }
    )
    if batches is not None:
        table["highly_variable_nbatches"] = votes
    return table


def _positions(
    blocks: Iterator[sparse.csr_matrix], codes: NDArray[np.int64], n_genes: int
) -> Iterator[tuple[sparse.csr_matrix, NDArray[np.int64]]]:
    """Blocks of cells, and the position of each non-zero count in a flattened table of batches x genes."""
    start = 0
    for block in prefetch(blocks):
        block_codes = codes[start : start + block.shape[0]]
        start += block.shape[0]
        yield block, np.repeat(block_codes * n_genes, np.diff(block.indptr)) + block.indices
