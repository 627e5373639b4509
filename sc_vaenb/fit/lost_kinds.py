"""Which kinds of cells an embedding no longer separates, judged without labels.

Within a batch there is no batch effect. So two clusters that were found in one batch alone, with a gap between them,
must stay separate in the embedding of that batch. If they do not, the fit lost a difference that the counts show.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..metrics.neighbors import knn
from .kinds import MIN_GAP, Kinds

N_NEIGHBORS = 10  # within the batch
MAX_MIXING = 0.75  # 1: neighbours are of the other cluster as often as if both were one kind
MIN_SHARE_OF_OTHER = 0.2  # of the neighbours; if fewer are of the other cluster, most are still of the own cluster
N_STANDARD_ERRORS = 2.0  # by which the share must exceed both limits
N_MARKERS = 3


class Lost(NamedTuple):
    """Two clusters of a batch, the share of neighbours of the first that are of the second, and genes high in each."""

    batch: int
    share: float
    genes: NDArray[np.int64]
    other_genes: NDArray[np.int64]


def lost_kinds(embedding: NDArray[np.float32], batch: int, kinds: Kinds) -> list[Lost]:
    """The pairs of clusters of a batch that the embedding (all cells x dimensions) no longer separates."""
    n_kinds = len(kinds.fraction)
    sizes = np.bincount(kinds.cluster[kinds.cluster >= 0], minlength=n_kinds)  # -1: in no cluster
    if n_kinds < 2 or len(kinds.cells) <= 2 * N_NEIGHBORS:
        return []
    neighbor_clusters = kinds.cluster[knn(embedding[kinds.cells], N_NEIGHBORS + 1).indices[:, 1:]]
    mean = kinds.halves.mean(0)
    lost_pairs = []
    for i in range(n_kinds):
        neighbors_of_i = neighbor_clusters[kinds.cluster == i]
        for j in range(n_kinds):
            if i == j or kinds.gap(i, j) < MIN_GAP:
                continue
            share, own = (neighbors_of_i == j).mean(1), (neighbors_of_i == i).mean(1)
            of_both = share[share + own > 0] / (share + own)[share + own > 0]  # other clusters do not count
            if_one_kind = sizes[j] / (sizes[i] + sizes[j] - 1)
            if _lower_bound(share) > MIN_SHARE_OF_OTHER and _lower_bound(of_both) > MAX_MIXING * if_one_kind:
                order = np.argsort(mean[i] - mean[j], kind="stable")
                high, low = order[::-1][:N_MARKERS], order[:N_MARKERS]
                lost_pairs.append(Lost(batch, float(share.mean()), kinds.genes[high], kinds.genes[low]))
    return lost_pairs


def _lower_bound(shares: NDArray[np.float64]) -> float:
    """The mean over cells, less some standard errors."""
    return float(shares.mean() - N_STANDARD_ERRORS * shares.std() / np.sqrt(len(shares)))
