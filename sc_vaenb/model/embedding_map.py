"""The map from latent states to the embedding."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class EmbeddingMap(nn.Module):
    """A linear map, one to one, from latent states to an embedding whose distances mean log expression.

    Before it is fitted (`fit.embedding_map`), it changes nothing.

    Attributes
    ----------
    center
        (n_latent): the latent state at the origin of the embedding.
    matrix
        (n_latent, n_latent): an embedding is `(z - center) @ matrix`.
    """

    def __init__(self, n_latent: int) -> None:
        super().__init__()
        self.center = nn.Buffer(torch.zeros(n_latent, dtype=torch.float32))
        self.matrix = nn.Buffer(torch.eye(n_latent, dtype=torch.float32))

    def forward(self, z: Tensor) -> Tensor:
        """The embedding (n_cells, n_latent) of latent states."""
        return (z - self.center) @ self.matrix

    def inverse(self, embedding: Tensor) -> Tensor:
        """The latent states (n_cells, n_latent) of an embedding."""
        return torch.linalg.solve(self.matrix, embedding, left=False) + self.center
