"""Isolated labels: are labels that occur in few batches still separate from all others?"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from .._checks import checked
from .._session import own_state
from ._check import FloatArray, Groups, IntArray, check_embedding, check_groups, defined_mean
from .silhouette import silhouette_samples


def batches_per_label(labels: Groups, batch: Groups) -> IntArray:
    """Count in how many batches each label occurs, shape (n_labels,)."""
    return np.count_nonzero(labels.crosstab(batch), axis=1)


@own_state()
@checked
def isolated_labels(
    embedding: ArrayLike,
    labels: ArrayLike,
    batch: ArrayLike,
    *,
    max_batches: int | None = None,
    widths: FloatArray | None = None,
) -> float:
    """Mean over isolated labels of their mean silhouette width, scaled to (s + 1) / 2.

    Isolated labels are those in at most `max_batches` batches. By silhouette as in scib-metrics 0.5.10; the first scIB
    [1]_ used an F1 score of clusters. Note that where all labels are in all batches every label counts as isolated.

    Parameters
    ----------
    embedding
        Shape (n_cells, n_dimensions).
    labels, batch
        One entry per cell; at least two labels.
    max_batches
        Default: the smallest number of batches that any label occurs in.
    widths
        The result of :func:`silhouette_samples` for these labels, where it is known already.

    Returns
    -------
    Between 0 and 1, higher is better; NaN if no label is in so few batches.

    See Also
    --------
    sc_vaenb.metrics.silhouette_samples : The silhouette widths.

    References
    ----------
    .. [1] Luecken et al. (2022), Benchmarking atlas-level data integration, Nature Methods 19:41-50.
    """
    if widths is None:
        widths = silhouette_samples(embedding, labels)
    elif len(widths := check_embedding(np.ravel(widths)[:, None], "widths", min_cells=1)[:, 0]) != np.size(labels):
        raise ValueError(f"widths has {len(widths)} entries, labels has {np.size(labels)}: pass one of each per cell.")
    label_groups = check_groups(labels, len(widths), "labels", min_groups=2)
    n_batches = batches_per_label(label_groups, check_groups(batch, len(widths), "batch"))
    is_isolated = n_batches <= (n_batches.min() if max_batches is None else max_batches)
    means = np.bincount(label_groups.codes, weights=(widths + 1) / 2) / label_groups.sizes
    return defined_mean(means[is_isolated])
