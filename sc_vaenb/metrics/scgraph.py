"""Geometry of types: are types as far from each other as they are within single batches?"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from .._checks import checked
from .._session import own_state
from ._check import FloatArray, Groups, IntArray, check_embedding, check_groups
from .pcr import check_reference

_MIN_CELLS = 10  # of a type in a batch, to compute a centroid
_TRIMMED = 0.05  # share of the cells trimmed at either end of each dimension
_MIN_PAIRS = 6  # of types, to compute a correlation
_CLOSEST = 1e-3  # distance in units of the mean; closer pairs get no larger weight


def _distances(x: FloatArray, labels: Groups, cells: IntArray) -> FloatArray:
    """Distances between the trimmed centroids of types (types x types), in units of their mean; NaN where too few."""
    from scipy.stats import trim_mean

    centroids = np.full((len(labels.names), x.shape[1]), np.nan)
    for code in range(len(labels.names)):
        cells_of_type = cells[labels.codes[cells] == code]
        if len(cells_of_type) >= _MIN_CELLS:
            centroids[code] = trim_mean(x[cells_of_type], _TRIMMED, axis=0)
    distances = np.linalg.norm(centroids[:, None] - centroids[None], axis=2)
    np.fill_diagonal(distances, np.nan)
    finite = distances[~np.isnan(distances)]
    return distances / finite.mean() if len(finite) and finite.mean() > 0 else np.full_like(distances, np.nan)


@own_state()
@checked
def geometry(embedding: ArrayLike, reference: ArrayLike, labels: ArrayLike, batch: ArrayLike) -> float:
    """Correlation of the distances between types with those inside single batches, where no batch effect is.

    After scGraph [1]_: the distances between trimmed centroids are measured in the reference inside each batch, scaled
    to a mean of 1, averaged over batches, and compared with the distances in the embedding of all cells, by Pearson's
    correlation with weights 1 / distance, so that close relatives count most. Two types that no batch has both are not
    compared; types of fewer than 10 cells in a batch are left out of that batch. Here all pairs of types are compared
    at once, where scGraph averages over types, because a correlation over three or four distances is mostly noise; it
    is scaled to (r + 1) / 2, as silhouettes are.

    Parameters
    ----------
    embedding, reference
        After and before integration, shape (n_cells, ...).
    labels, batch
        One entry per cell.

    Returns
    -------
    Between 0 and 1 (0.5: no correlation); NaN for fewer than six pairs of types, or where they are all as far apart.

    See Also
    --------
    sc_vaenb.metrics.overlap_per_batch : Whether neighbourhoods inside a batch stay the same.

    References
    ----------
    .. [1] Wang, Leskovec and Regev (2025), Limitations of cell embedding metrics assessed using drifting islands,
       Nature Biotechnology.
    """
    x = check_embedding(embedding)
    before = check_reference(reference, x)
    types, batches = check_groups(labels, len(x), "labels"), check_groups(batch, len(x), "batch")
    within_batches = np.stack([_distances(before, types, cells) for cells in batches.cells()])
    n_known = (~np.isnan(within_batches)).sum(axis=0)
    expected = np.where(n_known > 0, np.nansum(within_batches, axis=0) / np.maximum(n_known, 1), np.nan)
    distances = _distances(x, types, np.arange(len(x)))
    upper = np.triu_indices(len(types.names), k=1)
    is_known = ~np.isnan(expected[upper]) & ~np.isnan(distances[upper])
    a, b = expected[upper][is_known], distances[upper][is_known]
    if len(a) < _MIN_PAIRS or np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    covariance = np.cov(a, b, aweights=1 / np.maximum(a, _CLOSEST))
    return float((1 + covariance[0, 1] / np.sqrt(covariance[0, 0] * covariance[1, 1])) / 2)
