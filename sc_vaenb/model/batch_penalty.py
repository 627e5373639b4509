"""Penalties that take batch effects out of the latent space, within a group of batches alone.

Batches of different groups (`config.batch_group`) have no kind of cell in common, so that nothing says which of
their differences are technical: no penalty sees them. All rise with the weight of the KL.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import kl_div, nll_loss

from .network import NORMS, Linear

if TYPE_CHECKING:
    from .config import ModelConfig
    from .penalty import ForwardState
    from .vae import CountVAE

WIDTH = 64  # of the hidden layer that guesses the batch
SCALES = (0.25, 0.5, 1.0, 2.0, 4.0)  # of the kernels, times the mean squared distance of two cells


class Removal(nn.Module):
    """What the penalties share: a weight, and which batches are of one group."""

    def __init__(self, config: ModelConfig, name: str) -> None:
        super().__init__()
        self.weight = config.penalties[name]
        self.group = nn.Buffer(torch.tensor(config.batch_group or [0] * config.n_batches))

    def near(self, batch: Tensor) -> Tensor:
        """Which batches are of the groups of some batches, (n, n_batches)."""
        return self.group[batch].unsqueeze(1) == self.group


class Adversary(Removal):
    """A network that guesses the batch among those of the cell's group, which the encoder is to leave in the dark.

    It learns at full speed, whatever the weight. The penalty is the divergence of its guess from what one would guess
    of an unknown cell, the batches' shares in their group (Tzeng et al. 2015): 0 where it knows nothing. To reverse the
    gradient of the guess instead (Ganin et al. 2016) would reward cells for being taken for another batch: they are
    driven past the point where nobody can tell, and batches swap sides faster than the network learns.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config, "adversary")
        self.guess = nn.Sequential(
            Linear(config.n_latent, WIDTH), NORMS["layer"](WIDTH), nn.GELU(), Linear(WIDTH, config.n_batches)
        )

    def forward(self, model: CountVAE, passed: ForwardState) -> Tensor:
        batch = passed.batch.batch_index
        near = self.near(batch)

        def log_guess(weights: Mapping[str, Tensor], z: Tensor) -> Tensor:
            return functional_call(self.guess, dict(weights), z).masked_fill(~near, -torch.inf).log_softmax(1)

        weights = dict(self.guess.named_parameters())
        wrong = nll_loss(log_guess(weights, passed.z.detach()), batch)  # is learned from by the network alone,
        fixed = log_guess({name: weight.detach() for name, weight in weights.items()}, passed.z)  # this by the encoder
        share = (batch.unsqueeze(1) == torch.arange(len(self.group), device=batch.device)).float().mean(0) * near
        share = share / share.sum(1, keepdim=True)
        known = kl_div(fixed.masked_fill(share == 0, 0.0), share, reduction="none").sum(1).mean()
        return self.weight * passed.kl_warmup * known + wrong - wrong.detach()


class MMD(Removal):
    """Squared maximum mean discrepancy (Gretton et al. 2012, JMLR) of two batches of a group, averaged over all pairs.

    The kernel is a mean of Gaussians of several widths, relative to the mean squared distance in the group, so that to
    shrink the latent space gains nothing. No cell is paired with itself (the unbiased estimate), so that batches of few
    cells in a minibatch are not drawn into a point.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config, "mmd")

    def forward(self, model: CountVAE, passed: ForwardState) -> Tensor:
        batch, z = passed.batch.batch_index, passed.z
        near = self.near(batch)[:, batch].to(z.dtype)
        same = near - torch.eye(len(z), dtype=z.dtype, device=z.device)  # pairs of two cells of one group
        square = (z * z).sum(1)
        distance = same * (square.unsqueeze(1) + square - 2 * z @ z.T).clamp(min=0)
        width = (near @ distance.sum(1, keepdim=True)) / (near @ same.sum(1, keepdim=True)).clamp(min=1)
        kernel = same * torch.stack([(-distance / (scale * width + 1e-12)).exp() for scale in SCALES]).mean(0)

        one_hot = (batch.unsqueeze(1) == torch.arange(len(self.group), device=z.device)).to(z.dtype)
        size, total = one_hot.sum(0), one_hot.T @ kernel @ one_hot
        within = total.diagonal() / (size * (size - 1)).clamp(min=1)
        squared = within.unsqueeze(1) + within - 2 * total / (size.unsqueeze(1) * size).clamp(min=1)
        enough = size > 1
        pairs = ((self.group.unsqueeze(1) == self.group) & enough.unsqueeze(1) & enough).triu(1)
        return self.weight * passed.kl_warmup * (squared * pairs).sum() / pairs.sum().clamp(min=1)
