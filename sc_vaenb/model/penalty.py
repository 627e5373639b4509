"""What is added to the objective on request: `PENALTIES` maps a name to a module that gives a minibatch's penalty.

A penalty is made of the model's configuration, `config.penalties[name]` its weight. Called with the model and what has
passed through it, it returns nats per cell, weighted. Its own parameters are fitted with the model's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor, nn

from .batch_penalty import MMD, Adversary
from .labels import Labels
from .minibatch import Minibatch
from .protein import Protein


class ForwardState(NamedTuple):
    """A minibatch on its way through the model: what was encoded (cells x dimensions), drawn, and decoded from it.

    `kl_warmup` is the weight of the KL as a share of its final value.
    """

    batch: Minibatch
    mean: Tensor
    log_var: Tensor
    z: Tensor
    raw: Tensor
    kl_warmup: float | Tensor = 1.0


PENALTIES: dict[str, Callable[..., nn.Module]] = {
    "adversary": Adversary,
    "labels": Labels,
    "mmd": MMD,
    "protein": Protein,
}
