"""The multilayer perceptrons on both sides of the latent space."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU}
NORMS: dict[str, Callable[[int], nn.Module]] = {"layer": nn.LayerNorm, "batch": nn.BatchNorm1d, "none": nn.Identity}


class Condition(nn.Module):
    """The batch as a vector: a learned embedding of `width` dimensions, or (`width` 0) one-hot.

    `code` says which vector is each batch's. Batches that share one are the same to the networks.
    """

    def __init__(self, code: Sequence[int], width: int) -> None:
        super().__init__()
        self.n_codes = max(code) + 1
        self.code = nn.Buffer(torch.tensor(code))
        self.embedding = nn.Embedding(self.n_codes, width) if width else None
        self.width = width or self.n_codes

    def forward(self, condition: Tensor) -> Tensor:
        code = self.code[condition]
        return nn.functional.one_hot(code, self.n_codes).float() if self.embedding is None else self.embedding(code)


class MLP(nn.Module):
    """Linear, norm, activation, dropout for each width of `hidden`, then a linear output.

    `side` inputs (a batch vector, a log size factor) join the first layer without a copy of the wide main input:
    a linear layer on concatenated inputs is the sum of a linear layer on each.
    """

    def __init__(
        self,
        n_input: int,
        n_side: int,
        hidden: Sequence[int],
        n_output: int,
        activation: str,
        norm: str,
        dropout: float,
    ) -> None:
        super().__init__()
        widths = [*hidden, n_output]
        self.first = nn.Linear(n_input, widths[0])
        self.side = nn.Linear(n_side, widths[0], bias=False) if n_side else None
        rest: list[nn.Module] = []
        for width, following in pairwise(widths):
            rest += [NORMS[norm](width), ACTIVATIONS[activation](), nn.Dropout(dropout), nn.Linear(width, following)]
        self.rest = nn.Sequential(*rest)

    @property
    def output(self) -> nn.Linear:
        """The last linear layer."""
        last = self.rest[-1] if len(self.rest) else self.first
        assert isinstance(last, nn.Linear)
        return last

    def forward(self, x: Tensor, side: Sequence[Tensor]) -> Tensor:
        h = self.first(x)
        if self.side is not None:
            h = h + self.side(torch.cat(list(side), dim=1))
        return self.rest(h)
