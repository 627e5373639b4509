"""Log-probabilities of single counts, accurate in float32 where the textbook formula is not.

`lgamma(x + theta) - lgamma(theta)` loses all its digits in float32 once x or theta is large. Loader's saddle-point
form (C. Loader 2000, "Fast and accurate computation of binomial probabilities") writes the same probability with
deviances, which are zero at x = mu without cancellation, and with the small error of Stirling's formula.
The gradients are closed forms, also without cancellation.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import softplus

HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


def negative_binomial(x: Tensor, log_mu: Tensor, log_theta: Tensor) -> Tensor:
    """log NB(x | mean mu, inverse dispersion theta), elementwise; the variance is mu + mu^2 / theta.

    All three have the same shape. Differentiable in `log_mu` and `log_theta`.
    """
    return _NegativeBinomial.apply(x, log_mu, log_theta)


def poisson(x: Tensor, log_mu: Tensor) -> Tensor:
    """log Poisson(x | mean mu), elementwise. Differentiable in `log_mu`."""
    return _Poisson.apply(x, log_mu)


def theta_gradient(x: Tensor, mu: Tensor, theta: Tensor) -> Tensor:
    """Derivative of `negative_binomial` in log theta."""
    # theta * (digamma(x + theta) - digamma(theta) - log1p(mu / theta) - (x - mu) / (theta + mu)),
    # The logarithms inside the digammas are combined with the log1p: each alone is large, their sum is not.
    step = (x - mu) / (theta + mu)
    log_step = _log_ratio(x + theta, theta + mu, step)
    return theta * (log_step - step + _digamma_rest(x, theta))


class _NegativeBinomial(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, log_mu: Tensor, log_theta: Tensor) -> Tensor:
        ctx.save_for_backward(x, log_mu, log_theta)
        mu, theta, odds = log_mu.exp(), log_theta.exp(), log_mu - log_theta
        count = torch.where(x > 0, x, 1.0)  # keeps the branch for x > 0 finite at x = 0
        total = count + theta
        # Deviances of the count from its share of the total, and of theta from its share. The differences are +-excess.
        excess = torch.sigmoid(-odds) * (count - mu)
        log_shrink = _log_ratio(total, theta + mu, (count - mu) / (theta + mu))
        deviance = _deviance(count, total * torch.sigmoid(odds), excess, count.log() - log_mu - log_shrink)
        deviance += _deviance(theta, total * torch.sigmoid(-odds), -excess, -log_shrink)
        stirling = _stirling_error(total) - _stirling_error(theta) - _stirling_error(count)
        log_prob = stirling - deviance + 0.5 * (log_theta - total.log() - count.log()) - HALF_LOG_2PI
        return torch.where(x > 0, log_prob, -theta * softplus(odds))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor, Tensor]:
        x, log_mu, log_theta = ctx.saved_tensors
        mu, theta = log_mu.exp(), log_theta.exp()
        return None, grad * torch.sigmoid(log_theta - log_mu) * (x - mu), grad * theta_gradient(x, mu, theta)


class _Poisson(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, log_mu: Tensor) -> Tensor:
        mu, count = log_mu.exp(), torch.where(x > 0, x, 1.0)
        ctx.save_for_backward(x - mu)
        deviance = _deviance(count, mu, count - mu, count.log() - log_mu)
        return torch.where(x > 0, -deviance - _stirling_error(count) - 0.5 * count.log() - HALF_LOG_2PI, -mu)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor]:
        return None, grad * ctx.saved_tensors[0]


def _log_ratio(a: Tensor, b: Tensor, relative: Tensor) -> Tensor:
    """log(a / b), given relative = (a - b) / b without cancellation."""
    return torch.where(relative.abs() < 0.5, torch.log1p(relative), a.log() - b.log())


def _deviance(observed: Tensor, expected: Tensor, difference: Tensor, log_ratio: Tensor) -> Tensor:
    """observed * log(observed / expected) - difference, with difference = observed - expected, without cancellation."""
    relative = difference / expected
    is_small = relative.abs() < 0.1
    relative = torch.where(is_small, relative, 0.0)
    return torch.where(
        is_small, expected * ((1 + relative) * torch.log1p(relative) - relative), observed * log_ratio - difference
    )


def _stirling_error(n: Tensor) -> Tensor:
    """log(n!) minus Stirling's formula, for real n > 0."""
    low, high = n.clamp(max=16.0), n.clamp(min=16.0)
    exact = torch.lgamma(low + 1) - (low + 0.5) * low.log() + low - HALF_LOG_2PI
    square = high * high
    return torch.where(n < 16, exact, (1 / 12 - (1 / 360 - 1 / 1260 / square) / square) / high)


def _digamma_rest(x: Tensor, theta: Tensor) -> Tensor:
    """digamma(x + theta) - digamma(theta) - log((x + theta) / theta)."""
    low, high = theta.clamp(max=8.0), theta.clamp(min=8.0)
    exact = torch.digamma(x + low) - torch.digamma(low) - torch.log1p(x / low)
    a, b = 1 / high, 1 / (x + high)
    series = (a - b) / 2 + (a**2 - b**2) / 12 - (a**4 - b**4) / 120
    return torch.where(theta < 8, exact, series)
