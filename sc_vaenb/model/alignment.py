"""Alignment: removes the batch effects that remain in the embedding, by shifts per cluster."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

SHARPNESS = 20.0  # of soft cluster assignments: exp(SHARPNESS * cosine)
N_ALIGNMENT_ROUNDS = 3  # rounds of assignment and shift; more have no relevant effect


class Alignment(nn.Module):
    """Soft clusters of the embedding, with one shift per cluster and batch (Korsunsky et al. 2019, Harmony).

    Before it is fitted (`fit.align`), all shifts are zero, so embeddings do not change.

    Attributes
    ----------
    centroid
        (n_clusters, n_latent), unit vectors.
    log_weight
        (n_clusters, n_batches): added to the logit of a cluster for the cells of a batch.
    shift
        (n_clusters, n_batches, n_latent).
    """

    def __init__(self, n_clusters: int, n_batches: int, n_latent: int) -> None:
        super().__init__()
        self.centroid = nn.Buffer(torch.zeros(n_clusters, n_latent, dtype=torch.float32))
        self.log_weight = nn.Buffer(torch.zeros(n_clusters, n_batches, dtype=torch.float32))
        self.shift = nn.Buffer(torch.zeros(n_clusters, n_batches, n_latent, dtype=torch.float32))

    def forward(self, x: Tensor, batch: Tensor) -> Tensor:
        """The embedding x (n_cells, n_latent) without the shifts of the batches (codes, n_cells)."""
        order = batch.argsort(stable=True)  # cells sorted by batch: one matrix product per batch
        codes, sizes = (values.tolist() for values in batch.unique(return_counts=True))
        x_sorted, log_weight = x[order], self.log_weight.T[batch[order]]
        batch_shifts = self.shift.unbind(1)
        aligned = x_sorted
        for _ in range(N_ALIGNMENT_ROUNDS):
            assignment = torch.softmax(SHARPNESS * normalize(aligned) @ self.centroid.T + log_weight, 1)
            parts = zip(codes, assignment.split(sizes), strict=True)
            aligned = x_sorted - torch.cat([part @ batch_shifts[code] for code, part in parts])
        return torch.empty_like(x).index_copy_(0, order, aligned)
