"""Leiden clusters of the neighbour graph, and their agreement with labels (NMI and ARI)."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.sparse import csr_array, triu

from .._checks import checked, seed_of
from .._session import own_state, shared
from ._check import IntArray, check_graph, check_groups

RESOLUTIONS: tuple[float, ...] = (0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.4, 1.6, 1.8, 2.0)
"""The resolutions that scIB and scib-metrics search."""


class ClusterScore(NamedTuple):
    """Agreement of clusters and labels, and the Leiden resolution that the clusters come from."""

    nmi: float
    ari: float
    resolution: float


@contextmanager
def _igraph_seed(seed: int) -> Iterator[None]:
    """Let igraph use its own random number generator.

    igraph has one generator per process: by default Python's global `random`, whose state would change. As in scanpy,
    it gets another generator, and afterwards the `random` module again (its default; igraph cannot report which one it
    had). The lock prevents that two threads use each other's generator.
    """
    import igraph

    with shared():
        igraph.set_random_number_generator(random.Random(seed))
        try:
            yield
        finally:
            igraph.set_random_number_generator(random)


@own_state()
@checked
def leiden(
    graph: csr_array, resolutions: Sequence[float] = (1.0,), *, seed: int | np.random.Generator | None = 0
) -> list[IntArray]:
    """Cluster a weighted graph by the Leiden algorithm, maximising modularity at each resolution.

    As `scanpy.tl.leiden(flavor="igraph", n_iterations=2)` [1]_. Each undirected edge is entered once, where scanpy and
    scib-metrics enter it twice: the modularity is the same, the work halves, the random path differs.

    Parameters
    ----------
    graph
        Symmetric weights, shape (n_cells, n_cells), such as from :func:`fuzzy_graph`.
    resolutions
        Higher finds more clusters.
    seed
        Seed for each resolution anew, so that one resolution's clusters do not depend on the others.

    Returns
    -------
    For each resolution the clusters, shape (n_cells,).

    See Also
    --------
    sc_vaenb.metrics.fuzzy_graph : The graph.
    sc_vaenb.metrics.cluster_scores : Compares the clusters with labels.

    References
    ----------
    .. [1] Traag, Waltman and van Eck (2019), From Louvain to Leiden, Scientific Reports 9:5233.
    """
    import igraph

    graph, seed = check_graph(graph), seed_of(seed)
    upper = triu(graph, k=1).tocoo()
    edges = np.stack([upper.row, upper.col], axis=1)
    network = igraph.Graph(n=graph.shape[0], edges=edges, edge_attrs={"weight": upper.data})
    clusters = []
    for resolution in resolutions:
        with _igraph_seed(seed):
            partition = network.community_leiden(
                objective_function="modularity", weights="weight", resolution=resolution, n_iterations=2
            )
        clusters.append(np.asarray(partition.membership, dtype=np.intp))
    return clusters


@own_state()
@checked
def cluster_scores(
    graph: csr_array,
    labels: ArrayLike,
    *,
    resolutions: Sequence[float] = RESOLUTIONS,
    seed: int | np.random.Generator | None = 0,
) -> list[ClusterScore]:
    """Compare Leiden clusters with labels at each resolution.

    NMI is normalised by the arithmetic mean of the entropies, ARI is corrected for chance; both as in scikit-learn.

    Parameters
    ----------
    graph
        Symmetric weights, shape (n_cells, n_cells), such as from :func:`fuzzy_graph`.
    labels
        One label per cell.
    resolutions
        Resolutions of the Leiden algorithm.
    seed
        Seed of the Leiden algorithm.

    Returns
    -------
    A score for each resolution, in their order.

    See Also
    --------
    sc_vaenb.metrics.leiden : The clusters.
    sc_vaenb.metrics.best_nmi : Picks one of the scores.
    """
    graph = check_graph(graph)
    groups = check_groups(labels, graph.shape[0], "labels", min_groups=2)
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    return [
        ClusterScore(
            float(normalized_mutual_info_score(groups.codes, clusters)),
            float(adjusted_rand_score(groups.codes, clusters)),
            float(resolution),
        )
        for resolution, clusters in zip(resolutions, leiden(graph, resolutions, seed=seed), strict=True)
    ]


@own_state()
@checked
def best_nmi(scores: Sequence[ClusterScore]) -> ClusterScore:
    """Pick the score with the best NMI (the lowest resolution among equals); its ARI goes with it, as in scIB.

    Parameters
    ----------
    scores
        From `cluster_scores`; one or more.

    Returns
    -------
    The chosen score.

    See Also
    --------
    sc_vaenb.metrics.cluster_scores : Computes the scores.
    """
    if not scores:
        raise ValueError("scores is empty: pass those of cluster_scores, with one resolution or more.")
    return max(scores, key=lambda score: score.nmi)
