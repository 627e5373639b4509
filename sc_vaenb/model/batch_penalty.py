"""Penalties that remove batch effects from the latent space, only within groups of batches.

Batches of different groups (`config.batch_group`) have no cell types in common, so it is not known which of their
differences are technical: the penalties ignore them. All penalties rise with the weight of the KL.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import kl_div, nll_loss

from .config import ModelConfig
from .minibatch import ForwardState
from .network import NORMS, Linear

WIDTH = 64  # of the hidden layer of the discriminator
SCALES = (0.25, 0.5, 1.0, 2.0, 4.0)  # of the kernels, times the mean squared distance of two cells


class BatchPenalty(nn.Module):
    """Base of the penalties: a weight, and the group of each batch."""

    def __init__(self, config: ModelConfig, name: str) -> None:
        super().__init__()
        self.weight = config.penalties[name]
        self.group = nn.Buffer(torch.tensor(config.batch_group or [0] * config.n_batches))

    def in_group(self, batch: Tensor) -> Tensor:
        """For each batch code in `batch`, which batches are in its group, (n, n_batches)."""
        return self.group[batch].unsqueeze(1) == self.group


class Adversary(BatchPenalty):
    """A discriminator predicts the batch of a cell within its group; the encoder learns to prevent this.

    The discriminator learns at full speed, whatever the weight of the penalty. The penalty is the KL divergence between
    its prediction and that for an unknown cell, the shares of the batches in their group (Tzeng et al. 2015). It is 0
    if the discriminator knows nothing. Gradient reversal (Ganin et al. 2016) would instead reward cells that are
    mistaken for another batch. They would move beyond the point where batches cannot be told apart, and batches would
    swap positions faster than the discriminator learns.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config, "adversary")
        self.guess = nn.Sequential(
            Linear(config.n_latent, WIDTH), NORMS["layer"](WIDTH), nn.GELU(), Linear(WIDTH, config.n_batches)
        )

    def forward(self, state: ForwardState) -> Tensor:
        batch = state.batch.batch_index
        in_group = self.in_group(batch)

        def log_probability(weights: Mapping[str, Tensor], z: Tensor) -> Tensor:
            return functional_call(self.guess, dict(weights), z).masked_fill(~in_group, -torch.inf).log_softmax(1)

        weights = dict(self.guess.named_parameters())
        # Only the discriminator learns from its loss, and only the encoder learns from the leakage.
        discriminator_loss = nll_loss(log_probability(weights, state.z.detach()), batch)
        fixed_weights = {name: weight.detach() for name, weight in weights.items()}
        predicted = log_probability(fixed_weights, state.z)
        share = (batch.unsqueeze(1) == torch.arange(len(self.group), device=batch.device)).float().mean(0) * in_group
        share = share / share.sum(1, keepdim=True)
        leakage = kl_div(predicted.masked_fill(share == 0, 0.0), share, reduction="none").sum(1).mean()
        return self.weight * state.kl_warmup * leakage + discriminator_loss - discriminator_loss.detach()


class MMD(BatchPenalty):
    """Squared maximum mean discrepancy (Gretton et al. 2012, JMLR), averaged over all pairs of batches of one group.

    The kernel is a mean of Gaussians of several widths. The widths are relative to the mean squared distance in the
    group, so the model gains nothing by shrinking the latent space. No cell is paired with itself (unbiased estimate),
    so batches with few cells in a minibatch do not collapse to a point.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config, "mmd")

    def forward(self, state: ForwardState) -> Tensor:
        batch, z = state.batch.batch_index, state.z
        same_group = self.in_group(batch)[:, batch].to(z.dtype)
        is_pair = same_group - torch.eye(len(z), dtype=z.dtype, device=z.device)  # pairs of two cells of one group
        square = (z * z).sum(1)
        distance = is_pair * (square.unsqueeze(1) + square - 2 * z @ z.T).clamp(min=0)
        width = (same_group @ distance.sum(1, keepdim=True)) / (same_group @ is_pair.sum(1, keepdim=True)).clamp(min=1)
        kernel = is_pair * torch.stack([(-distance / (scale * width + 1e-12)).exp() for scale in SCALES]).mean(0)

        one_hot = (batch.unsqueeze(1) == torch.arange(len(self.group), device=z.device)).to(z.dtype)
        size, total = one_hot.sum(0), one_hot.T @ kernel @ one_hot
        within = total.diagonal() / (size * (size - 1)).clamp(min=1)
        squared = within.unsqueeze(1) + within - 2 * total / (size.unsqueeze(1) * size).clamp(min=1)
        enough = size > 1
        pairs = ((self.group.unsqueeze(1) == self.group) & enough.unsqueeze(1) & enough).triu(1)
        return self.weight * state.kl_warmup * (squared * pairs).sum() / pairs.sum().clamp(min=1)
