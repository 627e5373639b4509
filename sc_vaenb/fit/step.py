"""One step of a fit: gradients by autograd, then AdamW."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from ..data.counts import Counts
from ..model.minibatch import Minibatch
from ..model.vae import CountVAE, Terms
from .state import FitConfig

CLIP = 1e3  # norm of the gradient; ordinary steps stay well below, a rare burst of counts does not


class Step:
    """Called with cells, the learning rate, the weight of the KL and how much of it that is, it improves the model."""

    alone = True  # no other process waits for this one

    def __init__(
        self, model: CountVAE, counts: Counts, options: FitConfig, n_cells: int, generator: torch.Generator
    ) -> None:
        self.model, self.counts, self.free_bits, self.generator = model, counts, options.free_bits, generator
        self.device = model.depth.device
        self.optimizer = torch.optim.AdamW(parameter_groups(model, options.weight_decay), fused=True)

    def __call__(self, cells: Any, rate: Any, beta: Any, kl_warmup: Any = 1.0) -> Terms:
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        terms = self.gradients(cells, beta, kl_warmup)
        self.all_reduce(terms)
        self.clip()
        self.optimizer.step()
        return terms

    def gradients(self, cells: Any, beta: Any, kl_warmup: Any) -> Terms:
        """The objective, and its gradients in the `grad` of the parameters."""
        terms = self.model.loss(self.drawing(cells), beta, self.free_bits, kl_warmup)
        self.optimizer.zero_grad()
        terms.loss.backward()
        return Terms(*(term.detach() for term in terms))

    def clip(self) -> None:
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)

    def all_reduce(self, terms: Terms) -> None:
        """Where several processes share a fit, make of the gradients and terms of their parts those of all cells."""

    def broadcast(self, tensors: Iterable[Tensor]) -> None:
        """Where several processes share a fit, take over what the first of them has found."""

    def drawing(self, cells: Any) -> Minibatch:
        """The cells, with what their noise is drawn from."""
        batch = self.minibatch(cells)
        batch.generator = self.generator
        return batch

    def minibatch(self, cells: Any) -> Minibatch:
        return self.counts.minibatch(cells, self.device)


def parameter_groups(model: CountVAE, weight_decay: float) -> list[dict[str, Any]]:
    """What decays (matrices, batch vectors, log dispersions: towards theta = 1) and what does not (biases, norms).

    To shrink a bias would be to pull a gene's mean expression towards that of all others. A dispersion that few cells
    speak for is better held back: a large theta makes the fit chase single counts.
    """
    tables = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    vectors = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    return [{"params": tables, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
