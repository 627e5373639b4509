"""Fit the alignment of batches in the embedding.

The method is Harmony's (Korsunsky et al. 2019, Nature Methods). It repeats two steps: assign cells to clusters in which
every batch has its share, then shift the batches so that their means in each cluster agree. Two things differ. The
result is a function of embedding and batch, so later cells are aligned as the fitted cells were. And only batches of
one group (`fit.overlap`) are aligned with each other, because only they have cells of the same kinds.
"""

from __future__ import annotations

import warnings

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor
from torch.nn.functional import normalize

from .._session import shared
from ..data.counts import cells_by_code
from ..model.alignment import SHARPNESS, Alignment
from .align_compiled import reassign, sum_by_batch
from .device import threads_as_asked

MAX_CELLS_ALIGNED = 20_000  # cells that clusters and shifts are learned from: more cost time and hardly change them
MIN_CELLS_PER_BATCH = 50  # of these (or all cells of the batch)
CELLS_PER_CLUSTER, MAX_CLUSTERS = 30, 100
MAX_CELLS_OF_KMEANS = 5_000  # cells of which k-means finds the first centers of clusters
# The shift of a batch in a cluster is halved where the batch has RIDGE * expected + PSEUDO_CELLS cells.
RIDGE, PSEUDO_CELLS = 0.5, 1.0
CELLS_AT_ONCE = 2_000  # whose probabilities of clusters stay in the cache of a processor
MAX_ROUNDS, N_INNER_ROUNDS, N_PARTS = 10, 4, 20
TOLERANCE = 1e-3  # change of the embedding, relative to its size, at which the rounds end


def n_clusters(n_cells: int) -> int:
    """Number of clusters for so many cells."""
    return int(np.clip(n_cells // CELLS_PER_CLUSTER, 2, MAX_CLUSTERS))


@torch.no_grad()
@threads_as_asked(1)  # small operations, for which threads would wait for each other
def align(
    alignment: Alignment, embedding: NDArray[np.float32], batch: NDArray[np.int64], group: NDArray[np.int64], seed: int
) -> None:
    """Fit the alignment to an embedding (cells x dimensions), the cells' batch codes, and the group of each batch."""
    alignment.cpu()
    rng = np.random.default_rng(seed)
    cells = draw_cells(batch, rng)
    cells = cells[np.argsort(batch[cells], kind="stable")]  # what is read together lies together
    # Copy to memory that torch allocates: products may round differently with another memory layout.
    x, code = torch.from_numpy(embedding[cells]).clone(), torch.from_numpy(batch[cells])
    centroid = find_centroids(normalize(x), len(alignment.centroid), seed)

    # There may be thousands of batches, so no array here is cells x batches or batches x batches.
    group_of_batch = torch.from_numpy(group)
    n_cells = torch.bincount(code, minlength=len(group)).float()
    share = n_cells / group_sums(n_cells, group_of_batch)[group_of_batch].clamp(min=1)  # of a batch in its group
    with_one = torch.cat([x, torch.ones_like(x[:, :1])], 1)
    aligned, assignment = x, torch.softmax(SHARPNESS * normalize(x) @ centroid.T, 1)
    in_batch = assignment.new_zeros(len(group), len(centroid)).index_add_(0, code, assignment)
    in_group = group_sums(in_batch, group_of_batch)
    for _ in range(MAX_ROUNDS):
        direction = normalize(aligned)
        for _ in range(N_INNER_ROUNDS):
            centroid = normalize(assignment.T @ direction)
            parts = np.array_split(rng.permutation(len(x)), N_PARTS)
            fixed = to_numpy(direction, centroid.T.contiguous(), code, group_of_batch, share)
            for part in parts:
                # one part after the other, so that cells depend on the new clusters of other cells of their batch
                reassign(np.sort(part), *to_numpy(assignment, in_batch, in_group), *fixed)
        sums = torch.from_numpy(sum_by_batch(*to_numpy(with_one, assignment, code), len(group)))
        observed = sums[:, -1]  # number of cells, batches x clusters
        expected = share.unsqueeze(1) * group_sums(observed, group_of_batch)[group_of_batch]
        alignment.centroid.copy_(centroid)
        alignment.log_weight.copy_(((expected + 1) / (observed + 1)).log().T)
        alignment.shift.copy_(shifts(sums[:, :-1], observed, expected, group_of_batch).permute(2, 0, 1))
        blocks = zip(x.split(CELLS_AT_ONCE), code.split(CELLS_AT_ONCE), strict=True)
        previous, aligned = aligned, torch.cat([alignment(*block) for block in blocks])
        if (aligned - previous).abs().mean() < TOLERANCE * x.abs().mean():
            break


def to_numpy(*tensors: Tensor) -> list[NDArray]:
    return [tensor.numpy() for tensor in tensors]


def find_centroids(direction: Tensor, n_centroids: int, seed: int) -> Tensor:
    """The first centers of the clusters, as unit vectors: k-means of some of the cells; zeros if there are too few."""
    few = direction[:: -(-len(direction) // MAX_CELLS_OF_KMEANS)].numpy()
    with shared(), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # some clusters are empty if few cells are distinct
        kmeans = KMeans(min(n_centroids, len(few)), n_init=1, max_iter=25, random_state=seed % 2**32).fit(few)
    centroid = direction.new_zeros(n_centroids, direction.shape[1])
    centroid[: kmeans.n_clusters] = torch.from_numpy(kmeans.cluster_centers_.astype(np.float32))
    return normalize(centroid)


def draw_cells(batch: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw at most about 20,000 cells: of every batch at least 50, or all its cells."""
    if len(batch) <= MAX_CELLS_ALIGNED:
        return np.arange(len(batch))
    share = MAX_CELLS_ALIGNED / len(batch)
    shuffled = [rng.permutation(cells) for cells in cells_by_code(batch)]
    return np.sort(np.concatenate([cells[: max(round(share * len(cells)), MIN_CELLS_PER_BATCH)] for cells in shuffled]))


def group_sums(values: Tensor, group: Tensor) -> Tensor:
    """Sum over the batches (dimension 0) of each group."""
    return values.new_zeros(int(group.max()) + 1, *values.shape[1:]).index_add_(0, group, values)


def shifts(sums: Tensor, observed: Tensor, expected: Tensor, group: Tensor) -> Tensor:
    """Difference of each batch's mean from its group's mean in each cluster (batches x dimensions x clusters).

    The difference is shrunk if a cluster has few cells of the batch, compared with an equal share. If a batch lacks a
    cell type, a few wrongly assigned cells must not shift the other batches.

    Parameters
    ----------
    sums, observed, expected
        Sums over the cells of each batch and cluster; the number of these cells; the number at an equal share.
    """
    shrinkage = (observed / (observed + RIDGE * expected + PSEUDO_CELLS)).unsqueeze(1)
    mean = sums / observed.clamp(min=1e-8).unsqueeze(1)
    group_mean = group_sums(shrinkage * mean, group) / group_sums(shrinkage, group).clamp(min=1e-8)
    return mean.sub_(group_mean[group]).mul_(shrinkage)
