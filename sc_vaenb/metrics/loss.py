"""Labels that an embedding has lost: the fall of their purity, with a bootstrap over the cells of each label."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from ._check import FloatArray, check_groups
from .neighbors import Neighbors

FALL = 0.10
"""A label counts as lost if its purity falls by this much or more, and the bootstrap excludes half of it."""
_LEVEL = 0.05
_N_BOOTSTRAPS = 400  # samples of a label's cells, with replacement
MIN_CELLS = 10  # of a label; smaller ones are left out


class Loss(NamedTuple):
    """Purity of the neighbours of a label's cells before and after integration, and the limits of its fall.

    Attributes
    ----------
    low, high
        5 % and 95 % quantile of the fall, over a bootstrap of the label's cells.
    """

    label: str
    n_cells: int
    before: float
    after: float
    low: float
    high: float

    @property
    def lost(self) -> bool:
        """Whether the fall is at least `FALL`, and its lower limit is above half of `FALL`."""
        return self.before - self.after >= FALL and self.low > FALL / 2


def purity_per_cell(neighbors: Neighbors, labels: ArrayLike) -> FloatArray:
    """Share of each cell's neighbours that have its label. Of a label of n cells, at most n - 1 neighbours count.

    Returns
    -------
    Shape (n_cells,); NaN for a label of one cell.
    """
    groups = check_groups(labels, neighbors.n_cells, "labels")
    others = groups.sizes[groups.codes] - 1
    same = groups.codes[neighbors.indices[:, 1:]] == groups.codes[:, None]
    is_counted = np.arange(same.shape[1]) < others[:, None]
    n_counted = is_counted.sum(axis=1)
    return np.where(n_counted > 0, (same & is_counted).sum(axis=1) / np.maximum(n_counted, 1), np.nan)


def losses(before: FloatArray, after: FloatArray, labels: ArrayLike) -> list[Loss]:
    """Compare the purity of each label in two embeddings, cell by cell; labels of fewer than 10 cells are left out.

    Parameters
    ----------
    before, after
        From :func:`purity_per_cell`, shape (n_cells,).
    labels
        One entry per cell.

    Returns
    -------
    One entry for each label, in the sorted order of names.
    """
    groups = check_groups(labels, len(before), "labels")
    generator = np.random.default_rng(0)
    results = []
    for name, cells in zip(groups.names, groups.cells(), strict=True):
        if len(cells) < MIN_CELLS:
            continue
        fall = before[cells] - after[cells]
        weights = generator.multinomial(len(cells), np.full(len(cells), 1 / len(cells)), _N_BOOTSTRAPS)
        low, high = np.quantile(weights @ fall / len(cells), [_LEVEL, 1 - _LEVEL])
        results.append(
            Loss(name, len(cells), float(before[cells].mean()), float(after[cells].mean()), float(low), float(high))
        )
    return results
