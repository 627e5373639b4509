"""Variances of many genes from few replicates each: each variance is shrunk towards a prior (Smyth 2004, limma)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import digamma, polygamma

MIN_S2 = 1e-5  # times the median: replaces a sample variance of zero

Values = NDArray[np.float64]


class VariancePrior(NamedTuple):
    """Scaled inverse chi-squared distribution: the variances of genes are s2 * df / chi2(df)."""

    df: float  # infinite if variances differ only by their estimation errors
    s2: float


def fit_prior(s2: Values, df: Values, caution: float = 0.0) -> VariancePrior:
    """Fit the prior to sample variances with `df` degrees of freedom, by the mean and variance of their logarithms.

    With few genes, the degrees of freedom are uncertain, and too large a value makes errors too small. `caution` adds
    this number of standard errors to the estimated spread of the variances.
    """
    log_variance = _log_variance(s2, df)
    squared = (log_variance - log_variance.mean()) ** 2
    n = len(log_variance)
    spread = (squared.sum() + caution * np.sqrt(n) * squared.std()) / max(n - 1, 1) - polygamma(1, df / 2).mean()
    prior_df = 2 * inverse_trigamma(float(spread)) if spread > 0 else np.inf
    return VariancePrior(prior_df, fit_scale(s2, df, prior_df))


def fit_scale(s2: Values, df: Values, prior_df: float) -> float:
    """The s2 of the prior, given its degrees of freedom."""
    shift = 0.0 if np.isinf(prior_df) else digamma(prior_df / 2) - np.log(prior_df / 2)
    return float(np.exp(_log_variance(s2, df).mean() + shift))


def _log_variance(s2: Values, df: Values) -> Values:
    """Logarithms of variances, corrected for the bias at few degrees of freedom."""
    s2 = np.maximum(s2, max(MIN_S2 * np.median(s2), np.finfo(np.float64).tiny))
    return np.log(s2) - digamma(df / 2) + np.log(df / 2)


def inverse_trigamma(value: float) -> float:
    """The x with trigamma(x) = value, by Newton's method on 1 / trigamma, which is convex and nearly linear."""
    x = 0.5 + 1 / value
    for _ in range(50):
        trigamma = float(polygamma(1, x))
        step = trigamma * (1 - trigamma / value) / float(polygamma(2, x))
        x += step
        if abs(step) < 1e-10 * x:
            break
    return x


def moderate(s2: Values, df: Values, prior: VariancePrior) -> Values:
    """Mean of the sample variance and the prior variance, weighted by their degrees of freedom."""
    if np.isinf(prior.df):
        return np.full_like(s2, prior.s2)
    return (prior.df * prior.s2 + df * s2) / (prior.df + df)
