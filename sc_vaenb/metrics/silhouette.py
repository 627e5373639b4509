"""Silhouettes of labels (biology) and of batches (BRAS): are cells nearer to their own group than to others?"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from .._checks import checked
from .._session import own_state
from ._check import FloatArray, Groups, check_embedding, check_groups, defined_mean

_BLOCK = 4_000_000  # distances in memory at once


@own_state()
@checked
def silhouette_samples(embedding: ArrayLike, labels: ArrayLike) -> FloatArray:
    """Compute each cell's silhouette width, (b - a) / max(a, b), in Euclidean distance.

    a is the mean distance to the other cells of the own label, b the smallest mean distance to another label [1]_.
    All n x n distances are formed in blocks by one matrix product (float64, centred), never held together.
    Agrees with `sklearn.metrics.silhouette_samples`; a label of one cell gets 0, as there.

    Parameters
    ----------
    embedding
        Shape (n_cells, n_dimensions).
    labels
        One label per cell, at least two different ones.

    Returns
    -------
    Shape (n_cells,), between -1 and 1.

    See Also
    --------
    sc_vaenb.metrics.silhouette_label : The mean, scaled.

    References
    ----------
    .. [1] Rousseeuw (1987), Silhouettes, Journal of Computational and Applied Mathematics 20:53-65.
    """
    x = check_embedding(embedding)
    groups = check_groups(labels, x.shape[0], "labels", min_groups=2)
    n, sizes = x.shape[0], groups.sizes
    order = np.argsort(groups.codes, kind="stable")
    codes = groups.codes[order]
    starts = np.concatenate(([0], np.cumsum(sizes)[:-1]))
    x = x[order] - x.mean(axis=0)
    square = np.einsum("ij,ij->i", x, x)

    widths = np.empty(n)
    step = max(1, _BLOCK // n)
    for start in range(0, n, step):
        rows = np.arange(start, min(start + step, n))
        block = x[rows] @ x.T
        block *= -2
        block += square
        block += square[rows, None]
        np.maximum(block, 0, out=block)
        np.sqrt(block, out=block)
        row_numbers = np.arange(len(rows))
        block[row_numbers, rows] = 0  # the distance to itself is exactly 0, whatever the rounding of the product
        sums = np.add.reduceat(block, starts, axis=1)
        own_group = codes[rows]
        a = sums[row_numbers, own_group] / np.maximum(sizes[own_group] - 1, 1)
        means = sums / sizes
        means[row_numbers, own_group] = np.inf
        b = means.min(axis=1)
        widest = np.maximum(a, b)
        widths[order[rows]] = np.where(
            (sizes[own_group] > 1) & (widest > 0), (b - a) / np.where(widest > 0, widest, 1), 0.0
        )
    return widths


@own_state()
@checked
def silhouette_label(embedding: ArrayLike, labels: ArrayLike) -> float:
    """Average silhouette width of labels, scaled to (s + 1) / 2.

    1: every label is compact and far from the others; 0.5: labels overlap; below: cells are nearer to another label.
    As `silhouette_label` of scIB [1]_ and scib-metrics 0.5.10.

    Parameters
    ----------
    embedding
        Shape (n_cells, n_dimensions).
    labels
        One label per cell, at least two different ones.

    Returns
    -------
    Between 0 and 1, higher is better.

    See Also
    --------
    sc_vaenb.metrics.silhouette_samples : The value of each cell.
    sc_vaenb.metrics.bras : Silhouettes of batches.

    References
    ----------
    .. [1] Luecken et al. (2022), Benchmarking atlas-level data integration, Nature Methods 19:41-50.
    """
    return float((silhouette_samples(embedding, labels).mean() + 1) / 2)


def _batch_widths(unit: FloatArray, batch: Groups) -> FloatArray:
    """Cosine silhouette widths of batches among the cells of one label; b is over all cells of the other batches.

    The mean cosine distance to a set of cells is 1 - u . mean(u'), so no pairs of cells are needed.
    """
    sizes = batch.sizes
    sums = np.zeros((len(sizes), unit.shape[1]))
    np.add.at(sums, batch.codes, unit)
    own_size = sizes[batch.codes]
    own_sum = sums[batch.codes]
    others = len(unit) - own_size
    own_square = np.einsum("ij,ij->i", unit, unit)
    a = 1 - (np.einsum("ij,ij->i", unit, own_sum) - own_square) / np.maximum(own_size - 1, 1)
    b = 1 - np.einsum("ij,ij->i", unit, sums.sum(axis=0) - own_sum) / others
    widest = np.maximum(a, b)
    usable = (own_size > 1) & (widest > 1e-12)  # otherwise all cells have one direction: a = b = 0 up to rounding
    return np.where(usable, (b - a) / np.where(usable, widest, 1), 0.0)


@own_state()
@checked
def bras(embedding: ArrayLike, labels: ArrayLike, batch: ArrayLike) -> float:
    """Batch-removal adapted silhouette: within each label, do batches overlap?

    Mean over labels of the mean of 1 - abs(s), with s the silhouette of batches in cosine distance where b is the mean
    distance to all cells of other batches. It replaces scIB's ASW-batch, which takes b from the nearest batch only and
    so rewards batches that overlap in pairs [1]_. 1: no batch structure within labels; 0: batches apart.

    Labels seen in one batch, or in which every cell has its own batch, are left out; if none is left, NaN.
    A cell alone in its batch within its label has s = 0. A cell exactly at the origin, which has no direction, counts
    as orthogonal to all others (scib-metrics: NaN, then 0). Otherwise as `bras` of scib-metrics 0.5.10, in float64.

    Parameters
    ----------
    embedding
        Shape (n_cells, n_dimensions). The cosine distance is not invariant to shifts: pass it as the method gave it.
    labels, batch
        One entry per cell; at least two batches.

    Returns
    -------
    Between 0 and 1, higher is better mixed; NaN if no label can be scored.

    See Also
    --------
    sc_vaenb.metrics.silhouette_label : Silhouettes of labels.
    sc_vaenb.metrics.ilisi : Mixing by neighbours.

    References
    ----------
    .. [1] Rautenstrauch and Ohler (2025), Shortcomings of silhouette in single-cell integration benchmarking,
       Nature Biotechnology.
    """
    x = check_embedding(embedding)
    label_groups = check_groups(labels, x.shape[0], "labels")
    batch_groups = check_groups(batch, x.shape[0], "batch", min_groups=2)
    length = np.linalg.norm(x, axis=1, keepdims=True)
    unit = x / np.where(length > 0, length, 1)
    scores = []
    for cells in label_groups.cells():
        within = check_groups(batch_groups.codes[cells], len(cells), "batch")
        if 1 < len(within.names) < len(cells):
            scores.append(float(np.mean(1 - np.abs(_batch_widths(unit[cells], within)))))
    return defined_mean(scores)
