"""Log-probabilities in float32 against scipy in float64, over everything that counts can do."""

import itertools

import numpy as np
import pytest
import torch
from scipy import special, stats

from sc_vaenb.model.distributions import negative_binomial, poisson

X = [0, 1, 2, 3, 15, 16, 17, 100, 1_000, 12_345, 980_000, 1_000_000]
MU = [1e-8, 1e-4, 0.01, 0.5, 1, 7.3, 100, 990, 1e4, 9.9e5, 1e6]
THETA = [1e-4, 1e-2, 0.1, 1, 7.9, 8.1, 15.9, 16.1, 1e3, 1e5, 1e8]


@pytest.fixture(scope="module")
def grid():
    """Float32 inputs, and the same numbers in float64: the function is tested, not the rounding of its input."""
    x, mu, theta = map(np.array, zip(*itertools.product(X, MU, THETA), strict=True))
    tensors = [torch.tensor(v, dtype=torch.float32) for v in (x, np.log(mu), np.log(theta))]
    return tensors, [t.double().numpy() for t in tensors]


def relative(value, expected):
    """Error over the size of the value; values below 1e-3 count as 1e-3."""
    return np.abs(value.detach().double().numpy() - expected) / np.maximum(np.abs(expected), 1e-3)


def test_negative_binomial_agrees_with_scipy_over_the_extremes(grid):
    (x, log_mu, log_theta), (x64, log_mu64, log_theta64) = grid
    found = negative_binomial(x, log_mu, log_theta)
    # scipy takes the probability theta / (theta + mu), which float64 cannot tell from 1 where theta >> mu
    p = special.expit(log_theta64 - log_mu64)
    good = p < 1 - 1e-12
    assert good.mean() > 0.9
    expected = stats.nbinom.logpmf(x64[good], np.exp(log_theta64[good]), p[good])
    assert relative(found[good], expected).max() < 1e-4
    # There it is a Poisson distribution, up to a factor of about (x - mu)^2 / theta in the probability.
    poisson_like = ~good & (x64 < 20)
    assert poisson_like.sum() > 5
    expected = stats.poisson.logpmf(x64[poisson_like], np.exp(log_mu64[poisson_like]))
    assert relative(found[poisson_like], expected).max() < 1e-4


def test_poisson_agrees_with_scipy_over_the_extremes(grid):
    (x, log_mu, _), (x64, log_mu64, _) = grid
    assert relative(poisson(x, log_mu), stats.poisson.logpmf(x64, np.exp(log_mu64))).max() < 1e-4


def test_float32_agrees_with_float64(grid):
    tensors, _ = grid
    in_double = negative_binomial(*(t.double() for t in tensors))
    assert relative(negative_binomial(*tensors), in_double.numpy()).max() < 1e-4


def test_gradients_are_finite_over_the_extremes(grid):
    (x, log_mu, log_theta), _ = grid
    log_mu, log_theta = log_mu.clone().requires_grad_(), log_theta.clone().requires_grad_()
    (negative_binomial(x, log_mu, log_theta).sum() + poisson(x, log_mu).sum()).backward()
    assert torch.isfinite(log_mu.grad).all()
    assert torch.isfinite(log_theta.grad).all()


def test_a_mean_that_underflows_keeps_value_and_gradient():
    log_mu = torch.tensor([-200.0, -200.0], requires_grad=True)
    x = torch.tensor([0.0, 3.0])
    value = negative_binomial(x, log_mu, torch.zeros(2))
    value.sum().backward()
    assert value[0] == 0
    assert value[1].item() == pytest.approx(-600.0, rel=1e-5)
    assert log_mu.grad.tolist() == pytest.approx([0.0, 3.0])


def plain(x, log_mu, log_theta):
    """The textbook formula."""
    mu, theta = log_mu.exp(), log_theta.exp()
    return (
        torch.lgamma(x + theta)
        - torch.lgamma(theta)
        - torch.lgamma(x + 1)
        + theta * (log_theta - (theta + mu).log())
        + x * (log_mu - (theta + mu).log())
    )


def test_gradients_agree_with_autograd_of_the_plain_formula():
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 200, (4000,), generator=generator).double()
    log_mu = 4 * torch.randn(4000, generator=generator).double()
    log_theta = 2 * torch.randn(4000, generator=generator).double()
    expected = torch.autograd.grad(
        plain(x, a := log_mu.clone().requires_grad_(), b := log_theta.clone().requires_grad_()).sum(), [a, b]
    )
    a, b = log_mu.float().requires_grad_(), log_theta.float().requires_grad_()
    found = torch.autograd.grad(negative_binomial(x.float(), a, b).sum(), [a, b])
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine.double(), theirs, rtol=2e-4, atol=2e-4)


def test_fractions_are_interpolated():
    x = torch.tensor([0.01, 0.3, 1.5, 20.5])
    log_mu, log_theta = torch.tensor([0.3, -2, 1.1, 4]), torch.tensor([0.5, 3, -1, 2.2])
    expected = plain(x.double(), log_mu.double(), log_theta.double())
    torch.testing.assert_close(negative_binomial(x, log_mu, log_theta).double(), expected, rtol=1e-5, atol=1e-6)


def test_gradients_pass_gradcheck():
    x = torch.tensor([0.0, 1, 4, 30, 500], dtype=torch.float64)
    log_mu = torch.tensor([0.3, -2, 1.1, 4, 5], dtype=torch.float64, requires_grad=True)
    log_theta = torch.tensor([0.5, 3, -1, 2.2, 6], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a, b: negative_binomial(x, a, b), (log_mu, log_theta))
    assert torch.autograd.gradcheck(lambda a: poisson(x, a), (log_mu,))
