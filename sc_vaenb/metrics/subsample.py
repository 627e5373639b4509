"""Draws of cells that keep every batch and label."""

from __future__ import annotations

import numpy as np

from ._check import IntArray

_FLOOR = 10


def stratified_draw(strata: IntArray, n_cells: int, rng: np.random.Generator) -> IntArray:
    """Draw at most `n_cells` cells without replacement, proportionally from each stratum, rare ones favoured.

    Each stratum first keeps up to 10 cells (fewer if that would take more than half of the draw). The rest of the draw
    is divided in proportion to the remaining cells. So no batch or label vanishes, but the shares of rare strata are
    slightly too large.

    Parameters
    ----------
    strata
        Code of each cell's stratum (batch x label), shape (n_total,).
    n_cells
        Size of the draw.
    rng
        Random generator.

    Returns
    -------
    Sorted indices of the drawn cells.
    """
    _, strata, sizes = np.unique(strata, return_inverse=True, return_counts=True)
    floor = min(_FLOOR, n_cells // (2 * len(sizes)))
    if floor < 1:
        raise ValueError(
            f"max_cells is {n_cells} but batch and labels form {len(sizes)} combinations: "
            f"pass max_cells of at least {2 * len(sizes)}, or max_cells=None to use all cells."
        )
    if n_cells >= len(strata):
        return np.arange(len(strata))
    quota = np.minimum(sizes, floor)
    n_left = sizes - quota
    quota = quota + n_left * (n_cells - quota.sum()) // n_left.sum()
    shuffled = rng.permutation(len(strata))
    order = shuffled[np.argsort(strata[shuffled], kind="stable")]
    rank = np.arange(len(strata)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return np.sort(order[rank < np.repeat(quota, sizes)])
