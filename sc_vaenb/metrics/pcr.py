"""Principal component regression: the variance that the batch explains, before and after integration."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from .._checks import checked
from .._session import own_state
from ._check import FloatArray, Groups, check_embedding, check_groups


def _explained(x: FloatArray, groups: Groups) -> float:
    x = x - x.mean(axis=0)
    sums = np.zeros((len(groups.names), x.shape[1]))
    np.add.at(sums, groups.codes, x)
    total = float(np.square(x).sum())
    between = float((np.square(sums).sum(axis=1) / groups.sizes).sum())
    return between / total if total > 0 else 0.0


@own_state()
@checked
def variance_explained(embedding: ArrayLike, batch: ArrayLike) -> float:
    """Share of an embedding's variance that the batch explains.

    Principal component regression [1]_ with all components: the R2 of each component on the batch, weighted by its
    variance. That sum is the between-batch share of the total sum of squares in any rotation, so no PCA is needed.

    Parameters
    ----------
    embedding
        Shape (n_cells, n_dimensions).
    batch
        One entry per cell.

    Returns
    -------
    Between 0 and 1; 0 for an embedding without variance.

    See Also
    --------
    sc_vaenb.metrics.pcr_comparison : Compared with before integration.

    References
    ----------
    .. [1] Buettner et al. (2019), A test metric for assessing single-cell RNA-seq batch correction,
       Nature Methods 16:43-49.
    """
    x = check_embedding(embedding)
    return _explained(x, check_groups(batch, x.shape[0], "batch", min_groups=2))


@own_state()
@checked
def pcr_comparison(embedding: ArrayLike, reference: ArrayLike, batch: ArrayLike) -> float:
    """Reduction of the variance that the batch explains, (before - after) / before.

    1: the batch explains nothing any more; 0: as much as before, or more (then scib-metrics warns; here the docstring
    says it). Equals `pcr_comparison(reference, embedding, batch, categorical=True)` of scib-metrics 0.5.10.

    Parameters
    ----------
    embedding
        After integration, shape (n_cells, n_dimensions).
    reference
        Before integration, such as the PCA of the log-normalised counts; same cells, any number of dimensions.
    batch
        One entry per cell; at least two batches.

    Returns
    -------
    Between 0 and 1; NaN if the batch explains nothing before.

    See Also
    --------
    sc_vaenb.metrics.variance_explained : The variance that is compared.

    References
    ----------
    .. [1] Buettner et al. (2019), A test metric for assessing single-cell RNA-seq batch correction, Nature Methods
       16:43-49.
    .. [2] Luecken et al. (2022), Benchmarking atlas-level data integration, Nature Methods 19:41-50.
    """
    x = check_embedding(embedding)
    before_x = check_reference(reference, x)
    groups = check_groups(batch, x.shape[0], "batch", min_groups=2)
    before = _explained(before_x, groups)
    return max(0.0, (before - _explained(x, groups)) / before) if before > 1e-12 else float("nan")


def check_reference(reference: ArrayLike, embedding: FloatArray) -> FloatArray:
    """Return the unintegrated reference as a checked array of as many cells as the embedding."""
    array = check_embedding(reference, "reference")
    if len(array) != len(embedding):
        raise ValueError(
            f"reference has {len(array)} cells but embedding has {len(embedding)}: "
            "pass the unintegrated embedding of the same cells in the same order."
        )
    return array
