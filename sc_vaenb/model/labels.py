"""Labels, such as cell types, that are known of some cells: a classifier of latent states, fitted with the model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from .network import Linear

if TYPE_CHECKING:
    from .config import ModelConfig
    from .penalty import ForwardState
    from .vae import CountVAE

UNKNOWN = -1  # the code of a cell whose label is not known


class Labels(nn.Module):
    """A linear classifier, and as a penalty its cross-entropy on the cells of a minibatch whose label is known.

    The sum is divided by all cells of the minibatch: as in the joint likelihood of counts and labels, a few labels
    pull less than many, and a minibatch without any adds nothing. During the fit the classifier sees drawn states,
    not means, so that a label holds for all of the posterior.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.weight = config.penalties["labels"]
        self.classifier = Linear(config.n_latent, len(config.labels))
        self.start()

    def start(self) -> None:
        """All labels equally likely."""
        nn.init.zeros_(self.classifier.weight)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, model: CountVAE, passed: ForwardState) -> Tensor:
        label = passed.batch.side_inputs.get("label")
        if label is None:
            return passed.z.new_zeros(())
        total = cross_entropy(self.classifier(passed.z), label, ignore_index=UNKNOWN, reduction="sum")
        return self.weight * total / len(label)

    def probabilities(self, z: Tensor) -> Tensor:
        """Of each label (n_cells, n_labels), given latent states."""
        return torch.softmax(self.classifier(z), 1)
