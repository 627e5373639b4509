"""Which batches have kinds of cells in common, found in the counts.

A conditional model explains every difference between batches by the batch, if it is trained for long enough, also that
between an early embryo and a late one. Where two sets of batches have no kind of cell in common, nothing in the data
says how much of their difference is technical. They are put into different groups then: batch effects are estimated
within each, and the difference between the groups is kept.

On the log scale a batch effect of a gene is, to first order, added to all cells of the batch alike. So it cancels in
the *contrast* of two clusters of one batch, and batches that hold the same two kinds have the same contrast, however
far apart they are. Each batch is clustered alone. Squared lengths and products of contrasts are taken across two halves
of the cells, whose noise is independent, and so are free of it on average (Walther et al. 2016, NeuroImage; dividing by
them corrects a correlation for the reliability of both sides, Spearman 1904).
"""

from __future__ import annotations

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

# What is looked at
MAX_CELLS, MIN_CELLS_DRAWN = 6_000, 60  # in all; of each batch at least, or all
MAX_GENES = 2_000  # those that vary most within batches
MAX_BATCHES = 64  # the largest are compared; smaller ones go with the batch whose mean is closest
MIN_CELLS_PER_BATCH = 20  # fewer say nothing of kinds
N_CELLS_OF_MEAN = 20  # of batches that are not compared
N_COMPONENTS, N_NEIGHBORS = 30, 15
MIN_CELLS_PER_CLUSTER, MIN_SHARE_PER_CLUSTER = 10, 0.04

CHANCE = 3.0  # standard deviations of a squared distance of the means of two batches that chance explains


# When clusters of two batches are of one kind: squared lengths, in those of the contrast, where not said otherwise
CLOSE = 0.35  # distance, in those to the closest cluster of the own batch: less than 0.6 times as far
LARGE = 0.3  # contrasts that are looked at, in the largest that both batches have
AGREE = 0.7  # correlation of two contrasts: half of the variance of one is explained by the other
NO_SHIFT = 0.05  # difference of two contrasts that is believed anyhow; a larger one must not exceed the common shift
# A contrast that stands alone must be alike in both batches, or there must be a gap between its two clusters:
ALIKE, ALIKE_GAP, GAP = 0.15, 0.25, 4.0  # difference without and with a gap of so many standard deviations
SHIFT_ALONE = 1.0  # and the shift must not exceed the contrast: a program that many kinds share would agree, too
# One that stands not alone: what a third cluster adds, at right angles, agrees as well
SECOND_AXIS, OFF_AXIS, SHIFT = 0.75, 0.2, 3.0  # correlation of it, its least square, and the largest shift


@dataclass(frozen=True)
class Overlap:
    """Which batches have kinds of cells in common.

    `share` (compared x compared): of the cells of the first batch, those of kinds that were found in the second too;
    NaN where the two are linked over others. `group`: of each batch, 0 for the first; batches of one group have kinds
    of cells in common, directly or over others. `compared`: the batches that were compared with each other, not those
    that went with the closest. `kinds`: what was found in each of them.
    """

    share: NDArray[np.float64]
    group: NDArray[np.int64]
    compared: NDArray[np.int64]
    kinds: Mapping[int, Kinds] = field(default_factory=dict)

    def code(self) -> NDArray[np.int64]:
        """The batches of each group counted from 0: what a model is told, so that it cannot tell the groups by it."""
        return np.array([(self.group[:b] == g).sum() for b, g in enumerate(self.group)])

    def in_one_group(self) -> Overlap:
        """The same with all batches in one group, whatever the counts say."""
        return replace(self, group=np.zeros_like(self.group))


