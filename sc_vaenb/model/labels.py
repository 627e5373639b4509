"""Labels (such as cell types) of some cells: a classifier, fitted with the model."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from .config import ModelConfig
from .minibatch import ForwardState
from .network import Linear

UNKNOWN = -1  # code of cells without a known label


class Labels(nn.Module):
    """A linear classifier. The penalty is its cross-entropy on the cells of a minibatch with a known label.

    The sum is divided by the number of all cells in the minibatch, as in the joint likelihood of counts and labels: few
    labels have less influence than many, and a minibatch without labels adds nothing. During the fit the classifier
    sees samples of the posterior, not means, so that a label holds for the whole posterior. After the fit,
    `fit.classify` replaces it by a classifier of the embedding.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.weight = config.penalties["labels"]
        self.classifier = Linear(config.n_latent, len(config.labels))
        self.start()

    def start(self) -> None:
        """Set all labels equally likely."""
        nn.init.zeros_(self.classifier.weight)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, state: ForwardState) -> Tensor:
        label = state.batch.side_inputs.get("label")
        if label is None:
            return state.z.new_zeros(())
        total = cross_entropy(self.classifier(state.z), label, ignore_index=UNKNOWN, reduction="sum")
        return self.weight * total / len(label)

    def probabilities(self, x: Tensor) -> Tensor:
        """Probability of each label given the embedding, (n_cells, n_labels)."""
        return torch.softmax(self.classifier(x), 1)
