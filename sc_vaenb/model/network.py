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
    """torch's linear layer, whose first weights are drawn from a generator and not from torch's global random state."""

    def __init__(self, n_input: int, n_output: int, bias: bool = True) -> None:
        super().__init__(n_input, n_output, bias, dtype=torch.float32)

    def reset_parameters(self) -> None:
        """Draw nothing when it is made: that is for `draw`."""

    def draw(self, generator: torch.Generator) -> None:
        """As torch does: uniform within 1 / sqrt(n_input) of zero."""
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5), generator=generator)
        if self.bias is not None:
            bound = 1 / math.sqrt(self.in_features)
            nn.init.uniform_(self.bias, -bound, bound, generator=generator)


class Embedding(nn.Embedding):
    """The same of torch's embedding, which is standard normal."""

    def __init__(self, n_codes: int, width: int) -> None:
        super().__init__(n_codes, width, dtype=torch.float32)

    def reset_parameters(self) -> None:
        """Draw nothing when it is made: that is for `draw`."""

    def draw(self, generator: torch.Generator) -> None:
        nn.init.normal_(self.weight, generator=generator)


def draw_weights(module: nn.Module, generator: torch.Generator) -> None:
    """The first weights of all layers of a module, in the order in which they were made."""
    for layer in module.modules():
        if isinstance(layer, Linear | Embedding):
            layer.draw(generator)


class Dropout(nn.Module):
    """Zeros in the place of a share of the values, and the others larger by as much; only while a model is fitted."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        if not (self.training and self.share):
            return x
        assert generator is not None, "torch's global random state is that of other threads too"
        kept = torch.empty_like(x).bernoulli_(1 - self.share, generator=generator)
        return x * kept.div_(1 - self.share)


class BatchEmbedding(nn.Module):
    """The batch as a vector: a learned embedding of `width` dimensions, or (`width` 0) one-hot.

    `code` says which vector is each batch's. Batches that share one are the same to the networks.
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
        self.first = Linear(n_input, widths[0])
        self.side = Linear(n_side, widths[0], bias=False) if n_side else None
        rest: list[nn.Module] = []
        for width, following in pairwise(widths):
            rest += [NORMS[norm](width), ACTIVATIONS[activation](), Dropout(dropout), Linear(width, following)]
        self.rest = nn.Sequential(*rest)

    @property
    def output(self) -> nn.Linear:
        """The last linear layer."""
        last = self.rest[-1] if len(self.rest) else self.first
        assert isinstance(last, nn.Linear)
        return last

    def forward(self, x: Tensor, side: Sequence[Tensor], generator: torch.Generator | None = None) -> Tensor:
        """The output; dropout, if there is any and the model is being fitted, draws from the generator."""
        h = self.first(x)
        if self.side is not None:
            h = h + self.side(torch.cat(list(side), dim=1))
        for layer in self.rest:
            h = layer(h, generator) if isinstance(layer, Dropout) else layer(h)
        return h
