"""Likelihoods: the distribution of the counts, with parameters from the decoder.

`LIKELIHOODS` maps a name to a class with the same members (`heads`, `initialise`, `log_prob`, `log_mean`, `draw`);
`LINKS` maps a name to the function from the decoder's raw output to the log of the expected expression.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from .distributions import HALF_LOG_2PI, negative_binomial, poisson
from .minibatch import Minibatch
from .nb_kernel import negative_binomial_cells


def _log_softplus(raw: Tensor) -> Tensor:
    # Below -15, softplus(raw) equals exp(raw) in float32, and further below it would be rounded to 0: log(0).
    return torch.where(raw < -15, raw, softplus(raw.clamp(min=-15)).log())


FEW_EXTRA_ZEROS = -4.0  # initial logit of the share of extra zeros: 2 %

LINKS: dict[str, Callable[[Tensor], Tensor]] = {
    "softmax": lambda raw: torch.log_softmax(raw, 1),
    "exp": lambda raw: raw,
    "softplus": _log_softplus,
}
"""From raw decoder output to log expression. `softmax` gives shares of the cell's depth, the others free rates."""

INVERSE_LINKS: dict[str, Callable[[Tensor], Tensor]] = {
    "softmax": torch.log,
    "exp": torch.log,
    "softplus": lambda mean: mean + torch.log(-torch.expm1(-mean)),
}


