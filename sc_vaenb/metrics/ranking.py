"""Is one method better than another beyond chance? Paired draws of cells beside seeds."""

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
MIN_CELLS = 40  # of which draws can still be scored
SEED_SD = 0.02
"""Standard deviation of a total over seeds that is assumed beforehand, with the weight of `PRIOR_SEEDS` seeds."""
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
    code = np.zeros(n_cells, dtype=np.intp)
    for values in strata:
        groups = check_groups(values, n_cells, "strata")
        code = np.unique(code * len(groups.names) + groups.codes, return_inverse=True)[1]
    n_strata = int(code.max()) + 1
    size = max(min(n_cells // 2, MAX_DRAWN), min(2 * n_strata, n_cells - 1))
    if size < 2 * n_strata:  # nearly every cell is a stratum of its own
        return []
    generator = np.random.default_rng(rng)
    return [stratified_draw(code, size, generator) for _ in range(N_DRAWS)]


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

    As limma does for genes (Smyth 2004): few seeds say little of their variance, and two that agree by chance would
    make a difference of nothing certain.
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
        Totals of the seeds of either.
    drawn
        Differences of the totals on each draw of cells.
    variance, freedom
        Of :func:`seed_variance`.
    fixed
        Whether either depends on no seed (PCA).
    drawn_share
        Share of the cells in a draw: draws of a share f vary by (1 - f) / f of what a sample of all cells would.
    """
    from scipy.stats import t

    difference = float(np.mean(first) - np.mean(second))
    of_seeds = sum(
        0.0 if alone else variance / len(values) for values, alone in zip((first, second), fixed, strict=True)
    )
    drawn = drawn[np.isfinite(drawn)]
    of_cells = float(np.var(drawn, ddof=1)) * drawn_share / (1 - drawn_share) if len(drawn) > 1 else 0.0
    se = float(np.sqrt(of_seeds + of_cells))
    if not se > 0:
        return Lead(difference, 0.0, 1.0 if difference == 0 else 0.0)
    df = se**4 / (of_seeds**2 / freedom + of_cells**2 / max(len(drawn) - 1, 1))  # Welch-Satterthwaite
    return Lead(difference, se, float(2 * t.sf(abs(difference) / se, df)))
