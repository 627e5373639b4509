"""Priors of the latent state: `PRIORS` maps a name to a class with the methods `start`, `kl` and `draw`."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from .minibatch import Minibatch
from .mixture import Mixture, Vamp


class Normal(nn.Module):
    """The standard normal N(0, I)."""

    def __init__(self, n_latent: int, n_batches: int, n_components: int = 1) -> None:
        super().__init__()
        self.n_latent = n_latent

    def start(self, cells: Minibatch, encode: Callable[[Minibatch], tuple[Tensor, Tensor]]) -> None:
        """Initialise the prior from some cells, which can be encoded. This prior needs no initialisation."""

    def kl(self, mean: Tensor, log_var: Tensor, batch_index: Tensor) -> Tensor:
        """KL(q || p) of every cell and dimension, (n_cells, n_latent), in closed form; q = N(mean, exp(log_var))."""
        return 0.5 * (mean**2 + log_var.exp() - log_var - 1)

    def draw(self, batch_index: Tensor, generator: torch.Generator) -> Tensor:
        """Samples of the prior, (n_cells, n_latent), one for each batch code."""
        return torch.randn((len(batch_index), self.n_latent), generator=generator, dtype=torch.float32)


class Conditional(Normal):
    """p(z | s): one normal per batch, with learned mean and variance, starting at N(0, I)."""

    def __init__(self, n_latent: int, n_batches: int, n_components: int = 1) -> None:
        super().__init__(n_latent, n_batches)
        self.mean = nn.Parameter(torch.zeros(n_batches, n_latent, dtype=torch.float32))
        self.log_var = nn.Parameter(torch.zeros(n_batches, n_latent, dtype=torch.float32))

    def kl(self, mean: Tensor, log_var: Tensor, batch_index: Tensor) -> Tensor:
        prior_mean, prior_log_var = self.mean[batch_index], self.log_var.clamp(-10, 10)[batch_index]
        ratio = log_var - prior_log_var
        return 0.5 * ((mean - prior_mean) ** 2 * (-prior_log_var).exp() + ratio.exp() - ratio - 1)

    def draw(self, batch_index: Tensor, generator: torch.Generator) -> Tensor:
        standard = super().draw(batch_index, generator)
        return self.mean[batch_index] + (0.5 * self.log_var.clamp(-10, 10)[batch_index]).exp() * standard


Prior = Normal | Conditional | Mixture | Vamp

PRIORS: dict[str, type[Prior]] = {"normal": Normal, "conditional": Conditional, "mog": Mixture, "vamp": Vamp}
