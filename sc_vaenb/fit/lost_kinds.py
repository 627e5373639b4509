"""Which kinds of cells an embedding no longer tells apart, without labels.

Within a batch there is no batch effect. So clusters that were found in one batch alone, with a gap between them, must
still be two in the embedding, within that batch. Where they are not, the fit gave up what the counts show.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..metrics.neighbors import knn
from .overlap import GAP, Kinds

N_NEIGHBORS = 10  # within the batch
CONFUSED = 0.2  # share of the neighbours that are of the other kind: more is lost
STANDARD_ERRORS = 2.0  # by which the share must exceed that
N_MARKERS = 3


class Lost(NamedTuple):
    """Two clusters of a batch, the share of neighbours of the first that are of the second, and genes high in each."""

    batch: int
    share: float
    genes: NDArray[np.int64]
    other_genes: NDArray[np.int64]


def lost_kinds(embedding: NDArray[np.float32], batch: int, kinds: Kinds) -> list[Lost]:
    """The pairs of clusters of a batch that its cells in the embedding (all cells x dimensions) no longer show."""
    n_kinds = len(kinds.fraction)
    if n_kinds < 2 or len(kinds.cells) <= 2 * N_NEIGHBORS:
        return []
    neighbors = kinds.cluster[knn(embedding[kinds.cells], N_NEIGHBORS + 1).indices[:, 1:]]
    mean = kinds.halves.mean(0)
    found = []
    for i in range(n_kinds):
        of_i = neighbors[kinds.cluster == i]
        for j in range(n_kinds):
            if i == j or kinds.gap(i, j) < GAP:
                continue
            share = (of_i == j).mean(1)
            if share.mean() - STANDARD_ERRORS * share.std() / np.sqrt(len(share)) > CONFUSED:
                order = np.argsort(mean[i] - mean[j], kind="stable")
                high, low = order[::-1][:N_MARKERS], order[:N_MARKERS]
                found.append(Lost(batch, float(share.mean()), kinds.genes[high], kinds.genes[low]))
    return found
