"""Test whether batches are separated beyond chance, by permuting batches within strata (types or clusters)."""

from __future__ import annotations

from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.sparse.csgraph import connected_components
from scipy.spatial.distance import cdist

from ._check import FloatArray, IntArray, check_embedding, check_groups
from .clustering import leiden
from .neighbors import fuzzy_graph, knn, knn_within

_MIN_CELLS = 5  # of a batch in a stratum, to compare it with other batches
_K = 30  # neighbours, at most a quarter of the stratum
_K_GRAPH = 15
_RESOLUTION = 0.5  # of the clusters of a batch whose shift is looked for
_MIN_CLUSTER = 10  # cells, to compute a centroid


class Separation(NamedTuple):
    """The result of a permutation of batches within strata.

    Attributes
    ----------
    excess
        Share of neighbours from the own batch beyond that expected: 0 fully mixed, 1 fully separated; NaN if no stratum
        has two batches.
    p
        Share of the permutations with an excess at least as large; the observed one is included.
    tested
        Share of all cells that are in a stratum with two batches.
    """

    excess: float
    p: float
    tested: float


def batch_separation(
    embedding: ArrayLike,
    batch: ArrayLike,
    strata: ArrayLike,
    *,
    n_permutations: int = 199,
    rng: int | np.random.Generator = 0,
) -> Separation:
    """Test whether the neighbours of a cell, among the cells of its stratum, come from its own batch too often.

    Batches that differ in composition alone pass: within a stratum of one kind of cells the batches can be exchanged.
    Strata in one batch are left out, as are batches of fewer than 5 cells in a stratum.

    Parameters
    ----------
    embedding
        Shape (n_cells, n_dimensions).
    batch, strata
        One entry per cell. Strata are types, or clusters of one kind of cells.
    n_permutations
        Permutations of the batches within strata. The smallest possible p is 1 / (n_permutations + 1).
    rng
        Seed or generator.
    """
    x = check_embedding(embedding)
    batches = check_groups(batch, len(x), "batch")
    groups = check_groups(strata, len(x), "strata")
    generator = np.random.default_rng(rng)
    usable = groups.crosstab(batches) >= _MIN_CELLS
    usable &= (usable.sum(axis=1) > 1)[:, None]
    used_cells = np.flatnonzero(usable[groups.codes, batches.codes])
    if not len(used_cells):
        return Separation(float("nan"), float("nan"), 0.0)
    n_same, expected = np.zeros(n_permutations + 1), 0.0
    strata_of_used = check_groups(groups.codes[used_cells], len(used_cells), "strata")
    for _, cells, neighbors in knn_within(x[used_cells], strata_of_used, _K):
        batch_codes = batches.codes[used_cells[cells]]
        sizes = np.bincount(batch_codes)
        expected += float(((sizes[batch_codes] - 1) / (len(batch_codes) - 1)).sum())
        for i in range(n_permutations + 1):
            codes = batch_codes if i == 0 else generator.permutation(batch_codes)
            n_same[i] += (codes[neighbors] == codes[:, None]).mean(axis=1).sum()
    share, expected = n_same / len(used_cells), expected / len(used_cells)
    p = float((share >= share[0] - 1e-12).mean())
    return Separation(float((share[0] - expected) / (1 - expected)), p, len(used_cells) / len(x))


def clusters(embedding: ArrayLike, *, resolution: float = 1.0) -> IntArray:
    """Leiden clusters of an embedding, shape (n_cells,)."""
    return leiden(fuzzy_graph(knn(embedding, _K_GRAPH)), [resolution])[0]


def linked_batches(batch: ArrayLike, strata: ArrayLike) -> IntArray:
    """Group batches that share a stratum, directly or through other batches.

    A batch counts as present in a stratum from 5 cells (or from 2 % of the batch, if that is more; a batch of fewer
    than 5 cells must be in the stratum completely).

    Parameters
    ----------
    batch, strata
        One entry per cell.

    Returns
    -------
    For each batch, in the sorted order of names, the code of its group, counted from 0.
    """
    batches = check_groups(batch, len(np.asarray(batch)), "batch")
    groups = check_groups(strata, len(batches.codes), "strata")
    min_counts = np.minimum(np.maximum(_MIN_CELLS, 0.02 * batches.sizes), batches.sizes)[:, None]
    is_present = (batches.crosstab(groups) >= min_counts).astype(np.intp)
    return np.asarray(connected_components(is_present @ is_present.T > 0, directed=False)[1], dtype=np.intp)


def shifted_batches(embedding: ArrayLike, batch: ArrayLike) -> IntArray:
    """Group batches whose clusters match after a shift, as under a batch effect that moves a whole batch.

    Each batch is clustered separately. Two batches are linked if one shift moves three clusters of one batch (or both,
    if it has two) onto clusters of the other, to within half of the distance to the next cluster. A single shared type
    shows nothing, and different types with the same differences (two stages of each) look like the same types.

    Returns
    -------
    For each batch, in the sorted order of names, the code of its group, counted from 0.
    """
    x = check_embedding(embedding)
    batches = check_groups(batch, len(x), "batch")
    centroids = []
    for cells_of_batch in batches.cells():
        cells = x[cells_of_batch]
        cluster_codes = (
            clusters(cells, resolution=_RESOLUTION) if len(cells) > 2 * _K_GRAPH else np.zeros(len(cells), int)
        )
        large = np.flatnonzero(np.bincount(cluster_codes) >= _MIN_CLUSTER)
        centers = [cells[cluster_codes == cluster].mean(axis=0) for cluster in large]
        centroids.append(np.array(centers).reshape(len(large), x.shape[1]))
    linked = np.eye(len(centroids), dtype=np.intp)
    for a, b in combinations(range(len(centroids)), 2):
        linked[a, b] = linked[b, a] = _match_after_shift(centroids[a], centroids[b])
    return np.asarray(connected_components(linked, directed=False)[1], dtype=np.intp)


def _match_after_shift(a: FloatArray, b: FloatArray) -> bool:
    if min(len(a), len(b)) < 2:
        return False
    nearest_in_a, nearest_in_b = (np.sort(cdist(centroids, centroids), axis=1)[:, 1] for centroids in (a, b))
    max_matched = 0
    for shift in (b[:, None] - a[None]).reshape(-1, a.shape[1]):
        distances = cdist(a + shift, b)
        nearest = distances.argmin(axis=1)
        is_matched = distances.min(axis=1) <= 0.5 * np.minimum(nearest_in_a, nearest_in_b[nearest])
        max_matched = max(max_matched, len(set(nearest[is_matched])))
    return max_matched >= min(3, len(a), len(b))
