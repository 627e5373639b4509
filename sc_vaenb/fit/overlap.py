"""Find which batches have kinds of cells in common, from the counts alone.

If it is trained for long enough, a conditional model explains every difference between batches by the batch, even the
difference between an early and a late embryo. If two sets of batches have no kind of cell in common, the data do not
say how much of their difference is technical. Such sets become different groups: batch effects are estimated within
each group, and the difference between the groups is kept.

On the log scale, a batch effect adds about the same value to a gene in all cells of the batch. So it cancels in the
*contrast* of two clusters of one batch (the difference of their means). Batches that hold the same two kinds have the
same contrast, however far apart the batches are. Each batch is clustered alone. The cells of each cluster are split
into two halves, and squared lengths and products of contrasts are computed across the halves. The noise of the halves
is independent, so on average it adds nothing (Walther et al. 2016, NeuroImage). Division by these lengths corrects a
correlation for the reliability of both sides (Spearman 1904).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from scipy.cluster.hierarchy import DisjointSet
from sklearn.utils.extmath import randomized_svd

from ..data.counts import Counts
from ..metrics.clustering import leiden
from ..metrics.neighbors import fuzzy_graph, knn
from .kinds import Kinds, shared_fractions

# Which cells, batches and genes are compared
MAX_CELLS, MIN_CELLS_DRAWN = 6_000, 60  # of all batches together; of each compared batch at least (or all its cells)
MAX_GENES = 2_000  # the genes that vary most
MAX_BATCHES = 64  # the largest are compared; each smaller one joins the batch with the closest mean
MIN_CELLS_PER_BATCH = 20  # a smaller batch is not compared: it has too few cells to show kinds
N_CELLS_OF_MEAN = 20  # cells that give the mean of a batch that is not compared
N_COMPONENTS, N_NEIGHBORS = 30, 15
MIN_CELLS_PER_CLUSTER, MIN_SHARE_PER_CLUSTER = 10, 0.04


@dataclass(frozen=True)
class Overlap:
    """Which batches have kinds of cells in common.

    `share` (compared x compared): fraction of the cells of the first batch whose kind the second batch has too; NaN
    where the two batches are linked only through others. `group`: the group of each batch, 0 for that of the first
    batch; batches of one group have kinds of cells in common, directly or through others. `compared`: the batches that
    were compared with each other; each other batch joined the closest of these. `kinds`: the clusters of each of them.
    """

    share: NDArray[np.float64]
    group: NDArray[np.int64]
    compared: NDArray[np.int64]
    kinds: Mapping[int, Kinds] = field(default_factory=dict)

    def code(self) -> NDArray[np.int64]:
        """Number the batches of each group from 0. A model gets these codes, so it cannot tell the groups apart."""
        return np.array([(self.group[:b] == g).sum() for b, g in enumerate(self.group)])

    def in_one_group(self) -> Overlap:
        """The same overlap with all batches in one group, whatever the counts say."""
        return replace(self, group=np.zeros_like(self.group))


def sample_per_batch(batch_index: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Draw cells of each batch to compare; only a few of a batch that is not compared."""
    sizes = np.bincount(batch_index)
    if len(sizes) < 2:
        return []
    rng = np.random.default_rng(0)
    is_compared = np.isin(np.arange(len(sizes)), _batches_to_compare(sizes))
    max_cells = max(MAX_CELLS // max(is_compared.sum(), 1), MIN_CELLS_DRAWN)
    shuffled = rng.permutation(len(batch_index))
    cells_of = np.split(shuffled[np.argsort(batch_index[shuffled], kind="stable")], np.cumsum(sizes)[:-1])
    return [
        cells[: max_cells if large else N_CELLS_OF_MEAN] for cells, large in zip(cells_of, is_compared, strict=True)
    ]


def _batches_to_compare(sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """The batches that are large enough, the largest first."""
    largest = np.argsort(-sizes, kind="stable")[:MAX_BATCHES]
    return largest[sizes[largest] >= MIN_CELLS_PER_BATCH]


def find_overlap(counts: Counts) -> Overlap:
    """Link batches that have a kind of cell in common, and group those that are linked, directly or through others."""
    batch_index = counts.batch_index
    n_batches = int(batch_index.max()) + 1
    cells = sample_per_batch(batch_index)
    if not cells:
        return nothing_to_compare(n_batches)
    expression = _log_expression(counts, np.concatenate(cells))
    rows = np.split(np.arange(len(expression.log_depth)), np.cumsum([len(drawn) for drawn in cells])[:-1])
    compared = _batches_to_compare(np.bincount(batch_index))
    if not len(compared):  # every batch has too few cells
        return nothing_to_compare(n_batches)
    kinds = _cluster_batches(
        expression, [rows[b] for b in compared], [cells[b] for b in compared], np.random.default_rng(0)
    )
    share, linked = np.full((len(compared), len(compared)), np.nan), DisjointSet(range(n_batches))
    np.fill_diagonal(share, 1.0)
    for second in range(len(compared)):
        for first in range(second):
            if not linked.connected(compared[first], compared[second]):
                share[first, second], share[second, first] = shared_fractions(kinds[first], kinds[second])
                if share[first, second] > 0:
                    linked.merge(compared[first], compared[second])
    others = np.setdiff1d(np.arange(n_batches), compared)
    if len(others):
        nearest = closest(expression.values, [rows[b] for b in others], np.stack([kind.mean for kind in kinds]))
        for b, k in zip(others, nearest, strict=True):
            linked.merge(b, compared[k])
    group = _numbered(linked)
    order = np.argsort(compared)
    kinds_by_batch = dict(zip(compared.tolist(), kinds, strict=True))
    return Overlap(share[np.ix_(order, order)], group, compared[order], kinds_by_batch)


def closest(values: sparse.csr_matrix, rows: list[NDArray[np.int64]], means: NDArray[np.float64]) -> NDArray[np.int64]:
    """The row of `means` (means x genes) that is closest to the mean of each set of rows of `values`.

    A distance follows from the product of both means, and products of cells are summed: no set is a matrix of its own.
    """
    products = values[np.concatenate(rows)] @ means.T.astype(np.float32)  # cells x means
    sizes = np.array([len(r) for r in rows])
    products_of_means = np.add.reduceat(products, np.cumsum(sizes) - sizes) / sizes[:, None]
    nearest: NDArray[np.int64] = ((means**2).sum(1) - 2 * products_of_means).argmin(1)
    return nearest


def groups_by_time(batch_index: NDArray[np.int64], time: NDArray[np.int64]) -> NDArray[np.int64]:
    """The group of each batch: batches of one time point are linked, directly or through others."""
    pairs = np.unique([batch_index, time], axis=1).T.tolist()
    batch_of_time = {code: batch for batch, code in pairs}
    linked = DisjointSet(range(int(batch_index.max()) + 1))
    for batch, code in pairs:
        linked.merge(batch, batch_of_time[code])
    return _numbered(linked)


def apart_in_time(overlap: Overlap, batch_index: NDArray[np.int64], time: NDArray[np.int64]) -> list[list[int]]:
    """The batches of each time point at which the counts show batches without a kind of cell in common."""
    batch_and_time = np.unique([batch_index, time], axis=1)
    at_each = [batch_and_time[0, batch_and_time[1] == code] for code in np.unique(time)]
    compared = [batches[np.isin(batches, overlap.compared)].tolist() for batches in at_each]
    return [batches for batches in compared if len(set(overlap.group[batches])) > 1]


def _numbered(linked: DisjointSet) -> NDArray[np.int64]:
    """The group of each batch, 0 for that of the first batch."""
    first_in_group = {b: min(members) for members in linked.subsets() for b in members}
    return np.unique([first_in_group[b] for b in sorted(first_in_group)], return_inverse=True)[1]


def nothing_to_compare(n_batches: int) -> Overlap:
    """All batches in one group, because there are fewer than two or too few cells in each."""
    return Overlap(np.ones((0, 0)), np.zeros(n_batches, np.int64), np.zeros(0, np.int64))


class LogExpression(NamedTuple):
    values: sparse.csr_matrix  # log-normalised counts, cells x genes
    log_depth: NDArray[np.float64]
    genes: NDArray[np.int64]


def _log_expression(counts: Counts, cells: NDArray[np.int64]) -> LogExpression:
    """Log-normalise the counts of these cells, and select the genes that vary most."""
    minibatch = counts.minibatch(cells, torch.device("cpu"))
    row, gene, count = (array.numpy() for array in (minibatch.row, minibatch.gene, minibatch.count))
    start = np.searchsorted(row, np.arange(len(cells) + 1))  # of each cell in the non-zeros, which are in row order
    matrix = sparse.csr_matrix((count, gene, start), shape=(len(cells), minibatch.n_genes), dtype=np.float32)
    depth = np.asarray(matrix.sum(1, dtype=np.float64)).ravel()
    scale = (np.median(depth) / depth).astype(np.float32)
    matrix.data = np.log1p(matrix.data * np.repeat(scale, np.diff(matrix.indptr)))
    genes = np.arange(matrix.shape[1])
    if len(genes) > MAX_GENES:
        variance = np.asarray(matrix.multiply(matrix).mean(0) - np.square(matrix.mean(0))).ravel()
        genes = np.sort(np.argsort(-variance, kind="stable")[:MAX_GENES])
        matrix = matrix[:, genes]
    return LogExpression(matrix, np.log(depth), genes)


def _cluster_batches(
    expression: LogExpression, rows: list[NDArray[np.int64]], cells: list[NDArray[np.int64]], rng: np.random.Generator
) -> list[Kinds]:
    """Cluster each batch alone, on principal components of all cells after subtraction of the mean of their batch."""
    if not rows:
        return []
    values = [expression.values[r].toarray() for r in rows]
    centred = [x - x.mean(0) for x in values]
    pooled = np.concatenate([x / math.sqrt(len(x)) for x in centred])
    components = randomized_svd(pooled, min(N_COMPONENTS, *pooled.shape), random_state=0)[2]
    return [
        _cluster_batch(c, expression.genes, x, _depth_terms(expression.log_depth[r]), x_centred @ components.T, rng)
        for c, r, x, x_centred in zip(cells, rows, values, centred, strict=True)
    ]


def _depth_terms(log_depth: NDArray[np.float64]) -> NDArray[np.float64]:
    """The log depth of cells and its square, both centred: regressors that remove the effect of depth."""
    x = log_depth - log_depth.mean()
    return np.stack([x, x**2 - (x**2).mean()], 1)


def _cluster_batch(
    cells: NDArray[np.int64],
    genes: NDArray[np.int64],
    values: NDArray[np.float32],
    depth: NDArray[np.float64],
    scores: NDArray[np.float32],
    rng: np.random.Generator,
) -> Kinds:
    """Cluster a batch without the effect of depth on log expression, because all batches would share that effect."""
    n_cells = len(values)
    scores = scores - depth @ np.linalg.lstsq(depth, scores, rcond=None)[0]
    cluster = np.zeros(n_cells, np.int64)
    if n_cells >= 2 * MIN_CELLS_PER_CLUSTER:
        cluster = leiden(fuzzy_graph(knn(scores, min(N_NEIGHBORS, n_cells // 3))))[0]
    cluster = np.unique(cluster, return_inverse=True)[1]
    sizes = np.bincount(cluster)
    # Estimate the slopes of depth within clusters, because real kinds of cells may differ in depth. The expression need
    # not be centred: its means per cluster are at right angles to the depth within clusters.
    weights = np.eye(len(sizes))[cluster] / sizes[cluster, None]
    depth_within = depth - (weights.T @ depth)[cluster]
    slopes = np.linalg.pinv(depth_within).astype(np.float32) @ values
    values = values - depth.astype(np.float32) @ slopes
    large = np.flatnonzero(sizes >= max(MIN_CELLS_PER_CLUSTER, MIN_SHARE_PER_CLUSTER * n_cells))
    if not len(large):  # use the whole batch as one cluster
        cluster, sizes, large = np.zeros(n_cells, np.int64), np.array([n_cells]), np.zeros(1, np.int64)
    code = np.full(len(sizes), -1)
    code[large] = np.arange(len(large))
    members = [rng.permutation(np.flatnonzero(cluster == c)) for c in large]
    halves = [[values[m[: len(m) // 2]].mean(0), values[m[len(m) // 2 :]].mean(0)] for m in members]
    return Kinds(
        cells,
        code[cluster],
        genes,
        np.array(halves, np.float32).swapaxes(0, 1),
        sizes[large] / n_cells,
        np.array([scores[m].mean(0) for m in members]),
        np.array([np.cov(scores[m].T) for m in members]),
        values.mean(0, dtype=np.float64),
        values.var(0).astype(np.float64) / n_cells,
    )
