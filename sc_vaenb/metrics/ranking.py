"""Test whether one method is better than another beyond chance, from seeds and paired draws of cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._check import FloatArray, IntArray, check_groups
from .scoring import score
from .subsample import stratified_draw

N_DRAWS = 6
MAX_DRAWN = 750
MIN_CELLS = 40  # from which draws can be scored
SEED_SD = 0.02
"""Prior standard deviation of a total over seeds, with the weight of `PRIOR_SEEDS` seeds."""
PRIOR_SEEDS = 3
ALPHA = 0.05


class Lead(NamedTuple):
    """Difference of two methods, its standard error from seeds and cells, and its two-sided p value."""

    difference: float
    se: float
    p: float


def draw_cells(strata: Sequence[ArrayLike], n_cells: int, rng: int | np.random.Generator = 0) -> list[IntArray]:
    """Draw 6 samples of half of the cells (at most 750), in proportion to the strata; none where there are under 40."""
    if n_cells < MIN_CELLS:
        return []
    stratum = np.zeros(n_cells, dtype=np.intp)
    for values in strata:
        groups = check_groups(values, n_cells, "strata")
        stratum = np.unique(stratum * len(groups.names) + groups.codes, return_inverse=True)[1]
    n_strata = int(stratum.max()) + 1
    n_drawn = max(min(n_cells // 2, MAX_DRAWN), min(2 * n_strata, n_cells - 1))
    if n_drawn < 2 * n_strata:  # nearly every cell is its own stratum
        return []
    generator = np.random.default_rng(rng)
    return [stratified_draw(stratum, n_drawn, generator) for _ in range(N_DRAWS)]


def score_draws(
    embedding: ArrayLike,
    labels: NDArray | None,
    batch: NDArray,
    reference: NDArray | None,
    metrics: Sequence[str],
    draws: Sequence[IntArray],
) -> list[dict[str, float]]:
    """Score an embedding on each of the draws; the same draws make methods comparable cell by cell."""
    x = np.asarray(embedding)
    return [
        score(
            x[cells],
            None if labels is None else labels[cells],
            batch[cells],
            reference=None if reference is None else reference[cells],
            metrics=metrics,
            max_cells=None,
        )
        for cells in draws
    ]


def seed_variance(totals: Mapping[str, Sequence[float]]) -> tuple[float, int]:
    """Variance of a total over seeds, pooled over methods and moderated towards `SEED_SD`, and its degrees of freedom.

    As in limma for genes (Smyth 2004): a few seeds give a poor estimate of the variance, and two seeds that agree by
    chance would make a tiny difference significant.
    """
    squares, n = PRIOR_SEEDS * SEED_SD**2, PRIOR_SEEDS
    for values in totals.values():
        if len(values) > 1:
            squares += float(np.var(values)) * len(values)
            n += len(values) - 1
    return squares / n, n


def lead(
    first: Sequence[float],
    second: Sequence[float],
    drawn: FloatArray,
    variance: float,
    freedom: int,
    *,
    fixed: tuple[bool, bool] = (False, False),
    drawn_share: float = 0.5,
) -> Lead:
    """Test the difference of two methods' totals.

    Parameters
    ----------
    first, second
        Totals of each seed, for the first and the second method.
    drawn
        Differences of the totals on each draw of cells.
    variance, freedom
        From :func:`seed_variance`.
    fixed
        Whether the first and the second method do not depend on a seed (as PCA).
    drawn_share
        Share f of the cells in a draw: the variance of draws is (1 - f) / f of that of a new sample of all cells.
    """
    from scipy.stats import t

    difference = float(np.mean(first) - np.mean(second))
    seed_part = sum(
        0.0 if is_fixed else variance / len(values) for values, is_fixed in zip((first, second), fixed, strict=True)
    )
    drawn = drawn[np.isfinite(drawn)]
    cell_part = float(np.var(drawn, ddof=1)) * drawn_share / (1 - drawn_share) if len(drawn) > 1 else 0.0
    se = float(np.sqrt(seed_part + cell_part))
    if not se > 0:
        return Lead(difference, 0.0, 1.0 if difference == 0 else 0.0)
    df = se**4 / (seed_part**2 / freedom + cell_part**2 / max(len(drawn) - 1, 1))  # Welch-Satterthwaite
    return Lead(difference, se, float(2 * t.sf(abs(difference) / se, df)))
