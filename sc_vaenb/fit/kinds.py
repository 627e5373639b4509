"""The kinds of cells of one batch, as its clusters, and which of them another batch has too."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

MAX_SDS_BY_CHANCE = 3.0  # by which chance may raise the squared distance of two batch means above its expectation

# When clusters of two batches are of one kind. Lengths are squared, and relative to the contrast unless stated.
MAX_DISTANCE = 0.35  # relative to the nearest cluster of the same batch: less than 0.6 times as far
MIN_CONTRAST = 0.3  # relative to the largest contrast that both batches have; smaller ones are not compared
MIN_CORRELATION = 0.7  # of two contrasts: one explains half of the variance of the other
TOLERATED_DIFFERENCE = 0.05  # of two contrasts; only a shift that both clusters share allows a larger one
# If no other contrast supports it, a contrast must differ little between the batches. It may differ more if there is
# a gap (in standard deviations) between its two clusters.
MAX_DIFFERENCE_ALONE, MAX_DIFFERENCE_WITH_GAP, MIN_GAP = 0.15, 0.25, 4.0
MAX_SHIFT_ALONE = 1.0  # a program that many kinds share would agree, too, so the shift must not exceed the contrast
# Otherwise a second contrast must support it: that with a third cluster, at right angles to the first contrast.
MIN_CORRELATION_OFF_AXIS, MIN_LENGTH_OFF_AXIS = 0.75, 0.2
MAX_SHIFT = 3.0  # of the contrast that the second one supports


class Kinds(NamedTuple):
    """The clusters of one batch, with the mean log expression of two halves of the cells of each cluster."""

    cells: NDArray[np.int64]  # drawn from the batch
    cluster: NDArray[np.int64]  # of each drawn cell; -1 if the cluster is too small
    genes: NDArray[np.int64]  # whose expression is compared
    halves: NDArray[np.float32]  # mean log expression; 2 x clusters x genes
    fraction: NDArray[np.float64]  # of the cells of the batch; clusters
    center: NDArray[np.float64]  # clusters x components
    covariance: NDArray[np.float64]  # of the cells of each cluster; clusters x components x components
    mean: NDArray[np.float64]  # log expression of the batch; genes
    noise: NDArray[np.float64]  # variance of this mean; genes

    def gap(self, i: int, j: int) -> float:
        """Distance of two clusters in standard deviations of their cells along the line between them."""
        contrast = self.center[i] - self.center[j]
        variance = contrast @ (self.covariance[i] + self.covariance[j]) @ contrast / 2
        return float(contrast @ contrast / np.sqrt(max(variance, 1e-12)))


def shared_fractions(first: Kinds, second: Kinds) -> tuple[float, float]:
    """Fraction of the cells of each batch whose kind the other batch has too; 0, 0 if no kind is in both."""
    if _differ_by_chance(first, second):
        return 1.0, 1.0
    gram_first, gram_second = _gram(first), _gram(second)
    cross = first.halves.mean(0) @ second.halves.mean(0).T
    distance = np.diag(gram_first)[:, None] + np.diag(gram_second) - 2 * cross
    nearest = np.minimum(_nearest_distance(gram_first)[:, None], _nearest_distance(gram_second))
    same_kind = np.isfinite(nearest) & (distance <= MAX_DISTANCE * nearest)
    if not same_kind.any():
        pairs = _matching_contrast(first, second, cross, distance)
        if pairs is None:
            return 0.0, 0.0
        anchors = np.array(pairs)
        shift = np.mean([second.halves[:, k] - first.halves[:, i] for i, k in pairs], axis=0)
        residual = second.halves[:, None] - first.halves[:, :, None] - shift[:, None, None]
        same_kind = (residual[0] * residual[1]).sum(-1) <= nearest / 2
        same_kind[anchors[:, 0], anchors[:, 1]] = True
    return float(first.fraction[same_kind.any(1)].sum()), float(second.fraction[same_kind.any(0)].sum())


def _differ_by_chance(first: Kinds, second: Kinds) -> bool:
    """Whether chance explains the difference of the means of two batches, as if they were two halves of one batch."""
    noise = first.noise + second.noise
    squared_distance = ((first.mean - second.mean) ** 2).sum()
    return bool(squared_distance <= noise.sum() + MAX_SDS_BY_CHANCE * np.sqrt(2 * (noise**2).sum()))


def _gram(kinds: Kinds) -> NDArray[np.float64]:
    """Inner products of the mean expression of clusters, without bias from noise."""
    product = (kinds.halves[0] @ kinds.halves[1].T).astype(np.float64)
    return (product + product.T) / 2


def _nearest_distance(gram: NDArray[np.float64]) -> NDArray[np.float64]:
    """Squared distance of each cluster to the nearest other one of its batch; infinite if there is none."""
    distance = np.diag(gram)[:, None] + np.diag(gram) - 2 * gram
    np.fill_diagonal(distance, np.inf)
    return np.maximum(distance.min(1), 1e-9)


def _matching_contrast(
    first: Kinds, second: Kinds, cross: NDArray[np.float64], distance: NDArray[np.float64]
) -> list[tuple[int, int]] | None:
    """Find a contrast of each batch that agrees with the other: two pairs (cluster of first, cluster of second).

    `cross` and `distance` hold the inner product and the squared distance of each cluster of the first batch and each
    of the second. The result is None if no contrasts agree well enough to be of the same kinds.
    """
    gram_first, gram_second = _gram(first), _gram(second)
    if min(len(gram_first), len(gram_second)) < 2:
        return None
    length_first, length_second = (np.diag(g)[:, None] + np.diag(g) - 2 * g for g in (gram_first, gram_second))
    min_length = max(MIN_CONTRAST * min(length_first.max(), length_second.max()), 1e-9)
    pairs_first = np.argwhere(np.triu(length_first >= min_length, 1))
    pairs_second = np.argwhere(length_second >= min_length)
    # every contrast of clusters i, j of the first batch with every contrast of clusters k, m of the second
    i, j = np.repeat(pairs_first, len(pairs_second), axis=0).T
    k, m = np.tile(pairs_second, (len(pairs_first), 1)).T
    product = cross[i, k] - cross[i, m] - cross[j, k] + cross[j, m]
    length = (length_first[i, j] + length_second[k, m]) / 2
    correlation = product / np.sqrt(length_first[i, j] * length_second[k, m])
    difference = (length - product) / length
    shift = (distance[i, k] + distance[j, m]) / 2 / length - difference  # that both pairs of clusters share
    possible = np.flatnonzero(
        (correlation >= MIN_CORRELATION) & (difference <= TOLERATED_DIFFERENCE + shift) & (shift <= MAX_SHIFT)
    )
    for c in possible[np.argsort(difference[possible], kind="stable")]:
        pair_first, pair_second = (i[c], j[c]), (k[c], m[c])
        gap = min(first.gap(*pair_first), second.gap(*pair_second))
        max_difference = MAX_DIFFERENCE_WITH_GAP if gap >= MIN_GAP else MAX_DIFFERENCE_ALONE
        agrees_alone = difference[c] <= max_difference and shift[c] <= MAX_SHIFT_ALONE
        if agrees_alone or (
            _correlation_off_axis(gram_first, gram_second, cross, *pair_first, *pair_second) >= MIN_CORRELATION_OFF_AXIS
        ):
            return list(zip(pair_first, pair_second, strict=True))
    return None


def _correlation_off_axis(
    gram_first: NDArray[np.float64],
    gram_second: NDArray[np.float64],
    cross: NDArray[np.float64],
    i: int,
    j: int,
    k: int,
    m: int,
) -> float:
    """The best correlation of contrasts with a third cluster, at right angles to the contrasts j-i and m-k.

    The contrasts are those with i in the first batch and with k in the second. The result is -1 if a batch has no third
    cluster far enough from its axis.
    """
    along_first, rest_first = _off_axis(gram_first, i, j)
    along_second, rest_second = _off_axis(gram_second, k, m)
    others_first = np.flatnonzero(rest_first > MIN_LENGTH_OFF_AXIS * _squared_distance(gram_first, i, j))
    others_second = np.flatnonzero(rest_second > MIN_LENGTH_OFF_AXIS * _squared_distance(gram_second, k, m))
    if not len(others_first) or not len(others_second):
        return -1.0
    products = cross - cross[[i]] - cross[:, [k]] + cross[i, k]  # of the contrasts with i and those with k
    off_axis = products - np.outer(along_first, products[j]) - np.outer(products[:, m], along_second)
    off_axis += np.outer(along_first, along_second) * products[j, m]
    lengths = np.sqrt(np.outer(rest_first[others_first], rest_second[others_second]))
    return float((off_axis[np.ix_(others_first, others_second)] / lengths).max())


def _squared_distance(gram: NDArray[np.float64], i: int, j: int) -> float:
    return float(gram[i, i] + gram[j, j] - 2 * gram[i, j])


def _off_axis(gram: NDArray[np.float64], i: int, j: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Of each cluster's contrast with i: the coefficient along the contrast j-i, and the squared length of the rest."""
    product = gram[:, j] - gram[:, i] - gram[i, j] + gram[i, i]
    along = product / _squared_distance(gram, i, j)
    rest = np.diag(gram) + gram[i, i] - 2 * gram[:, i] - along * product
    rest[[i, j]] = 0  # they are the axis
    return along, rest
