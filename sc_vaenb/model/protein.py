"""Counts of surface proteins, modelled with a background and a foreground (totalVI, Gayoso et al. 2021).

Antibodies stick to every cell. So the count of a protein comes from one of two negative binomials: background only
(unspecific antibodies), or foreground (background and bound antibodies). The latent state determines the amount of
bound antibodies and the probability of the foreground; the background depends on the batch. Proteins that were not
measured in a cell (NaN) are hidden from the encoder and do not count in the likelihood.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from .config import ModelConfig
from .distributions import negative_binomial
from .minibatch import ForwardState, Minibatch
from .network import MLP

HIDDEN_SHARE = 0.25  # of the cells of a step: their proteins are hidden, so that the encoder also works without
GENES_PER_PROTEIN = 25  # up to this ratio of genes to proteins the weight of a protein is 1, above it grows
MIN_CELLS_TWO_LEVELS = 20  # cells needed to estimate two levels
LEAST_BACKGROUND, LEAST_BOUND = 0.1, 1.0  # minimum initial counts
N_TWO_MEANS_ROUNDS = 10  # rounds of 2-means clustering, enough to converge
LOG_COUNT, LOG_THETA = (-9.0, 16.0), (-4.6, 9.2)  # bounds: values beyond make no difference


def protein_weight(n_genes: int, n_proteins: int) -> float:
    """Weight of a protein's likelihood relative to that of a gene: 1, or more if there are few proteins.

    A protein gives at most one bit (which of the two components a count comes from), the genes of a cell give hundreds
    of nats. On 380 blood cells with 14 proteins, the share of neighbours with the same label (gated on proteins) was
    0.70 with RNA only, 0.74 with the weight 1, 0.79 with 5, 0.77 with 20; with 20, imputed proteins were worse.
    """
    return max(1.0, n_genes / (GENES_PER_PROTEIN * n_proteins))


class Levels(NamedTuple):
    """Parameters of protein counts: logs of the two means, and log odds of the foreground (cells x proteins).

    The mean of the foreground is the sum of background and bound antibodies.
    """

    background: Tensor
    foreground: Tensor
    log_odds: Tensor

    def expected(self) -> tuple[Tensor, Tensor]:
        """Expected counts without the background, and the probability of the foreground."""
        probability = torch.sigmoid(self.log_odds)
        return probability * (self.foreground.exp() - self.background.exp()), probability


def mixture(x: Tensor, levels: Levels, log_theta: Tensor) -> Tensor:
    """Log-probability of counts, elementwise; `log_theta` is that of background and foreground (2, n_proteins)."""
    background, foreground = (
        negative_binomial(x, log_mu, theta.expand_as(x))
        for log_mu, theta in zip(levels[:2], log_theta.clamp(*LOG_THETA), strict=True)
    )
    odds = levels.log_odds
    return torch.logaddexp(logsigmoid(-odds) + background, logsigmoid(odds) + foreground)


class Protein(nn.Module):
    """The negative log-likelihood of proteins as a penalty, and the input of the encoder from proteins.

    A batch has two parameters per protein: its background, and the bound level where the decoder output is 0. Both
    start at estimates from the cells. Learned shifts are added to them; weight decay keeps the shifts small.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        n, n_batches = config.n_proteins, max(config.n_batches, 1)
        self.n_proteins, self.weight = n, config.penalties["protein"]
        style = (config.activation, config.norm, config.dropout)
        self.decoder = MLP(config.n_latent, config.n_covariates, config.decoder_hidden, 2 * n, *style)
        self.log_theta = nn.Parameter(torch.ones(2 * n, dtype=torch.float32))  # a vector: no weight decay
        zeros = partial(torch.zeros, dtype=torch.float32)
        self.background, self.bound = (nn.Buffer(zeros(n_batches, n)) for _ in range(2))
        self.background_shift, self.bound_shift = (nn.Parameter(zeros(n_batches, n)) for _ in range(2))
        self.centre, self.spread = nn.Buffer(zeros(n)), nn.Buffer(zeros(n) + 1)

    @torch.no_grad()
    def initialise(self, batch: Minibatch) -> None:
        """Initialise with the two levels of each protein in each batch."""
        x = batch.side_inputs["protein"]
        logged, n_measured = torch.log1p(x), (~x.isnan()).sum(0).clamp(min=1)
        self.centre.copy_(logged.nansum(0) / n_measured)
        self.spread.copy_(((logged - self.centre).square().nansum(0) / n_measured).sqrt().clamp(min=0.1))
        background, bound, share = two_levels(x)
        levels = torch.stack([two_levels(x[batch.batch_index == code])[:2] for code in range(len(self.background))])
        for buffer, batch_levels, overall_level in (
            (self.background, levels[:, 0], background),
            (self.bound, levels[:, 1], bound),
        ):
            # Batches with too few cells get the mean of the other batches
            filled = batch_levels.where(~batch_levels.isnan(), batch_levels.nanmean(0))
            buffer.copy_(filled.where(~filled.isnan(), overall_level.nan_to_num()))
        self.decoder.output.bias[: self.n_proteins] = 0.0
        self.decoder.output.bias[self.n_proteins :] = share.nan_to_num(0.5).clamp(0.02, 0.98).logit()

    def encoder_input(self, batch: Minibatch) -> Tensor:
        """Input of the encoder, (n_cells, 2 * n_proteins): standardised log counts, and which were measured."""
        not_measured = self.centre.new_full((batch.n_cells, self.n_proteins), torch.nan)
        value = (torch.log1p(batch.side_inputs.get("protein", not_measured)) - self.centre) / self.spread
        if self.training:
            value = value.masked_fill(batch.random(torch.rand, 1) < HIDDEN_SHARE, torch.nan)
        return torch.cat([value.nan_to_num(nan=0.0), (~value.isnan()).float()], 1)

    def decode(
        self, z: Tensor, covariates: list[Tensor], batch_index: Tensor, generator: torch.Generator | None = None
    ) -> Levels:
        """The levels of latent states, decoded in the batches `batch_index`; `covariates` of `CountVAE.covariates`."""
        bound, log_odds = self.decoder(z, covariates, generator).chunk(2, dim=1)
        background = (self.background + self.background_shift)[batch_index].clamp(*LOG_COUNT)
        bound = (bound + (self.bound + self.bound_shift)[batch_index]).clamp(*LOG_COUNT)
        return Levels(background, torch.logaddexp(background, bound), log_odds)

    def forward(self, state: ForwardState) -> Tensor:
        """Weighted negative log-likelihood of the measured proteins, mean over all cells."""
        batch = state.batch
        if "protein" not in batch.side_inputs:
            return state.z.new_zeros(())
        x = batch.side_inputs["protein"]
        levels = self.decode(state.z, list(state.covariates), batch.batch_index, batch.generator)
        log_prob = mixture(x.nan_to_num(nan=0.0), levels, self.log_theta.view(2, -1))
        return -self.weight * log_prob.masked_fill(x.isnan(), 0.0).sum(1).mean()


