"""Moderated variances: limma's closed forms, recomputed with scipy."""

import numpy as np
import pytest
from scipy import stats
from scipy.special import digamma, polygamma

from sc_vaenb.inference.variance_prior import VariancePrior, fit_prior, inverse_trigamma, moderate


@pytest.mark.parametrize("x", [1e-3, 0.1, 1.0, 2.5, 40.0, 1e5])
def test_trigamma_is_inverted(x):
    assert inverse_trigamma(float(polygamma(1, x))) == pytest.approx(x, rel=1e-8)


def test_the_prior_has_the_moments_of_the_log_variances():
    """Equations of Smyth (2004), section 6.2: mean and variance of log s2 under the fitted prior are the observed."""
    rng = np.random.default_rng(0)
    df = np.full(300, 5.0)
    s2 = 2 * stats.invgamma(2, scale=2).rvs(300, random_state=rng) * rng.chisquare(5, 300) / 5
    prior = fit_prior(s2, df)
    z = np.log(s2)
    expected = np.log(prior.s2) + digamma(2.5) - digamma(prior.df / 2) + np.log(prior.df / 5)
    assert z.mean() == pytest.approx(expected, abs=1e-8)
    assert z.var(ddof=1) == pytest.approx(polygamma(1, 2.5) + polygamma(1, prior.df / 2), rel=1e-6)


@pytest.mark.parametrize(("prior_df", "prior_s2", "df"), [(4.0, 0.5, 2), (10.0, 3.0, 6), (40.0, 1.0, 3)])
def test_the_prior_is_found_again_and_makes_t_statistics(prior_df, prior_s2, df):
    rng = np.random.default_rng(1)
    variance = prior_s2 * prior_df / rng.chisquare(prior_df, 20_000)
    s2, dfs = variance * rng.chisquare(df, len(variance)) / df, np.full(len(variance), float(df))
    prior = fit_prior(s2, dfs)
    assert prior.df == pytest.approx(prior_df, rel=0.35)
    assert prior.s2 == pytest.approx(prior_s2, rel=0.05)
    t = rng.normal(0, np.sqrt(variance)) / np.sqrt(moderate(s2, dfs, prior))
    p = 2 * stats.t.sf(np.abs(t), prior.df + df)
    assert stats.kstest(p, "uniform").statistic < 0.015
    assert stats.kstest(2 * stats.t.sf(np.abs(t), df), "uniform").statistic > 0.015  # the moderated df matter


def test_variances_are_drawn_towards_the_prior():
    s2, df = np.array([0.0, 1.0, 8.0]), np.array([2.0, 2.0, 6.0])
    np.testing.assert_allclose(moderate(s2, df, VariancePrior(2.0, 3.0)), [1.5, 2.0, 6.75])
    np.testing.assert_allclose(moderate(s2, df, VariancePrior(np.inf, 3.0)), 3.0)


def test_variances_that_differ_by_their_errors_alone_are_one():
    s2 = np.random.default_rng(0).chisquare(4, 5000) / 4
    s2 = np.sort(s2)[100:-100]  # differ by a little less
    prior = fit_prior(s2, np.full(len(s2), 4.0))
    assert np.isinf(prior.df)
    assert prior.s2 == pytest.approx(1, abs=0.1)
    assert fit_prior(np.zeros(3), np.full(3, 2.0)).s2 > 0
