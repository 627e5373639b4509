"""LISI: the effective number of labels or batches in a cell's neighbourhood."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from .._checks import checked
from .._session import own_state
from ._check import FloatArray, Groups, check_embedding, check_groups, defined_mean
from .isolated import batches_per_label
from .neighbors import Neighbors, knn, sum_by_group

_TOLERANCE = 1e-5
_ITERATIONS = 50
_MIN_CELLS = 10  # of a label, for LISI among its cells


def _perplexity_weights(distances: FloatArray, perplexity: float) -> FloatArray:
    """Weigh neighbours by exp(-beta d), with beta of each cell chosen such that the weights have the given perplexity.

    Returns rows that sum to 1. Distances are shifted by their minimum, which does not change the weights and prevents
    underflow. Bisection as in Harmony and scib-metrics: from beta = 1, to 1e-5 in entropy or 50 steps.
    """
    n = distances.shape[0]
    shifted = distances - distances.min(axis=1, keepdims=True)
    beta, low, high = np.ones(n), np.full(n, -np.inf), np.full(n, np.inf)
    weights: FloatArray = np.empty_like(shifted)
    rows = np.arange(n)
    for step in range(_ITERATIONS + 1):
        row_distances = shifted[rows]
        row_weights = np.exp(-row_distances * beta[rows, None])
        total = row_weights.sum(axis=1)
        row_weights /= total[:, None]
        weights[rows] = row_weights
        excess = np.log(total) + beta[rows] * np.einsum("ij,ij->i", row_distances, row_weights) - np.log(perplexity)
        not_converged = np.abs(excess) >= _TOLERANCE
        rows, excess = rows[not_converged], excess[not_converged]
        if len(rows) == 0 or step == _ITERATIONS:
            break
        flat, sharp = rows[excess > 0], rows[excess <= 0]
        low[flat] = beta[flat]
        high[sharp] = beta[sharp]
        current, lowest, highest = beta[rows], low[rows], high[rows]
        halved = np.where(np.isinf(lowest), current / 2, (lowest + highest) / 2)
        beta[rows] = np.where(np.isinf(highest), current * 2, halved)
    return weights


def _effective_number(neighbors: Neighbors, groups: Groups, perplexity: float | None) -> FloatArray:
    k = neighbors.k
    if k < 6:
        raise ValueError(f"neighbors has {k} columns: LISI needs at least 6; pass more cells or a larger k.")
    perplexity = float(k // 3) if perplexity is None else perplexity
    if not 1 < perplexity < k - 1:
        raise ValueError(f"perplexity is {perplexity}: pass a number between 1 and the number of neighbours, {k - 1}.")
    weights = _perplexity_weights(neighbors.distances[:, 1:], perplexity)
    shares = sum_by_group(groups.codes[neighbors.indices[:, 1:]], len(groups.names), weights)
    return np.asarray(1 / np.square(shares).sum(axis=1))


@own_state()
@checked
def lisi(neighbors: Neighbors, groups: ArrayLike, *, perplexity: float | None = None) -> FloatArray:
    """Local inverse Simpson index: the effective number of groups around each cell.

    Parameters
    ----------
    neighbors
        From :func:`knn`; scIB uses k = 90.
    groups
        One entry per cell: batches or labels.
    perplexity
        Effective number of neighbours; default k // 3.

    Returns
    -------
    Shape (n_cells,), from 1 (one group only) to the number of groups (all equally present).

    See Also
    --------
    sc_vaenb.metrics.ilisi : Scaled, for batches.
    sc_vaenb.metrics.clisi : Scaled, for labels.

    Notes
    -----
    As scib-metrics 0.5.10, in float64 and with shifted distances: there, distances above about 100 underflow at the
    first step in float32.

    References
    ----------
    .. [1] Korsunsky et al. (2019), Fast, sensitive and accurate integration of single-cell data with Harmony,
       Nature Methods 16:1289-1296.
    """
    return _effective_number(neighbors, check_groups(groups, neighbors.n_cells, "groups"), perplexity)


@own_state()
@checked
def ilisi(neighbors: Neighbors, batch: ArrayLike, *, perplexity: float | None = None) -> float:
    """Integration LISI: median over cells of the effective number of batches, scaled (LISI - 1) / (n_batches - 1).

    1: every neighbourhood holds all batches equally, which is out of reach where batches differ in size;
    0: every neighbourhood holds one batch. See :func:`lisi`; scaled as in scIB.

    Parameters
    ----------
    neighbors
        From :func:`knn`; scIB uses k = 90.
    batch
        One entry per cell; at least two batches.
    perplexity
        Effective number of neighbours; default k // 3.

    Returns
    -------
    Between 0 and 1, higher is better mixed.

    See Also
    --------
    sc_vaenb.metrics.lisi : The value of each cell.
    sc_vaenb.metrics.cilisi : Within each label.

    References
    ----------
    .. [1] Korsunsky et al. (2019), Fast, sensitive and accurate integration of single-cell data with Harmony, Nature
       Methods 16:1289-1296.
    .. [2] Luecken et al. (2022), Benchmarking atlas-level data integration, Nature Methods 19:41-50.
    """
    groups = check_groups(batch, neighbors.n_cells, "batch", min_groups=2)
    return float((np.median(_effective_number(neighbors, groups, perplexity)) - 1) / (len(groups.names) - 1))


@own_state()
@checked
def clisi(neighbors: Neighbors, labels: ArrayLike, *, perplexity: float | None = None) -> float:
    """Cell-type LISI: median effective number of labels, scaled (n_labels - LISI) / (n_labels - 1).

    1: neighbourhoods hold one label; 0: all labels equally. See :func:`lisi`; scaled as in scIB.

    Parameters
    ----------
    neighbors
        From :func:`knn`; scIB uses k = 90.
    labels
        One entry per cell; at least two labels.
    perplexity
        Effective number of neighbours; default k // 3.

    Returns
    -------
    Between 0 and 1, higher is better.

    See Also
    --------
    sc_vaenb.metrics.lisi : The value of each cell.
    sc_vaenb.metrics.ilisi : The same for batches.

    References
    ----------
    .. [1] Korsunsky et al. (2019), Fast, sensitive and accurate integration of single-cell data with Harmony, Nature
       Methods 16:1289-1296.
    .. [2] Luecken et al. (2022), Benchmarking atlas-level data integration, Nature Methods 19:41-50.
    """
    groups = check_groups(labels, neighbors.n_cells, "labels", min_groups=2)
    n_labels = len(groups.names)
    return float((n_labels - np.median(_effective_number(neighbors, groups, perplexity))) / (n_labels - 1))


@own_state()
@checked
def cilisi_per_cell(
    embedding: ArrayLike | Neighbors, labels: ArrayLike, batch: ArrayLike, *, k: int = 90
) -> FloatArray:
    """Compute each cell's integration LISI among the cells of its own label.

    Parameters
    ----------
    embedding
        Shape (n_cells, n_dimensions), or the neighbours in a graph.
    labels, batch
        One entry per cell; at least two batches.
    k
        Neighbours (the cell itself included), at most half of the label's cells.

    Returns
    -------
    Shape (n_cells,): (LISI - 1) / (n_batches of the label - 1); NaN for labels in one batch or of fewer than 10 cells.

    See Also
    --------
    sc_vaenb.metrics.cilisi : The mean.
    """
    if isinstance(embedding, Neighbors):
        return _cilisi_in_graph(embedding, labels, batch)
    x = check_embedding(embedding)
    types, batches = check_groups(labels, len(x), "labels"), check_groups(batch, len(x), "batch", min_groups=2)
    values = np.full(len(x), np.nan)
    for cells in types.cells():
        batches_of_label = check_groups(batches.codes[cells], len(cells), "batch")
        if len(batches_of_label.names) > 1 and len(cells) >= _MIN_CELLS:
            within = knn(x[cells], min(k, max(6, len(cells) // 2)))
            values[cells] = (_effective_number(within, batches_of_label, None) - 1) / (len(batches_of_label.names) - 1)
    return values


def _cilisi_in_graph(neighbors: Neighbors, labels: ArrayLike, batch: ArrayLike) -> FloatArray:
    """The same from neighbours in a graph; only neighbours with the label of the cell count."""
    types = check_groups(labels, neighbors.n_cells, "labels")
    batches = check_groups(batch, neighbors.n_cells, "batch", min_groups=2)
    others = neighbors.indices[:, 1:]
    weights = _perplexity_weights(neighbors.distances[:, 1:], float(neighbors.k // 3))
    weights *= types.codes[others] == types.codes[:, None]
    total = weights.sum(axis=1)
    shares = sum_by_group(batches.codes[others], len(batches.names), weights)
    shares /= np.where(total > 0, total, 1)[:, None]
    effective = np.where(total > 0, 1 / np.maximum(np.square(shares).sum(axis=1), 1e-12), 1.0)
    n_batches = batches_per_label(types, batches)
    usable = ((n_batches > 1) & (types.sizes >= _MIN_CELLS))[types.codes]
    return np.where(usable, (effective - 1) / np.maximum(n_batches[types.codes] - 1, 1), np.nan)


@own_state()
@checked
def cilisi(embedding: ArrayLike | Neighbors, labels: ArrayLike, batch: ArrayLike, *, k: int = 90) -> float:
    """Cell-type-aware integration LISI: are batches mixed within each label?

    Neighbours are searched among the cells of the same label, and LISI is scaled by the number of batches that have the
    label, so that types missing from a batch are not counted against a method, as :func:`ilisi` does, and mixing them
    with other types is not rewarded [1]_. Mean over all cells whose label is in two batches or more.

    Parameters
    ----------
    embedding
        Shape (n_cells, n_dimensions), or the neighbours in a graph, of which those of the cell's label are used.
    labels, batch
        One entry per cell; at least two batches.
    k
        Neighbours (the cell itself included), at most half of the label's cells.

    Returns
    -------
    Between 0 and 1 (out of reach where batches differ in size); NaN if no label is in two batches.

    See Also
    --------
    sc_vaenb.metrics.cilisi_per_cell : The value of each cell.
    sc_vaenb.metrics.ilisi : The same over all labels at once.

    References
    ----------
    .. [1] Andreatta et al. (2024), Semi-supervised integration of single-cell transcriptomics data,
       Nature Communications 15:872.
    """
    return defined_mean(cilisi_per_cell(embedding, labels, batch, k=k))
