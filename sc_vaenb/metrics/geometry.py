"""Geometry of types: are types as far from each other as they are within single batches?"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from ._check import FloatArray, Groups, IntArray, check_embedding, check_groups
from .pcr import check_reference

_MIN_CELLS = 10  # of a type in a batch, for a centroid
_TRIMMED = 0.05  # of the cells at either end of each dimension
_MIN_OTHERS = 3  # other types whose distances are ranked


def _distances(x: FloatArray, labels: Groups, cells: IntArray) -> FloatArray:
    """Distances between the trimmed centroids of types (types x types), in units of their mean; NaN where too few."""
    from scipy.stats import trim_mean

    centroids = np.full((len(labels.names), x.shape[1]), np.nan)
    for code in range(len(labels.names)):
        own = cells[labels.codes[cells] == code]
        if len(own) >= _MIN_CELLS:
            centroids[code] = trim_mean(x[own], _TRIMMED, axis=0)
    distances = np.linalg.norm(centroids[:, None] - centroids[None], axis=2)
    np.fill_diagonal(distances, np.nan)
    known = distances[~np.isnan(distances)]
    return distances / known.mean() if len(known) and known.mean() > 0 else np.full_like(distances, np.nan)


def geometry(embedding: ArrayLike, reference: ArrayLike, labels: ArrayLike, batch: ArrayLike) -> float:
    """Rank correlation of the distances between types with those inside single batches, where no batch effect is.

    After scGraph [1]_: the distances between trimmed centroids are measured in the reference inside each batch, scaled
    to a mean of 1, and averaged over batches; they are compared, for each type, with the distances from that type's
    centroid to the others in the embedding of all cells (Spearman), and averaged over types. Types of fewer than 10
    cells in a batch are left out of that batch. Two types that no batch has both are not compared.

    Parameters
    ----------
    embedding, reference
        After and before integration, shape (n_cells, ...).
    labels, batch
        One entry per cell.

    Returns
    -------
    Between 0 (no or an inverse correlation) and 1; NaN where no type has three others to be compared with.

    References
    ----------
    .. [1] Wang, Leskovec and Regev (2025), Limitations of cell embedding metrics assessed using drifting islands,
       Nature Biotechnology.
    """
    from scipy.stats import rankdata

    x = check_embedding(embedding)
    before = check_reference(reference, x)
    types, batches = check_groups(labels, len(x), "labels"), check_groups(batch, len(x), "batch")
    inside = np.stack(
        [_distances(before, types, np.flatnonzero(batches.codes == code)) for code in range(len(batches.names))]
    )
    n_known = (~np.isnan(inside)).sum(axis=0)
    expected = np.where(n_known > 0, np.nansum(inside, axis=0) / np.maximum(n_known, 1), np.nan)
    found = _distances(x, types, np.arange(len(x)))
    correlations = []
    for a, b in zip(expected, found, strict=True):
        known = ~np.isnan(a) & ~np.isnan(b)
        if known.sum() >= _MIN_OTHERS and np.ptp(a[known]) > 0 and np.ptp(b[known]) > 0:
            correlations.append(np.corrcoef(rankdata(a[known]), rankdata(b[known]))[0, 1])
    return max(0.0, float(np.mean(correlations))) if correlations else float("nan")
