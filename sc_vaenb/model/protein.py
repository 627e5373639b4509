"""Counts of surface proteins beside those of genes: of each protein a background and a foreground (Gayoso et al. 2021).

Antibodies stick to every cell. So the count of a protein comes from one of two negative binomials: of the background
alone, or of the background and what is bound. The latent state says how much that is, and how likely; the background
belongs to the batch. A protein that was not measured in a cell (NaN) is neither shown to the encoder nor counted.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from .distributions import negative_binomial
from .network import MLP

if TYPE_CHECKING:
    from .config import ModelConfig
    from .minibatch import Minibatch
    from .penalty import ForwardState
    from .vae import CountVAE

HIDDEN = 0.25  # share of the cells of a step whose proteins the encoder does not see, so that it can do without
GENES_A_PROTEIN = 25  # there are in a sample of cells for each protein, or each protein counts for more than one
A_FEW = 20  # cells, from which two levels can be told
LEAST_BACKGROUND, LEAST_BOUND = 0.1, 1.0  # counts to start from
N_TWO_MEANS_ROUNDS = 10  # of two means; they have settled by then
LOG_COUNT, LOG_THETA = (-9.0, 16.0), (-4.6, 9.2)  # beyond which nothing can be told apart


def protein_weight(n_genes: int, n_proteins: int) -> float:
    """What the likelihood of a protein counts beside that of a gene: 1, or more where there are few proteins.

    Which of two components a count comes from is worth a bit at most, against some hundred nats that the genes of a
    cell are worth. On 380 blood cells with 14 proteins, the share of neighbours with the label (gated from proteins)
    was 0.70 of RNA alone, 0.74 with the weight 1, 0.79 with 5, 0.77 with 20; with 20 imputed proteins were worse.
    """
    return max(1.0, n_genes / (GENES_A_PROTEIN * n_proteins))


class Levels(NamedTuple):
    """What the counts of proteins are made of: logs of the two means, and log odds of the foreground; cells x proteins.

    The second mean is that of the foreground, background and bound together.
    """

    background: Tensor
    foreground: Tensor
    log_odds: Tensor

    def expected(self) -> tuple[Tensor, Tensor]:
        """Counts to expect without the background, and the probability of the foreground."""
        probability = torch.sigmoid(self.log_odds)
        return probability * (self.foreground.exp() - self.background.exp()), probability


def mixture(x: Tensor, levels: Levels, log_theta: Tensor) -> Tensor:
    """Log-probability of counts, elementwise; `log_theta` holds those of background and foreground (2, n_proteins)."""
    background, foreground = (
        negative_binomial(x, log_mu, theta.expand_as(x))
        for log_mu, theta in zip(levels[:2], log_theta.clamp(*LOG_THETA), strict=True)
    )
    odds = levels.log_odds
    return torch.logaddexp(logsigmoid(-odds) + background, logsigmoid(odds) + foreground)


class Protein(nn.Module):
    """The negative log-likelihood of proteins as a penalty, and what the encoder sees of them.

    What a batch does to a protein is two numbers: its background, and how much is bound where the decoder says 0. Both
    start at what the cells show, from where weight decay lets them move as far as the counts insist.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        n, n_batches = config.n_proteins, max(config.n_batches, 1)
        self.n_proteins, self.weight = n, config.penalties["protein"]
        style = (config.activation, config.norm, config.dropout)
        self.decoder = MLP(config.n_latent, config.n_covariates, config.decoder_hidden, 2 * n, *style)
        self.log_theta = nn.Parameter(torch.ones(2 * n, dtype=torch.float32))  # a vector, which does not decay
        zeros = partial(torch.zeros, dtype=torch.float32)
        self.background, self.bound = (nn.Buffer(zeros(n_batches, n)) for _ in range(2))
        self.background_shift, self.bound_shift = (nn.Parameter(zeros(n_batches, n)) for _ in range(2))
        self.centre, self.spread = nn.Buffer(zeros(n)), nn.Buffer(zeros(n) + 1)

    @torch.no_grad()
    def initialise(self, batch: Minibatch) -> None:
        """Start at the two levels of each protein in each batch."""
        x = batch.side_inputs["protein"]
        logged, seen = torch.log1p(x), (~x.isnan()).sum(0).clamp(min=1)
        self.centre.copy_(logged.nansum(0) / seen)
        self.spread.copy_(((logged - self.centre).square().nansum(0) / seen).sqrt().clamp(min=0.1))
        background, bound, share = two_levels(x)
        levels = torch.stack([two_levels(x[batch.batch_index == code])[:2] for code in range(len(self.background))])
        for place, of_batches, of_all in (
            (self.background, levels[:, 0], background),
            (self.bound, levels[:, 1], bound),
        ):
            found = of_batches.where(~of_batches.isnan(), of_batches.nanmean(0))  # in batches with few cells, or none
            place.copy_(found.where(~found.isnan(), of_all.nan_to_num()))
        self.decoder.output.bias[: self.n_proteins] = 0.0
        self.decoder.output.bias[self.n_proteins :] = share.nan_to_num(0.5).clamp(0.02, 0.98).logit()

    def seen(self, batch: Minibatch) -> Tensor:
        """What the encoder is told, (n_cells, 2 * n_proteins): log counts, 0 at their mean, and which were measured."""
        nothing = self.centre.new_full((batch.n_cells, self.n_proteins), torch.nan)
        value = (torch.log1p(batch.side_inputs.get("protein", nothing)) - self.centre) / self.spread
        if self.training:
            value = value.masked_fill(batch.random(torch.rand, 1) < HIDDEN, torch.nan)
        return torch.cat([value.nan_to_num(nan=0.0), (~value.isnan()).float()], 1)

    def decode(
        self, z: Tensor, given: list[Tensor], batch_index: Tensor, generator: torch.Generator | None = None
    ) -> Levels:
        """The levels of latent states as in the batches `batch_index`; `given` as `CountVAE.given` has it."""
        bound, log_odds = self.decoder(z, given, generator).chunk(2, dim=1)
        background = (self.background + self.background_shift)[batch_index].clamp(*LOG_COUNT)
        bound = (bound + (self.bound + self.bound_shift)[batch_index]).clamp(*LOG_COUNT)
        return Levels(background, torch.logaddexp(background, bound), log_odds)

    def forward(self, model: CountVAE, passed: ForwardState) -> Tensor:
        """Weighted negative log-likelihood of the proteins that were measured, mean over all cells."""
        batch = passed.batch
        if "protein" not in batch.side_inputs:
            return passed.z.new_zeros(())
        x = batch.side_inputs["protein"]
        levels = self.decode(passed.z, model.given(batch), batch.batch_index, batch.generator)
        log_prob = mixture(x.nan_to_num(nan=0.0), levels, self.log_theta.view(2, -1))
        return -self.weight * log_prob.masked_fill(x.isnan(), 0.0).sum(1).mean()