def gene_moments(batch: Minibatch, values: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of every gene from one value per non-zero (the rest are zeros)."""
    sums = values.new_zeros(2, batch.n_genes)
    sums[0].index_add_(0, batch.gene, values)
    sums[1].index_add_(0, batch.gene, values**2)
    mean, square = sums / batch.n_cells
    return mean, (square - mean**2).clamp(min=0)


class Poisson(nn.Module):
    """Counts with sampling noise only: variance = mean."""

    heads = 1

    def __init__(self, n_genes: int, n_dispersions: int, link: str) -> None:
        super().__init__()
        self.n_genes = n_genes
        self.link, self.inverse_link, self.is_softmax = LINKS[link], INVERSE_LINKS[link], link == "softmax"

    @torch.no_grad()
    def initialise(self, batch: Minibatch) -> Tensor:
        """Set the parameters from the moments of some cells; returns the decoder's output bias (heads * n_genes)."""
        scaled = batch.count / batch.size_factor[batch.row]
        mean, variance = gene_moments(batch, scaled)
        self._initialise(mean, variance - mean * (1 / batch.size_factor).mean())
        half_a_count = 0.5 / batch.n_cells  # keeps genes without counts in these cells finite
        bias = mean.new_full((self.heads, self.n_genes), FEW_EXTRA_ZEROS)
        bias[0] = self.inverse_link(mean + half_a_count)
        return bias.view(-1)

    def _initialise(self, mean: Tensor, extra_variance: Tensor) -> None:
        pass

    def log_prob(self, raw: Tensor, offset: Tensor, batch: Minibatch) -> Tensor:
        """Log-likelihood of each cell.

        Parameters
        ----------
        raw
            (n_cells, heads * n_genes), the decoder's output.
        offset
            (n_cells, 1), added to the log expression; see `CountVAE.offset`.
        batch
            The counts.
        """
        log_mu = self.log_mean(raw, offset)
        nonzero_log_prob = poisson(batch.count, batch.at_nonzeros(log_mu))
        return _sum_cells(-log_mu.exp(), nonzero_log_prob, batch)

    def log_mean(self, raw: Tensor, offset: Tensor) -> Tensor:
        """Log of the expected counts, (n_cells, n_genes), without extra zeros."""
        return self.link(raw[:, : self.n_genes]) + offset

    def draw(self, raw: Tensor, offset: Tensor, batch_index: Tensor, generator: torch.Generator) -> Tensor:
        """Counts drawn from the distribution, (n_cells, n_genes), integers."""
        return torch.poisson(self.log_mean(raw, offset).exp(), generator=generator)


class NegativeBinomial(Poisson):
    """Counts with an over-dispersion per gene: variance = mean + mean^2 / theta (theta small: more dispersed)."""

    def __init__(self, n_genes: int, n_dispersions: int, link: str) -> None:
        super().__init__(n_genes, n_dispersions, link)
        self.log_theta = nn.Parameter(torch.zeros(n_dispersions, n_genes, dtype=torch.float32))

    def _initialise(self, mean: Tensor, extra_variance: Tensor) -> None:
        # A gene without extra variance would have theta = infinity. With the bounds, gradients can still change theta.
        theta = (mean**2 / extra_variance.clamp(min=1e-12)).clamp(0.05, 50.0)
        self.log_theta.copy_(theta.log().expand_as(self.log_theta))

    def log_prob(self, raw: Tensor, offset: Tensor, batch: Minibatch) -> Tensor:
        if self.is_softmax:  # softmax and likelihood are computed together
            return negative_binomial_cells(raw, offset, self.bounded_log_theta(), batch, is_softmax=True)
        return negative_binomial_cells(self.link(raw), offset, self.bounded_log_theta(), batch)

    def draw(self, raw: Tensor, offset: Tensor, batch_index: Tensor, generator: torch.Generator) -> Tensor:
        # A negative binomial is a Poisson whose rate has a gamma distribution with mean mu and shape theta.
        log_theta = self.log_theta_of(batch_index)
        rate = (log_theta - self.log_mean(raw, offset)).exp()
        # torch.distributions.Gamma takes no generator
        gamma = torch._standard_gamma(log_theta.exp().expand_as(rate), generator=generator) / rate
        return torch.poisson(gamma.clamp(min=torch.finfo(gamma.dtype).tiny), generator=generator)

    def log_theta_of(self, batch_index: Tensor) -> Tensor:
        """Bounded log theta of each cell, (n_cells or 1, n_genes)."""
        log_theta = self.bounded_log_theta()
        return log_theta if len(log_theta) == 1 else log_theta[batch_index]

    def bounded_log_theta(self) -> Tensor:
        """log theta, for theta in 1e-4 .. 1e8: values beyond make no difference."""
        return self.log_theta.clamp(-9.2, 18.4)


class ZeroInflatedNegativeBinomial(NegativeBinomial):
    """Negative binomial with a share pi of extra zeros; the decoder gives its logit per cell and gene."""

    heads = 2

    def log_prob(self, raw: Tensor, offset: Tensor, batch: Minibatch) -> Tensor:
        zero_logit = raw[:, self.n_genes :]
        log_mu = self.log_mean(raw, offset)
        log_theta = self.log_theta_of(batch.batch_index).expand_as(log_mu)
        log_p_zero = -log_theta.exp() * softplus(log_mu - log_theta)
        log_not_extra = -softplus(zero_logit)  # log(1 - pi)
        log_p_nonzero = negative_binomial(batch.count, batch.at_nonzeros(log_mu), batch.at_nonzeros(log_theta))
        zeros = log_not_extra + torch.logaddexp(zero_logit, log_p_zero)
        return _sum_cells(zeros, batch.at_nonzeros(log_not_extra) + log_p_nonzero, batch)

    def draw(self, raw: Tensor, offset: Tensor, batch_index: Tensor, generator: torch.Generator) -> Tensor:
        counts = super().draw(raw, offset, batch_index, generator)
        is_extra_zero = (
            torch.rand(counts.shape, generator=generator, dtype=raw.dtype, device=raw.device)
            < raw[:, self.n_genes :].sigmoid()
        )
        return counts.masked_fill(is_extra_zero, 0.0)


class Gaussian(nn.Module):
    """Log-normalised values, log1p(count / size factor), with a variance per gene. The link is not used."""

    heads = 1

    def __init__(self, n_genes: int, n_dispersions: int, link: str) -> None:
        super().__init__()
        self.log_variance = nn.Parameter(torch.zeros(n_dispersions, n_genes, dtype=torch.float32))

    @torch.no_grad()
    def initialise(self, batch: Minibatch) -> Tensor:
        mean, variance = gene_moments(batch, torch.log1p(batch.count / batch.size_factor[batch.row]))
        self.log_variance.copy_(variance.clamp(min=1e-4).log().expand_as(self.log_variance))
        return mean

    def log_prob(self, raw: Tensor, offset: Tensor, batch: Minibatch) -> Tensor:
        log_variance = self.log_variance.clamp(-9.2, 9.2)
        log_variance = log_variance if len(log_variance) == 1 else log_variance[batch.batch_index]
        squares = (batch.dense(batch.log_normalised()) - raw) ** 2 * (-log_variance).exp()
        return -0.5 * (squares + log_variance).sum(1) - HALF_LOG_2PI * batch.n_genes

    def log_mean(self, raw: Tensor, offset: Tensor) -> Tensor:
        """Log of the count that corresponds to the mean of log1p(count / size factor); -inf if that is not positive."""
        return torch.expm1(raw.clamp(min=0)).log() + offset

    def draw(self, raw: Tensor, offset: Tensor, batch_index: Tensor, generator: torch.Generator) -> Tensor:
        """Values drawn on the log1p scale, transformed back and rounded to counts."""
        log_variance = self.log_variance.clamp(-9.2, 9.2)
        log_variance = log_variance if len(log_variance) == 1 else log_variance[batch_index]
        noise = torch.randn(raw.shape, generator=generator, dtype=raw.dtype, device=raw.device)
        values = raw + (0.5 * log_variance).exp() * noise
        return (torch.expm1(values.clamp(min=0)) * offset.exp()).round()


def _sum_cells(zeros: Tensor, nonzeros: Tensor, batch: Minibatch) -> Tensor:
    """Sum of each cell: `zeros` (n_cells, n_genes) where the count is 0, else `nonzeros` (one per non-zero)."""
    only_zeros = zeros.reshape(-1).index_fill(0, batch.position, 0.0).view(zeros.shape)
    return only_zeros.sum(1).index_add(0, batch.row, nonzeros.masked_fill(batch.count == 0, 0.0))


Likelihood = Poisson | NegativeBinomial | ZeroInflatedNegativeBinomial | Gaussian

LIKELIHOODS: dict[str, type[Likelihood]] = {
    "nb": NegativeBinomial,
    "zinb": ZeroInflatedNegativeBinomial,
    "poisson": Poisson,
    "gaussian": Gaussian,
}