def sample_per_batch(batch_index: NDArray[np.int64], seed: int = 0) -> list[NDArray[np.int64]]:
    """The cells of each batch that are looked at; few of the batches that are not compared."""
    sizes = np.bincount(batch_index)
    if len(sizes) < 2:
        return []
    rng = np.random.default_rng(seed)
    compared = np.isin(np.arange(len(sizes)), _compared(sizes))
    most = max(MAX_CELLS // max(compared.sum(), 1), MIN_CELLS_DRAWN)
    shuffled = rng.permutation(len(batch_index))
    parts = np.split(shuffled[np.argsort(batch_index[shuffled], kind="stable")], np.cumsum(sizes)[:-1])
    return [part[: most if judged else N_CELLS_OF_MEAN] for part, judged in zip(parts, compared, strict=True)]


def _compared(sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """The batches that are compared, the largest first."""
    largest = np.argsort(-sizes, kind="stable")[:MAX_BATCHES]
    return largest[sizes[largest] >= MIN_CELLS_PER_BATCH]


def find_overlap(counts: Counts, seed: int = 0) -> Overlap:
    """Link batches that have a kind of cell in common, and group what is linked, directly or over others."""
    batch_index = counts.batch_index
    n_batches = int(batch_index.max()) + 1
    parts = sample_per_batch(batch_index, seed)
    if not parts:
        return nothing_to_compare(n_batches)
    expression = _log_expression(counts, np.concatenate(parts))
    rows = np.split(np.arange(len(expression.log_depth)), np.cumsum([len(part) for part in parts])[:-1])
    compared = _compared(np.bincount(batch_index))
    if not len(compared):  # too few cells everywhere to tell anything apart
        return nothing_to_compare(n_batches)
    kinds = _kinds(expression, [rows[b] for b in compared], [parts[b] for b in compared], np.random.default_rng(seed))
    share, linked = np.full((len(compared), len(compared)), np.nan), DisjointSet(range(n_batches))
    np.fill_diagonal(share, 1.0)
    for second in range(len(compared)):
        for first in range(second):
            if not linked.connected(compared[first], compared[second]):
                share[first, second], share[second, first] = shared(kinds[first], kinds[second])
                if share[first, second] > 0:
                    linked.merge(compared[first], compared[second])
    means = np.stack([kind.mean for kind in kinds])
    for b in np.setdiff1d(np.arange(n_batches), compared):
        mean = np.asarray(expression.values[rows[b]].mean(0)).ravel()
        linked.merge(b, compared[np.argmin(((means - mean) ** 2).sum(1))])
    first_of = {b: min(members) for members in linked.subsets() for b in members}
    group = np.unique([first_of[b] for b in range(n_batches)], return_inverse=True)[1]
    order = np.argsort(compared)
    by_code = dict(zip(compared.tolist(), kinds, strict=True))
    return Overlap(share[np.ix_(order, order)], group, compared[order], by_code)


def nothing_to_compare(n_batches: int) -> Overlap:
    """All batches in one group, as nothing can be told of them, or there is one at most."""
    return Overlap(np.ones((0, 0)), np.zeros(n_batches, np.int64), np.zeros(0, np.int64))


class Kinds(NamedTuple):
    """The clusters of one batch: mean log expression of two halves of the cells of each, and its share of the batch."""

    cells: NDArray[np.int64]  # those that were drawn
    cluster: NDArray[np.int64]  # of each of them; -1 for one that is too small
    genes: NDArray[np.int64]  # whose expression was compared
    halves: NDArray[np.float32]  # 2 x clusters x genes
    fraction: NDArray[np.float64]
    center: NDArray[np.float64]  # clusters x components
    covariance: NDArray[np.float64]  # of the cells of each cluster; clusters x components x components
    mean: NDArray[np.float64]  # of the batch; genes
    noise: NDArray[np.float64]  # variance of this mean; genes

    def gap(self, i: int, j: int) -> float:
        """Distance of two clusters in standard deviations of their cells along the line between them."""
        contrast = self.center[i] - self.center[j]
        variance = contrast @ (self.covariance[i] + self.covariance[j]) @ contrast / 2
        return float(contrast @ contrast / np.sqrt(max(variance, 1e-12)))


class LogExpression(NamedTuple):
    values: sparse.csr_matrix  # log-normalised counts, cells x genes
    log_depth: NDArray[np.float64]
    genes: NDArray[np.int64]


def _log_expression(counts: Counts, cells: NDArray[np.int64]) -> LogExpression:
    """The log-normalised counts of these cells, of the genes that vary most."""
    minibatch = counts.minibatch(cells, torch.device("cpu"))
    row, gene, count = (array.numpy() for array in (minibatch.row, minibatch.gene, minibatch.count))
    matrix = sparse.csr_matrix((count, (row, gene)), shape=(len(cells), minibatch.n_genes), dtype=np.float32)
    depth = np.asarray(matrix.sum(1, dtype=np.float64)).ravel()
    scale = (np.median(depth) / depth).astype(np.float32)
    matrix.data = np.log1p(matrix.data * np.repeat(scale, np.diff(matrix.indptr)))
    genes = np.arange(matrix.shape[1])
    if len(genes) > MAX_GENES:
        variance = np.asarray(matrix.multiply(matrix).mean(0) - np.square(matrix.mean(0))).ravel()
        genes = np.sort(np.argsort(-variance, kind="stable")[:MAX_GENES])
        matrix = matrix[:, genes]
    return LogExpression(matrix, np.log(depth), genes)


def _kinds(
    expression: LogExpression, rows: list[NDArray[np.int64]], cells: list[NDArray[np.int64]], rng: np.random.Generator
) -> list[Kinds]:
    """Cluster each batch alone, in the principal components of all cells around the means of their batches."""
    if not rows:
        return []
    values = [expression.values[r].toarray() for r in rows]
    centred = [v - v.mean(0) for v in values]
    pooled = np.concatenate([v / np.sqrt(len(v)) for v in centred])
    components = randomized_svd(pooled, min(N_COMPONENTS, *pooled.shape), random_state=0)[2]
    return [
        _clustered(c, expression.genes, v, _depth_terms(expression.log_depth[r]), w @ components.T, rng)
        for c, r, v, w in zip(cells, rows, values, centred, strict=True)
    ]


def _depth_terms(log_depth: NDArray[np.float64]) -> NDArray[np.float64]:
    x = log_depth - log_depth.mean()
    return np.stack([x, x**2 - (x**2).mean()], 1)


def _clustered(
    cells: NDArray[np.int64],
    genes: NDArray[np.int64],
    values: NDArray[np.float32],
    depth: NDArray[np.float64],
    scores: NDArray[np.float32],
    rng: np.random.Generator,
) -> Kinds:
    """Clusters of a batch, without what a cell's depth does to its log expression, which all batches would share."""
    n_cells = len(values)
    scores = scores - depth @ np.linalg.lstsq(depth, scores, rcond=None)[0]
    cluster = np.zeros(n_cells, np.int64)
    if n_cells >= 2 * MIN_CELLS_PER_CLUSTER:
        cluster = leiden(fuzzy_graph(knn(scores, min(N_NEIGHBORS, n_cells // 3))))[0]
    cluster = np.unique(cluster, return_inverse=True)[1]
    sizes = np.bincount(cluster)
    # the slopes of depth are those within clusters, as clusters may differ in depth by nature
    member = np.eye(len(sizes))[cluster] / sizes[cluster, None]
    depth_within = depth - (member.T @ depth)[cluster]
    values_within = values - (member.T @ values)[cluster]
    values = values - depth @ np.linalg.lstsq(depth_within, values_within, rcond=None)[0]
    large = np.flatnonzero(sizes >= max(MIN_CELLS_PER_CLUSTER, MIN_SHARE_PER_CLUSTER * n_cells))
    if not len(large):  # the batch as a whole
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
        values.var(0, dtype=np.float64) / n_cells,
    )


def shared(first: Kinds, second: Kinds) -> tuple[float, float]:
    """Of the cells of each batch, the share that is of kinds found in the other; 0, 0 if no kind is."""
    if _alike(first, second):
        return 1.0, 1.0
    gram_a, gram_b = _gram(first), _gram(second)
    cross = first.halves.mean(0) @ second.halves.mean(0).T
    between = np.diag(gram_a)[:, None] + np.diag(gram_b) - 2 * cross
    closest = np.minimum(_closest(gram_a)[:, None], _closest(gram_b))
    same = np.isfinite(closest) & (between <= CLOSE * closest)
    if not same.any():
        pairs = _agreeing(first, second, cross, between)
        if pairs is None:
            return 0.0, 0.0
        anchors = np.array(pairs)
        shift = np.mean([second.halves[:, b] - first.halves[:, a] for a, b in pairs], axis=0)
        residual = second.halves[:, None] - first.halves[:, :, None] - shift[:, None, None]
        same = (residual[0] * residual[1]).sum(-1) <= closest / 2
        same[anchors[:, 0], anchors[:, 1]] = True
    return float(first.fraction[same.any(1)].sum()), float(second.fraction[same.any(0)].sum())


def _alike(first: Kinds, second: Kinds) -> bool:
    """Whether the means of two batches differ no more than chance explains, as those of two halves of a batch."""
    noise = first.noise + second.noise
    return bool(((first.mean - second.mean) ** 2).sum() <= noise.sum() + CHANCE * np.sqrt(2 * (noise**2).sum()))


def _gram(kinds: Kinds) -> NDArray[np.float64]:
    """Products of the mean expression of clusters, free of noise."""
    product = (kinds.halves[0] @ kinds.halves[1].T).astype(np.float64)
    return (product + product.T) / 2


def _closest(gram: NDArray[np.float64]) -> NDArray[np.float64]:
    """Squared distance of each cluster to the closest other one of its batch; infinite if there is none."""
    distance = np.diag(gram)[:, None] + np.diag(gram) - 2 * gram
    np.fill_diagonal(distance, np.inf)
    return np.maximum(distance.min(1), 1e-9)


def _agreeing(
    first: Kinds, second: Kinds, cross: NDArray[np.float64], between: NDArray[np.float64]
) -> list[tuple[int, int]] | None:
    """Two pairs of clusters whose contrasts agree well enough to be the same kinds in both batches, if any."""
    gram_a, gram_b = _gram(first), _gram(second)
    if min(len(gram_a), len(gram_b)) < 2:
        return None
    square_a, square_b = (np.diag(g)[:, None] + np.diag(g) - 2 * g for g in (gram_a, gram_b))
    large = max(LARGE * min(square_a.max(), square_b.max()), 1e-9)
    pairs_a, pairs_b = np.argwhere(np.triu(square_a >= large, 1)), np.argwhere(square_b >= large)
    i, j = np.repeat(pairs_a, len(pairs_b), axis=0).T
    k, m = np.tile(pairs_b, (len(pairs_a), 1)).T
    product = cross[i, k] - cross[i, m] - cross[j, k] + cross[j, m]
    size = (square_a[i, j] + square_b[k, m]) / 2
    agreement = product / np.sqrt(square_a[i, j] * square_b[k, m])
    difference = (size - product) / size
    shift = (between[i, k] + between[j, m]) / 2 / size - difference  # what both kinds have in common
    possible = np.flatnonzero((agreement >= AGREE) & (difference <= NO_SHIFT + shift) & (shift <= SHIFT))
    for c in possible[np.argsort(difference[possible], kind="stable")]:
        a, b = (i[c], j[c]), (k[c], m[c])
        gap = min(first.gap(*a), second.gap(*b))
        alone = difference[c] <= (ALIKE_GAP if gap >= GAP else ALIKE) and shift[c] <= SHIFT_ALONE
        if alone or _second_axis(gram_a, gram_b, cross, *a, *b) >= SECOND_AXIS:
            return list(zip(a, b, strict=True))
    return None


def _second_axis(
    gram_a: NDArray[np.float64], gram_b: NDArray[np.float64], cross: NDArray[np.float64], i: int, j: int, k: int, m: int
) -> float:
    """The best correlation of third clusters' contrasts with i and k, at right angles to the contrasts j-i and m-k."""
    along_a, rest_a = _off_axis(gram_a, i, j)
    along_b, rest_b = _off_axis(gram_b, k, m)
    others_a = np.flatnonzero(rest_a > OFF_AXIS * _square(gram_a, i, j))
    others_b = np.flatnonzero(rest_b > OFF_AXIS * _square(gram_b, k, m))
    if not len(others_a) or not len(others_b):
        return -1.0
    centred = cross - cross[[i]] - cross[:, [k]] + cross[i, k]
    off = centred - np.outer(along_a, centred[j]) - np.outer(centred[:, m], along_b)
    off += np.outer(along_a, along_b) * centred[j, m]
    return float((off[np.ix_(others_a, others_b)] / np.sqrt(np.outer(rest_a[others_a], rest_b[others_b]))).max())


def _square(gram: NDArray[np.float64], i: int, j: int) -> float:
    return float(gram[i, i] + gram[j, j] - 2 * gram[i, j])


def _off_axis(gram: NDArray[np.float64], i: int, j: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Of each cluster's contrast with i: how much of the contrast j-i is in it, and the square of the rest."""
    product = gram[:, j] - gram[:, i] - gram[i, j] + gram[i, i]
    along = product / _square(gram, i, j)
    rest = np.diag(gram) + gram[i, i] - 2 * gram[:, i] - along * product
    rest[[i, j]] = 0  # they are the axis
    return along, rest
