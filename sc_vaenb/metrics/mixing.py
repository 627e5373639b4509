"""A simple measure of mixing: the share of a cell's neighbours of its type that are from its own batch."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from .._checks import checked
from .._session import own_state
from ._check import Groups, check_embedding, check_groups
from .neighbors import knn_within


class Mixing(NamedTuple):
    """Observed share of neighbours from the own batch, the share expected under perfect mixing, and the excess."""

    share: float
    expected: float

    @property
    def excess(self) -> float:
        """The share above expectation, (share - expected) / (1 - expected).

        0 if batches are perfectly mixed, 1 if they are apart, below 0 if they alternate more than by chance.
        """
        return (self.share - self.expected) / (1 - self.expected) if self.expected < 1 else float("nan")


@own_state()
@checked
def same_batch_share(embedding: ArrayLike, batch: ArrayLike, labels: ArrayLike | None = None, *, k: int = 30) -> Mixing:
    """Share of a cell's `k` nearest cells of its own label that come from its own batch, averaged over cells.

    Neighbours are searched among the cells of the same label, so that labels that differ in their batches do not look
    unmixed. Perfect mixing gives (n - 1) / (N - 1) for a cell with n of the N cells of its label in its batch; the mean
    of that is returned too, as the observed share says little without it. Labels in one batch are left out.

    Parameters
    ----------
    embedding
        Shape (n_cells, n_dimensions).
    batch
        One entry per cell; at least two batches.
    labels
        One label per cell; without labels all cells count as one.
    k
        Neighbours, at most a quarter of the label's cells.

    Returns
    -------
    `share`, `expected`, and from these `excess`; NaN if no label is in two batches.

    See Also
    --------
    sc_vaenb.metrics.ilisi : Mixing by LISI.
    sc_vaenb.metrics.cilisi : Mixing within each label.
    """
    x = check_embedding(embedding)
    batches = check_groups(batch, x.shape[0], "batch", min_groups=2)
    groups = Groups(np.zeros(x.shape[0], dtype=np.intp), ["all"])
    if labels is not None:
        groups = check_groups(labels, x.shape[0], "labels")
    shares, expected = [], []
    for _, cells, neighbors in knn_within(x, groups, k):
        batch_codes = batches.codes[cells]
        sizes = np.bincount(batch_codes)
        if sizes.max() < len(cells):
            shares.append((batch_codes[neighbors] == batch_codes[:, None]).mean(axis=1))
            expected.append((sizes[batch_codes] - 1) / (len(cells) - 1))
    if not shares:
        return Mixing(float("nan"), float("nan"))
    return Mixing(float(np.concatenate(shares).mean()), float(np.concatenate(expected).mean()))
