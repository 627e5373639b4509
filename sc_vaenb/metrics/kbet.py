"""kBET: a chi-square test of whether neighbourhoods have the batch composition of their label."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.sparse import csr_array, diags_array
from scipy.sparse.csgraph import connected_components
from scipy.special import chdtrc

from .._checks import checked
from .._session import one_thread, own_state
from ._check import FloatArray, IntArray, check_graph, check_groups, defined_mean
from .neighbors import knn, sum_by_group

_MIN_CELLS = 10
_MIN_K, _MAX_K = 10, 70
_COMPONENTS = 100
_DENSE = 400  # cells; up to this size, all eigenvectors by LAPACK are faster than some by Lanczos


def _acceptance(indices: IntArray, batch: IntArray, alpha: float) -> float:
    """Share of neighbourhoods (rows of `indices`) whose batch counts a chi-square test does not reject."""
    present, batch = np.unique(batch, return_inverse=True)
    n, k = indices.shape
    if len(present) < 2:
        return 0.0  # happens only if the other batches are in small components, so they are separate
    expected = np.bincount(batch) / n * k
    observed = sum_by_group(batch[indices], len(present))
    statistic = (np.square(observed - expected) / expected).sum(axis=1)
    return float(np.mean(chdtrc(len(present) - 1, statistic) >= alpha))


def _diffusion_map(graph: csr_array, n_components: int) -> FloatArray:
    """Embed a connected graph such that Euclidean distance is diffusion distance summed over all times.

    Eigenvectors of the density-normalised transition matrix, each scaled by e / (1 - e) [1]_; the trivial one, whose
    eigenvalue is 1, keeps weight 1 as in scib-metrics.
    """
    density = diags_array(1 / graph.sum(axis=0))
    kernel = density @ graph @ density
    root = diags_array(1 / np.sqrt(kernel.sum(axis=0)))
    transitions = csr_array(root @ kernel @ root)
    n = graph.shape[0]
    n_components = min(n_components, n - 1)
    if n <= _DENSE:
        values, vectors = np.linalg.eigh(transitions.toarray())
        largest = np.sort(np.argsort(np.abs(values))[-n_components:])
        values, vectors = values[largest], vectors[:, largest]
    else:
        from scipy.sparse.linalg import eigsh

        start = np.random.default_rng(0).uniform(0.5, 1.5, n)
        # Lanczos makes many small products: on a busy machine BLAS threads wait for each other, and it becomes up to
        # ten times slower
        with one_thread():
            values, vectors = eigsh(transitions, k=n_components, which="LM", v0=start)
    trivial = np.abs(1 - values) < 1e-7
    return np.asarray(vectors * np.where(trivial, 1.0, values / np.where(trivial, 1.0, 1 - values)))


@own_state()
@checked
def kbet_label(graph: csr_array, batch: ArrayLike, *, alpha: float = 0.05) -> float:
    """Compute the acceptance rate of kBET among the cells of one label.

    Parameters
    ----------
    graph
        Fuzzy graph of these cells, shape (n_cells, n_cells).
    batch
        One entry per cell.
    alpha
        Level of the test.

    Returns
    -------
    NaN for fewer than 10 cells or a single batch. 0 (all rejected) if more than a quarter of the cells are in
    components of fewer than 3 k0 cells, k0 being a quarter of the mean batch size, between 10 and 70.

    See Also
    --------
    sc_vaenb.metrics.kbet_per_label : The mean over labels.

    References
    ----------
    .. [1] Buettner et al. (2019), A test metric for assessing single-cell RNA-seq batch correction, Nature Methods
       16:43-49.
    """
    graph = check_graph(graph)
    groups = check_groups(batch, graph.shape[0], "batch")
    n = graph.shape[0]
    if n < _MIN_CELLS or len(groups.names) < 2:
        return float("nan")
    k0 = min(_MAX_K, max(_MIN_K, int(groups.sizes.mean() / 4)))
    n_components, component = connected_components(graph, directed=False)
    cells = np.arange(n)
    if n_components > 1:
        cells = np.flatnonzero(np.bincount(component)[component] >= 3 * k0)
        if len(cells) < 0.75 * n:
            return 0.0
        graph = csr_array(graph[cells][:, cells])
    embedding = _diffusion_map(graph, _COMPONENTS)
    return _acceptance(knn(embedding, k0 + 1).indices, groups.codes[cells], alpha)


@own_state()
@checked
def kbet_per_label(graph: csr_array, labels: ArrayLike, batch: ArrayLike, *, alpha: float = 0.05) -> float:
    """Test whether batches are mixed within each label (kBET).

    The mean over labels of the share of neighbourhoods that have the label's own batch composition.
    Per label, the graph of its cells is embedded by diffusion maps, each cell's k0 + 1 nearest cells there (itself
    included) are counted by batch, and a chi-square test at `alpha` compares them with the label's batch frequencies
    [1]_. 1: well mixed; 0: every neighbourhood is rejected.

    Labels with fewer than 10 cells or in one batch are left out (NaN if none remains); see :func:`kbet_label`.

    Differences to `kbet_per_label` of scib-metrics 0.5.10: neighbours in diffusion space are exact; up to 100 diffusion
    components are used for each label, while there the number shrinks for good after the first small label, so that
    its result depends on the labels' names.

    Parameters
    ----------
    graph
        Fuzzy graph (:func:`fuzzy_graph`) of all cells; scIB builds it from 50 neighbours.
    labels, batch
        One entry per cell; at least two batches.
    alpha
        Level of the test.

    Returns
    -------
    Between 0 and 1, higher is better mixed; NaN if no label can be tested.

    See Also
    --------
    sc_vaenb.metrics.kbet_label : One label.
    sc_vaenb.metrics.fuzzy_graph : The graph.

    References
    ----------
    .. [1] Buettner et al. (2019), A test metric for assessing single-cell RNA-seq batch correction, Nature Methods
       16:43-49.
    .. [2] Luecken et al. (2022), Benchmarking atlas-level data integration, Nature Methods 19:41-50.
    """
    graph = check_graph(graph)
    label_groups = check_groups(labels, graph.shape[0], "labels")
    batch_groups = check_groups(batch, graph.shape[0], "batch", min_groups=2)
    return defined_mean(
        [
            kbet_label(csr_array(graph[cells][:, cells]), batch_groups.codes[cells], alpha=alpha)
            for cells in label_groups.cells()
        ]
    )
