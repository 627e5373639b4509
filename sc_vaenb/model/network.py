"""The multilayer perceptrons on both sides of the latent space."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU}
NORMS: dict[str, Callable[[int], nn.Module]] = {
    "layer": partial(nn.LayerNorm, dtype=torch.float32),
    "batch": partial(nn.BatchNorm1d, dtype=torch.float32),
    "none": nn.Identity,
}


class Linear(nn.Linear):
    """torch.nn.Linear with initial weights from a generator, not from torch's global random state."""

    def __init__(self, n_input: int, n_output: int, bias: bool = True) -> None:
        super().__init__(n_input, n_output, bias, dtype=torch.float32)

    def reset_parameters(self) -> None:
        """Do nothing at creation: `draw` draws the weights."""

    def draw(self, generator: torch.Generator) -> None:
        """Draw the initial weights as torch does: uniform within +-1 / sqrt(n_input)."""
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5), generator=generator)
        if self.bias is not None:
            bound = 1 / math.sqrt(self.in_features)
            nn.init.uniform_(self.bias, -bound, bound, generator=generator)


class Embedding(nn.Embedding):
    """torch.nn.Embedding with standard normal initial weights from a generator."""

    def __init__(self, n_codes: int, width: int) -> None:
        super().__init__(n_codes, width, dtype=torch.float32)

    def reset_parameters(self) -> None:
        """Do nothing at creation: `draw` draws the weights."""

    def draw(self, generator: torch.Generator) -> None:
        nn.init.normal_(self.weight, generator=generator)


def draw_weights(module: nn.Module, generator: torch.Generator) -> None:
    """Draw the initial weights of all layers of a module, in the order of their creation."""
    for layer in module.modules():
        if isinstance(layer, Linear | Embedding):
            layer.draw(generator)


class Dropout(nn.Module):
    """Replaces a share of the values by zeros and scales the others up; only in training mode."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        if not (self.training and self.share):
            return x
        assert generator is not None, "torch's global random state is that of other threads too"
        mask = torch.empty_like(x).bernoulli_(1 - self.share, generator=generator)
        return x * mask.div_(1 - self.share)


class BatchEmbedding(nn.Module):
    """The batch as a vector: a learned embedding of `width` dimensions, or one-hot if `width` is 0.

    `code` is the number of the vector of each batch. Batches with the same code are the same for the networks.
    """

    def __init__(self, code: Sequence[int], width: int) -> None:
        super().__init__()
        self.n_codes = max(code) + 1
        self.code = nn.Buffer(torch.tensor(code))
        self.embedding = Embedding(self.n_codes, width) if width else None
        self.width = width or self.n_codes

    def forward(self, batch_index: Tensor) -> Tensor:
        code = self.code[batch_index]
        return nn.functional.one_hot(code, self.n_codes).float() if self.embedding is None else self.embedding(code)


class MLP(nn.Module):
    """Linear, norm, activation, dropout for each width of `hidden`, then a linear output.

    `side` inputs (a batch vector, a log size factor) enter the first layer without a copy of the wide main input: a
    linear layer of concatenated inputs is the sum of a linear layer of each input.
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
        self.first = Linear(n_input, widths[0])
        self.side = Linear(n_side, widths[0], bias=False) if n_side else None
        rest: list[nn.Module] = []
        for width, next_width in pairwise(widths):
            rest += [NORMS[norm](width), ACTIVATIONS[activation](), Dropout(dropout), Linear(width, next_width)]
        self.rest = nn.Sequential(*rest)

    @property
    def output(self) -> nn.Linear:
        """The last linear layer."""
        last = self.rest[-1] if len(self.rest) else self.first
        assert isinstance(last, nn.Linear)
        return last

    def forward(self, x: Tensor, side: Sequence[Tensor], generator: torch.Generator | None = None) -> Tensor:
        """The output. In training mode, dropout needs the generator."""
        return self.after_first(self.first(x), side, generator)

    def after_first(self, h: Tensor, side: Sequence[Tensor], generator: torch.Generator | None = None) -> Tensor:
        """The output, given that of the first linear layer for the main input."""
        if self.side is not None:
            h = h + self.side(torch.cat(list(side), dim=1))
        for layer in self.rest:
            h = layer(h, generator) if isinstance(layer, Dropout) else layer(h)
        return h