def two_levels(x: Tensor) -> Tensor:
    """Logs of the lower level and of what the higher one is above it, and the share of the higher (3, n_proteins).

    Two means of the log counts (n_cells, n_proteins) of each protein, from the smallest and the largest. NaN where
    fewer than a few were measured.
    """
    y, measured = torch.log1p(x), ~x.isnan()
    if len(x) < A_FEW:
        return x.new_full((3, x.shape[1]), torch.nan)
    low, high = y.nan_to_num(nan=torch.inf).amin(0), y.nan_to_num(nan=-torch.inf).amax(0)
    for _ in range(N_TWO_MEANS_ROUNDS):
        upper = y > (low + high) / 2
        lower = measured & ~upper
        low, high = (torch.where(part, y, 0.0).sum(0) / part.sum(0).clamp(min=1) for part in (lower, upper))
    below, above = (torch.where(part, x, 0.0).sum(0) / part.sum(0).clamp(min=1) for part in (lower, upper))
    background = below.clamp(min=LEAST_BACKGROUND)
    share = upper.sum(0).to(x.dtype) / measured.sum(0)
    levels = torch.stack([background.log(), (above - background).clamp(min=LEAST_BOUND).log(), share])
    return levels.where(measured.sum(0) >= A_FEW, torch.nan)
