"""Mixture priors: each cell type gets its own normal component; the number of components is learned."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from .minibatch import Minibatch

EMA = 0.05  # weight of a minibatch in the exponential moving averages
COST = 0.015  # share of the cells that each component loses: with fewer cells it shrinks until it is unused
LIVE = 0.01  # minimum share of the cells for a component to count
BIRTH_WEIGHT = 0.008  # initial weight of an unused component that starts again at a cell
UNUSED = 1e-4  # weight below which a component starts again at another cell
FLOOR = 1e-12  # minimum of a divisor
ANCHOR = 0.05  # strength with which variances are drawn towards 1: fixes the scale of the latent space
MAX_LOG_VAR = 8.0


class Mixture(nn.Module):
    """A mixture of Gaussians, fitted by the EM algorithm with minibatches.

    The KL divergence of a normal q to a mixture has no closed form. With the component as a further latent variable it
    has one: -log sum_k weight_k exp(-KL(q || component k)), where the posterior of the component is optimal (Hershey &
    Olsen 2007; for such models Jiang et al. 2017, VaDE). This is an upper bound of the KL.

    Given the posteriors, the best weights, means and variances are known, so they need no gradients. Each component
    loses the share `COST` of the cells (after Figueiredo & Jain 2002). So redundant components die, and unused
    components start again at another cell.

    Attributes
    ----------
    weight
        (n_components,), sums to 1.
    mean, log_var
        (n_components, n_latent). Before the fit only one component is used, N(0, I).
    """

    def __init__(self, n_latent: int, n_batches: int, n_components: int = 1) -> None:
        super().__init__()
        self.weight: Tensor = nn.Buffer(torch.eye(n_components, dtype=torch.float32)[0])
        self.mean: Tensor = nn.Buffer(torch.zeros(n_components, n_latent, dtype=torch.float32))
        self.log_var: Tensor = nn.Buffer(torch.zeros(n_components, n_latent, dtype=torch.float32))

    def start(self, cells: Minibatch, encode: Callable[[Minibatch], tuple[Tensor, Tensor]]) -> None:
        """Do nothing: the first component starts as N(0, I); the others are born during the fit."""

    def kl(self, mean: Tensor, log_var: Tensor, batch_index: Tensor) -> Tensor:
        """The bound of KL(q || p), split into dimensions that add up to it: (n_cells, n_latent).

        A dimension gets its KL to each component, weighted by the assignment of the cell, and an equal part of the KL
        between the assignment and the weights.
        """
        per_dim, logit = self.compare(mean, log_var, *self.components())
        evidence = torch.logsumexp(logit, 1, keepdim=True)
        assignment = (logit - evidence).exp()
        if self.training:
            self.em_step(assignment.detach(), mean.detach(), log_var.detach())
        expected = torch.einsum("nk,nkd->nd", assignment, per_dim)
        return expected - (evidence + expected.sum(1, keepdim=True)) / mean.shape[1]

    def components(self) -> tuple[Tensor, Tensor]:
        """Means and log-variances, each (n_components, n_latent)."""
        return self.mean, self.log_var

    def compare(
        self, mean: Tensor, log_var: Tensor, component_mean: Tensor, component_log_var: Tensor
    ) -> tuple[Tensor, Tensor]:
        """KL per cell, component and dimension; and log(weight * exp(-KL)) per cell and component."""
        ratio = log_var.unsqueeze(1) - component_log_var
        distance = (mean.unsqueeze(1) - component_mean) ** 2 * (-component_log_var).exp()
        per_dim = 0.5 * (distance + ratio.exp() - ratio - 1)
        weight = self.weight if self.training else self.weight * self.live()
        return per_dim, weight.log() - per_dim.sum(2)

    def live(self) -> Tensor:
        """Which components count, (n_components,): the others are unused, or too new."""
        return self.weight >= self.weight.max().clamp(max=LIVE)

    def assignment(self, mean: Tensor, log_var: Tensor) -> Tensor:
        """Probability of each component given q(z | x), (n_cells, n_components)."""
        return torch.softmax(self.compare(mean, log_var, self.mean, self.log_var)[1], 1)

    @torch.no_grad()
    def em_step(self, assignment: Tensor, mean: Tensor, log_var: Tensor) -> None:
        """Move weights, means and variances a step towards those of the cells of each component."""
        share = assignment.mean(0)
        weight = (1 - EMA) * self.weight + EMA * share
        step = (EMA * share / weight.clamp(min=FLOOR)).unsqueeze(1)
        cell_weight = assignment / assignment.sum(0).clamp(min=FLOOR)
        center = cell_weight.T @ mean
        second_moment = cell_weight.T @ (mean**2 + log_var.exp())
        spread = (second_moment - 2 * self.mean * center + self.mean**2).clamp(min=0)
        variance = self.log_var.exp()
        variance = variance + step * (spread - variance)
        variance = variance + EMA * ANCHOR * (1 - variance)
        self.mean.copy_(self.mean + step * (center - self.mean))
        self.log_var.copy_(variance.log().clamp(-MAX_LOG_VAR, MAX_LOG_VAR))
        self.weight.copy_(pruned(weight))
        # Unused components start again at the first cells of the minibatch, which are random cells. There is no branch,
        # so the step can be captured as a CUDA graph.
        is_unused = self.weight < UNUSED
        cell = is_unused.cumsum(0) - 1
        is_born = (is_unused & (cell < len(mean))).unsqueeze(1)
        cell = cell.clamp(0, len(mean) - 1)
        new_log_var = (log_var[cell] + (self.weight @ self.log_var.exp()).log()) / 2
        self.mean.copy_(torch.where(is_born, mean[cell], self.mean))
        self.log_var.copy_(torch.where(is_born, new_log_var, self.log_var))
        weight = torch.where(is_born.squeeze(1), BIRTH_WEIGHT, self.weight)
        self.weight.copy_(weight / weight.sum())

    def draw(self, batch_index: Tensor, generator: torch.Generator) -> Tensor:
        """Samples of the prior, (n_cells, n_latent), one for each batch code."""
        weight = (self.weight * self.live()).expand(len(batch_index), -1)
        component = torch.multinomial(weight, 1, generator=generator).squeeze(1)
        noise = torch.randn((len(batch_index), self.mean.shape[1]), generator=generator, dtype=torch.float32)
        return self.mean[component] + (0.5 * self.log_var[component]).exp() * noise


class Vamp(Mixture):
    """A mixture of the posteriors of some cells, with learned weights (Tomczak & Welling 2018, VampPrior).

    These cells, the pseudo-inputs, are taken from the data and do not change. They are encoded in every step of the
    fit. The model stores only their posteriors.
    """

    def start(self, cells: Minibatch, encode: Callable[[Minibatch], tuple[Tensor, Tensor]]) -> None:
        n_components = len(self.weight)
        chosen = torch.linspace(
            0, cells.n_cells - 1, n_components, dtype=torch.float32, device=self.weight.device
        ).long()
        counts = cells.dense(cells.count)[chosen]
        row, gene = counts.nonzero(as_tuple=True)
        size_factor, batch_index = cells.size_factor[chosen], cells.batch_index[chosen]
        side_inputs = {name: values[chosen] for name, values in cells.side_inputs.items()}
        self.inputs = Minibatch(
            row,
            gene,
            counts[row, gene],
            size_factor,
            batch_index,
            cells.n_genes,
            side_inputs,
            generator=cells.generator,
        )
        self.encode = encode
        self.weight.fill_(1 / n_components)

    def components(self) -> tuple[Tensor, Tensor]:
        if not self.training:
            return self.mean, self.log_var
        mean, log_var = self.encode(self.inputs)
        self.mean.copy_(mean.detach())
        self.log_var.copy_(log_var.detach())
        return mean, log_var

    @torch.no_grad()
    def em_step(self, assignment: Tensor, mean: Tensor, log_var: Tensor) -> None:
        self.weight.copy_(pruned((1 - EMA) * self.weight + EMA * assignment.mean(0)))


def pruned(weight: Tensor) -> Tensor:
    """Weights after the cost of each component is subtracted; they sum to 1."""
    remaining = (weight - EMA * COST).clamp(min=0)
    return remaining / remaining.sum().clamp(min=FLOOR)
