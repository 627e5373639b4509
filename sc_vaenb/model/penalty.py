"""Optional penalties of the objective: `PENALTIES` maps a name to a module that computes the penalty of a minibatch.

A penalty is created from the configuration of the model; `config.penalties[name]` is its weight. Called with a
`minibatch.ForwardState`, it returns weighted nats per cell. Its parameters are fitted with those of the model.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from .batch_penalty import MMD, Adversary
from .labels import Labels
from .peaks import Peaks
from .protein import Protein

PENALTIES: dict[str, Callable[..., nn.Module]] = {
    "adversary": Adversary,
    "labels": Labels,
    "mmd": MMD,
    "peaks": Peaks,
    "protein": Protein,
}
