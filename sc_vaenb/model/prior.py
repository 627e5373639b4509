"""Where the latent state comes from before a cell is seen: `PRIORS` maps a name to a class with a `kl` and a `draw`."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Normal(nn.Module):
    """The standard normal N(0, I)."""

    def __init__(self, n_latent: int, n_conditions: int) -> None:
        super().__init__()

    def kl(self, mean: Tensor, log_var: Tensor, condition: Tensor) -> Tensor:
        """KL(q || p) of every cell and dimension, (n_cells, n_latent), in closed form; q = N(mean, exp(log_var))."""
        return 0.5 * (mean**2 + log_var.exp() - log_var - 1)

    def draw(self, standard: Tensor, condition: Tensor) -> Tensor:
        """States of the prior, (n_cells, n_latent), made of standard normal numbers."""
        return standard


class Conditional(nn.Module):
    """p(z | s): one normal per batch, with learned mean and variance, starting at N(0, I)."""

    def __init__(self, n_latent: int, n_conditions: int) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(n_conditions, n_latent))
        self.log_var = nn.Parameter(torch.zeros(n_conditions, n_latent))

    def kl(self, mean: Tensor, log_var: Tensor, condition: Tensor) -> Tensor:
        prior_mean, prior_log_var = self.mean[condition], self.log_var.clamp(-10, 10)[condition]
        ratio = log_var - prior_log_var
        return 0.5 * ((mean - prior_mean) ** 2 * (-prior_log_var).exp() + ratio.exp() - ratio - 1)

    def draw(self, standard: Tensor, condition: Tensor) -> Tensor:
        return self.mean[condition] + (0.5 * self.log_var.clamp(-10, 10)[condition]).exp() * standard


Prior = Normal | Conditional

PRIORS: dict[str, type[Prior]] = {"normal": Normal, "conditional": Conditional}
