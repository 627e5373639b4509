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
        codes, counts = batch.unique(return_counts=True)
        x_sorted, log_weight, sizes = x[order], self.log_weight.T[codes].repeat_interleave(counts, 0), counts.tolist()
        batch_shifts = self.shift.transpose(0, 1).index_select(0, codes)
        aligned = x_sorted
        for _ in range(N_ALIGNMENT_ROUNDS):
            logit = torch.addmm(log_weight, normalize(aligned), self.centroid.T, alpha=SHARPNESS)
            parts = zip(torch.softmax(logit, 1).split(sizes), batch_shifts, strict=True)
            aligned = x_sorted - torch.cat([part @ shift for part, shift in parts])
        return torch.empty_like(x).index_copy_(0, order, aligned)
