"""Shrinkage of estimates with errors: the distribution of effect sizes is learned from all genes together."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

GRID = np.sinh(np.arange(-120, 121) / 30) / np.sinh(4)  # effect sizes of the prior from -1 to 1, denser near zero
N_ITERATIONS = 30  # more overfit the prior: it becomes spiky, and the probabilities too extreme
PRIOR_NULLS = 10.0  # pseudo-genes without effect, added to the data: in doubt, there is no effect

Values = NDArray[np.float64]


class Shrunken(NamedTuple):
    """Per effect: posterior mean, and posterior probability that it lies within +- delta."""

    mean: Values
    local_fdr: Values


def shrink(estimate: Values, sd: Values, delta: float, df: Values | None = None) -> Shrunken:
    """Posterior of effects, given estimates with normal errors and a prior that is learned from all estimates.

    With `df`, the degrees of freedom of the standard deviations, errors have Student's t distributions.

    The prior is any distribution on a grid of effect sizes, fitted to the estimates by the EM algorithm (Laird 1978;
    for false discovery rates Stephens 2017), with some pseudo-observations at zero. Stopping early keeps it smooth.
    """
    max_effect = max(1.05 * np.abs(estimate).max(), 2 * delta)
    grid = max_effect * GRID
    squared = ((estimate[:, None] - grid) / sd[:, None]) ** 2
    log_density = -0.5 * squared if df is None else -0.5 * (df[:, None] + 1) * np.log1p(squared / df[:, None])
    density = np.exp(log_density - log_density.max(axis=1, keepdims=True))
    nulls = PRIOR_NULLS * (grid == 0)
    prior = np.full(len(grid), 1 / len(grid))
    for _ in range(N_ITERATIONS):
        prior = prior * (density.T @ (1 / (density @ prior))) + nulls
        prior /= prior.sum()
    posterior = density * prior
    posterior /= posterior.sum(axis=1, keepdims=True)
    return Shrunken(posterior @ grid, posterior[:, np.abs(grid) <= delta].sum(axis=1))


def false_discovery_rate(local_fdr: Values) -> Values:
    """Per effect, expected share of false effects among it and those with smaller local FDR (Newton et al. 2004)."""
    order = np.argsort(local_fdr, kind="stable")
    rate = np.empty(len(local_fdr))
    rate[order] = np.cumsum(local_fdr[order]) / np.arange(1, len(local_fdr) + 1)
    return rate
