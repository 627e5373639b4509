"""Largest relative error of the float32 log-probabilities against scipy in float64, over the extremes, as a table.

    python benchmarks/likelihood_accuracy.py

A value nearer to zero than 1e-3 counts as 1e-3. scipy's negative binomial takes theta / (theta + mu), which float64
cannot tell from 1 where theta is far above mu: there the Poisson distribution, its limit, is the reference.
"""

import numpy as np
import torch
from scipy import special, stats

from sc_vaenb.model.distributions import negative_binomial, poisson
from sc_vaenb.model.minibatch import Minibatch
from sc_vaenb.model.nb_kernel import negative_binomial_cells

counts = np.unique(np.round(np.concatenate([np.arange(21), np.logspace(1.4, 6, 40)])))
means, thetas = np.logspace(-8, 6, 43), np.logspace(-4, 8, 37)


def cells(x: torch.Tensor, log_mu: torch.Tensor, log_theta: torch.Tensor) -> torch.Tensor:
    """The kernel of the fit, one count a cell and a gene of its own."""
    seen = torch.nonzero(x).squeeze(1)
    n, one = len(x), torch.zeros(len(x), dtype=torch.int64)
    batch = Minibatch(seen, one[seen], x[seen], torch.ones(n), torch.arange(n), 1)
    return negative_binomial_cells(log_mu[:, None], torch.zeros(n, 1), log_theta[:, None], batch)


def error(found: torch.Tensor, expected: np.ndarray) -> float:
    return float((np.abs(found.double().numpy() - expected) / np.maximum(np.abs(expected), 1e-3)).max())


print(f"{'theta':>18}{'points':>9}{'negative binomial':>20}{'kernel of the fit':>20}{'gradients finite':>18}")
for low, high in ((1e-4, 1e-2), (1e-2, 1), (1, 1e2), (1e2, 1e4), (1e4, 1e6), (1e6, 1e8)):
    chosen = thetas[(thetas >= low * 0.999) & (thetas <= high * 1.001)]
    grid = [axis.ravel() for axis in np.meshgrid(counts, means, chosen)]
    x, log_mu, log_theta = (torch.tensor(v, dtype=torch.float32) for v in (grid[0], np.log(grid[1]), np.log(grid[2])))
    mu, theta = np.exp(log_mu.double().numpy()), np.exp(log_theta.double().numpy())
    p = special.expit(log_theta.double().numpy() - log_mu.double().numpy())
    near = p > 1 - 1e-12
    keep = ~near | (grid[0] ** 2 < 1e-5 * theta)  # the limit holds
    expected = np.where(near, stats.poisson.logpmf(grid[0], mu), stats.nbinom.logpmf(grid[0], theta, p))
    a, b = log_mu.requires_grad_(), log_theta.requires_grad_()
    exact, fast = negative_binomial(x, a, b), cells(x, a, b)
    gradients = torch.autograd.grad(exact.sum() + fast.sum(), [a, b])
    finite = all(bool(torch.isfinite(g).all()) for g in gradients)
    errors = [error(values.detach()[keep], expected[keep]) for values in (exact, fast)]
    print(f"{low:8.0e} ..{high:7.0e}{keep.sum():9,}{errors[0]:20.1e}{errors[1]:20.1e}{finite!s:>18}")
x, log_mu = (torch.tensor(v.ravel(), dtype=torch.float32) for v in np.meshgrid(counts, np.log(means)))
expected = stats.poisson.logpmf(x.numpy(), np.exp(log_mu.double().numpy()))
print(f"Poisson{len(x):20,}{error(poisson(x, log_mu), expected):20.1e}")
