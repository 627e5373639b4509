"""Priors of several components: each kind of cell gets a normal of its own, and the cells say how many there are."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from .minibatch import Minibatch

MEMORY = 0.05  # weight of a minibatch among all that the components have seen
COST = 0.015  # share of the cells that a component pays for itself: one that earns less shrinks until it is unused
LIVE = 0.01  # share of the cells from which a component is one
BIRTH_WEIGHT = 0.008  # share that an unused component is lent at a cell, to prove itself
UNUSED = 1e-4  # share below which it is tried at another cell
FLOOR = 1e-12  # of what is divided by
ANCHOR = 0.05  # pull of a component's variances towards 1, which gives the latent space its scale
WIDEST = 8.0  # log-variance


class Mixture(nn.Module):
    """A mixture of Gaussians that learns by the EM algorithm, a minibatch at a time.

    The KL divergence of a normal q to a mixture has no closed form, but the component can be counted among the latent
    variables, and then it has: -log sum_k weight_k exp(-KL(q || component k)), with the posterior of the component at
    its optimum (Hershey & Olsen 2007; for such models Jiang et al. 2017, VaDE). It is never below the KL itself.

    Given the posteriors, the best weights, means and variances are known, so no gradient is taken for them. As each
    component costs the share `COST` (after Figueiredo & Jain 2002), those that explain what another does die, and each
    that is unused is tried at another cell.

    Attributes
    ----------
    weight
        (n_components,), sums to 1.
    mean, log_var
        (n_components, n_latent). Before the fit there is one component, N(0, I).
    """

    def __init__(self, n_latent: int, n_batches: int, n_components: int = 1) -> None:
        super().__init__()
        self.weight: Tensor = nn.Buffer(torch.eye(n_components, dtype=torch.float32)[0])
        self.mean: Tensor = nn.Buffer(torch.zeros(n_components, n_latent, dtype=torch.float32))
        self.log_var: Tensor = nn.Buffer(torch.zeros(n_components, n_latent, dtype=torch.float32))

    def start(self, cells: Minibatch, encode: Callable[[Minibatch], tuple[Tensor, Tensor]]) -> None:
        """The first component is where a normal prior is; the others are born during the fit."""

    def kl(self, mean: Tensor, log_var: Tensor, batch_index: Tensor) -> Tensor:
        """The bound of KL(q || p), spread over dimensions so that it adds up: (n_cells, n_latent).

        A dimension has its KL to each component, weighted by how much the cell belongs there, and an equal part of that
        of the component's posterior to the weights.
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
        """KL of each cell, component and dimension; and log (weight * exp(-KL)) of each cell and component."""
        ratio = log_var.unsqueeze(1) - component_log_var
        distance = (mean.unsqueeze(1) - component_mean) ** 2 * (-component_log_var).exp()
        per_dim = 0.5 * (distance + ratio.exp() - ratio - 1)
        weight = self.weight if self.training else self.weight * self.live()
        return per_dim, weight.log() - per_dim.sum(2)

    def live(self) -> Tensor:
        """Which components are used, (n_components,): the others are unused or not proven, and do not count."""
        return self.weight >= self.weight.max().clamp(max=LIVE)

    def assignment(self, mean: Tensor, log_var: Tensor) -> Tensor:
        """Probability of each component given q(z | x), (n_cells, n_components)."""
        return torch.softmax(self.compare(mean, log_var, self.mean, self.log_var)[1], 1)

    @torch.no_grad()
    def em_step(self, assignment: Tensor, mean: Tensor, log_var: Tensor) -> None:
        """Weights, means and variances a step closer to those of the cells that belong to each component."""
        share = assignment.mean(0)
        weight = (1 - MEMORY) * self.weight + MEMORY * share
        step = (MEMORY * share / weight.clamp(min=FLOOR)).unsqueeze(1)
        part = assignment / assignment.sum(0).clamp(min=FLOOR)
        centre = part.T @ mean
        spread = (part.T @ (mean**2 + log_var.exp()) - 2 * self.mean * centre + self.mean**2).clamp(min=0)
        variance = self.log_var.exp()
        variance = variance + step * (spread - variance)
        variance = variance + MEMORY * ANCHOR * (1 - variance)
        self.mean.copy_(self.mean + step * (centre - self.mean))
        self.log_var.copy_(variance.log().clamp(-WIDEST, WIDEST))
        self.weight.copy_(pruned(weight))
        # No branch, so that the step can be captured as a CUDA graph. The first cells of a minibatch are any cells.
        unused = self.weight < UNUSED
        cell = unused.cumsum(0) - 1
        born = (unused & (cell < len(mean))).unsqueeze(1)
        cell = cell.clamp(0, len(mean) - 1)
        between = (log_var[cell] + (self.weight @ self.log_var.exp()).log()) / 2
        self.mean.copy_(torch.where(born, mean[cell], self.mean))
        self.log_var.copy_(torch.where(born, between, self.log_var))
        weight = torch.where(born.squeeze(1), BIRTH_WEIGHT, self.weight)
        self.weight.copy_(weight / weight.sum())

    def draw(self, batch_index: Tensor, generator: torch.Generator) -> Tensor:
        """States of the prior, (n_cells, n_latent), one for each batch code."""
        weight = (self.weight * self.live()).expand(len(batch_index), -1)
        component = torch.multinomial(weight, 1, generator=generator).squeeze(1)
        noise = torch.randn((len(batch_index), self.mean.shape[1]), generator=generator, dtype=torch.float32)
        return self.mean[component] + (0.5 * self.log_var[component]).exp() * noise


class Vamp(Mixture):
    """A mixture of the posteriors of some cells, with learned weights (Tomczak & Welling 2018, VampPrior).

    Those cells, the pseudo-inputs, are taken from the data and stay as they are. They are encoded in every step of the
    fit, and only where they then lie is kept in the model.
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
        self.weight.copy_(pruned((1 - MEMORY) * self.weight + MEMORY * assignment.mean(0)))


def pruned(weight: Tensor) -> Tensor:
    """Weights less what each component costs."""
    left = (weight - MEMORY * COST).clamp(min=0)
    return left / left.sum().clamp(min=FLOOR)