def two_levels(x: Tensor) -> Tensor:
    """Logs of the lower level and of the difference to the higher level, and the share of the higher (3, n_proteins).

    They come from 2-means clustering of the log counts of each protein, which starts at the smallest and the largest.
    `x` are counts (n_cells, n_proteins). NaN if fewer than `MIN_CELLS_TWO_LEVELS` cells were measured.
    """
    y, is_measured = torch.log1p(x), ~x.isnan()
    if len(x) < MIN_CELLS_TWO_LEVELS:
        return x.new_full((3, x.shape[1]), torch.nan)
    low, high = y.nan_to_num(nan=torch.inf).amin(0), y.nan_to_num(nan=-torch.inf).amax(0)
    for _ in range(N_TWO_MEANS_ROUNDS):
        upper = y > (low + high) / 2
        lower = is_measured & ~upper
        low, high = (torch.where(part, y, 0.0).sum(0) / part.sum(0).clamp(min=1) for part in (lower, upper))
    low_mean, high_mean = (torch.where(part, x, 0.0).sum(0) / part.sum(0).clamp(min=1) for part in (lower, upper))
    background = low_mean.clamp(min=LEAST_BACKGROUND)
    share = upper.sum(0).to(x.dtype) / is_measured.sum(0)
    levels = torch.stack([background.log(), (high_mean - background).clamp(min=LEAST_BOUND).log(), share])
    return levels.where(is_measured.sum(0) >= MIN_CELLS_TWO_LEVELS, torch.nan)
