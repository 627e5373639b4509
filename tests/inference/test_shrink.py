"""Shrinkage: probabilities mean what they say, however the effects are distributed."""

import numpy as np
import pytest
from scipy.stats import norm

from sc_vaenb.inference.shrink import false_discovery_rate, shrink


def draws(effects, rng, n=2000):
    """Effects, estimates of them, and the errors of these, of which some are ten times as large as others."""
    truth, sd = effects(rng, n), rng.uniform(0.1, 1, n)
    return truth, rng.normal(truth, sd), sd


EFFECTS = {
    "few and one-sided": lambda rng, n: np.where(rng.random(n) < 0.1, 2.0, rng.normal(0, 0.05, n)),
    "many and continuous": lambda rng, n: rng.normal(0, 0.5, n),
    "not around zero": lambda rng, n: np.where(rng.random(n) < 0.3, -1.5, 0.1),
}


@pytest.mark.parametrize("effects", EFFECTS.values(), ids=EFFECTS)
def test_the_rate_of_false_discoveries_is_as_promised(effects):
    nominal, shares = np.array([0.05, 0.1, 0.2]), []
    for seed in range(5):
        truth, estimate, sd = draws(effects, np.random.default_rng(seed))
        fdr = false_discovery_rate(shrink(estimate, sd, 0.25).local_fdr)
        shares.append([np.mean(np.abs(truth[fdr <= level]) <= 0.25) for level in nominal])
    np.testing.assert_allclose(np.mean(shares, axis=0), nominal, rtol=0.4)


def test_the_posterior_is_that_of_the_true_prior():
    truth, estimate, sd = draws(EFFECTS["many and continuous"], np.random.default_rng(1))
    found = shrink(estimate, sd, 0.25)
    variance = 1 / (1 / 0.25 + 1 / sd**2)
    mean, spread = variance * estimate / sd**2, np.sqrt(variance)
    expected = norm.cdf(0.25, mean, spread) - norm.cdf(-0.25, mean, spread)
    assert np.abs(found.local_fdr - expected).mean() < 0.04
    assert np.abs(found.mean - mean).mean() < 0.06
    assert np.mean((found.mean - truth) ** 2) < 0.8 * np.mean((estimate - truth) ** 2)


def test_nothing_is_found_where_nothing_is():
    for seed in range(5):
        _, estimate, sd = draws(lambda rng, n: np.zeros(n), np.random.default_rng(seed), n=500)
        assert np.abs(estimate / sd).max() > 2.5  # a test of each would find some
        assert (false_discovery_rate(shrink(estimate, sd, 0.25).local_fdr) > 0.1).all()


def test_exact_estimates_and_hopeless_ones():
    found = shrink(np.array([0.0, 0.1, 5.0, 0.3]), np.array([1e-9, 1e-4, 1e-9, 1e6]), 0.25)
    np.testing.assert_allclose(found.local_fdr[:3], [1, 1, 0], atol=1e-12)
    np.testing.assert_allclose(found.mean[:3], [0, 0.1, 5], atol=0.15)
    assert found.local_fdr[3] > 0.5  # nothing is known of it, and most effects are small


def test_the_rate_is_the_mean_over_all_that_are_no_worse():
    np.testing.assert_allclose(false_discovery_rate(np.array([0.3, 0.0, 0.9, 0.1])), [0.4 / 3, 0, 1.3 / 4, 0.05])


def test_errors_with_few_degrees_of_freedom_are_not_taken_for_effects():
    """Student's t with 3 degrees of freedom lies far out more often: as normal errors, these would be discoveries."""
    rng = np.random.default_rng(0)
    sd = rng.uniform(0.1, 0.5, 3000)
    truth = np.where(rng.random(3000) < 0.1, rng.choice([-2.0, 2.0], 3000), 0)
    estimate = truth + sd * rng.standard_t(3, 3000)
    false = {}
    for name, df in (("normal", None), ("t", np.full(3000, 3.0))):
        called = false_discovery_rate(shrink(estimate, sd, 0.25, df).local_fdr) <= 0.05
        false[name] = np.mean(truth[called] == 0)
        assert np.mean(called[truth != 0]) > 0.5
    assert false["t"] < 0.1
    assert false["normal"] > 0.2
    many = shrink(estimate, sd, 0.25, np.full(3000, 1e6))
    np.testing.assert_allclose(many.local_fdr, shrink(estimate, sd, 0.25).local_fdr, atol=1e-3)
