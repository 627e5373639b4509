"""What the decoder leaves of batch effects in the latent space, taken off there by shifts."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

SHARPNESS = 20.0  # of the membership in clusters: exp(SHARPNESS * cosine)
N_ALIGNMENT_ROUNDS = 3  # of membership and shift; more change nothing that matters


class Alignment(nn.Module):
    """Soft clusters of the latent space, in each of which every batch has a shift (Korsunsky et al. 2019, Harmony).

    Before it is fitted (`fit.align`), all shifts are zero and states stay where they are.

    Attributes
    ----------
    centroid
        (n_clusters, n_latent), of length 1.
    log_weight
        (n_clusters, n_batches): how much more likely a cell of a batch is in a cluster than its direction says.
    shift
        (n_clusters, n_batches, n_latent).
    """

    def __init__(self, n_clusters: int, n_batches: int, n_latent: int) -> None:
        super().__init__()
        self.centroid = nn.Buffer(torch.zeros(n_clusters, n_latent, dtype=torch.float32))
        self.log_weight = nn.Buffer(torch.zeros(n_clusters, n_batches, dtype=torch.float32))
        self.shift = nn.Buffer(torch.zeros(n_clusters, n_batches, n_latent, dtype=torch.float32))

    def forward(self, z: Tensor, batch: Tensor) -> Tensor:
        """Latent states (n_cells, n_latent) without the shifts of their batches (codes, n_cells)."""
        order = batch.argsort(stable=True)  # the cells of a batch side by side: a product for each, however many
        codes, sizes = (values.tolist() for values in batch.unique(return_counts=True))
        start, weight = z[order], self.log_weight.T[batch[order]]
        shift_of = self.shift.unbind(1)
        aligned = start
        for _ in range(N_ALIGNMENT_ROUNDS):
            assignment = torch.softmax(SHARPNESS * normalize(aligned) @ self.centroid.T + weight, 1)
            parts = zip(codes, assignment.split(sizes), strict=True)
            aligned = start - torch.cat([part @ shift_of[code] for code, part in parts])
        return torch.empty_like(z).index_copy_(0, order, aligned)
