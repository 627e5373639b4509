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

from .._session import one_thread
from ..data.counts import cells_by_code
from ..model.alignment import SHARPNESS, Alignment
from .device import threads_as_asked

MAX_CELLS_ALIGNED = 20_000  # cells that clusters and shifts are learned from: more cost time and hardly change them
MIN_CELLS_PER_BATCH = 50  # of these (or all cells of the batch)
CELLS_PER_CLUSTER, MAX_CLUSTERS = 30, 100
DIVERSITY = 1.0  # exponent of (expected / observed) cells of a batch in a cluster
# The shift of a batch in a cluster is halved where the batch has RIDGE * expected + PSEUDO_CELLS cells.
RIDGE, PSEUDO_CELLS = 0.5, 1.0
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
    # Copy to memory that torch allocates: products may round differently with another memory layout.
    x, code = torch.from_numpy(embedding[cells]).clone(), torch.from_numpy(batch[cells])
    max_clusters = len(alignment.centroid)
    with one_thread(), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # some clusters are empty if few cells are distinct
        kmeans = KMeans(min(max_clusters, len(x)), n_init=1, max_iter=25, random_state=seed % 2**32).fit(
            normalize(x).numpy()
        )
    centroid = torch.zeros(max_clusters, x.shape[1], dtype=x.dtype)
    centroid[: kmeans.n_clusters] = torch.from_numpy(kmeans.cluster_centers_.astype(np.float32))
    centroid = normalize(centroid)

    # There may be thousands of batches, so no array here is cells x batches or batches x batches.
    group_of_batch = torch.from_numpy(group)
    n_cells = torch.bincount(code, minlength=len(group)).float()
    # of a batch in its group
    share = n_cells / group_sums(n_cells.unsqueeze(0), group_of_batch).squeeze(0).clamp(min=1)

    def expected(observed: Tensor) -> Tensor:
        return group_sums(observed, group_of_batch) * share

    def sum_by_batch(assignment: Tensor, code: Tensor) -> Tensor:
        return assignment.new_zeros(len(group), assignment.shape[1]).index_add_(0, code, assignment).T

    def log_weight(observed: Tensor) -> Tensor:
        return DIVERSITY * ((expected(observed) + 1) / (observed + 1)).log()

    aligned, assignment = x, torch.softmax(SHARPNESS * normalize(x) @ centroid.T, 1)
    observed = sum_by_batch(assignment, code)  # number of cells, clusters x batches
    for _ in range(MAX_ROUNDS):
        direction = normalize(aligned)
        for _ in range(N_INNER_ROUNDS):
            centroid = normalize(assignment.T @ direction)
            for part in torch.from_numpy(rng.permutation(len(x))).tensor_split(N_PARTS):
                # one part after the other, so that cells depend on the new clusters of other cells of their batch
                observed = observed - sum_by_batch(assignment[part], code[part])
                similarity = SHARPNESS * direction[part] @ centroid.T
                assignment[part] = torch.softmax(similarity + log_weight(observed.clamp(min=0)).T[code[part]], 1)
                observed += sum_by_batch(assignment[part], code[part])
        alignment.centroid.copy_(centroid)
        alignment.log_weight.copy_(log_weight(observed.clamp(min=0)))
        alignment.shift.copy_(shifts(x, code, assignment, group_of_batch, expected(observed)))
        previous, aligned = aligned, alignment(x, code)
        if (aligned - previous).abs().mean() < TOLERANCE * x.abs().mean():
            break


def draw_cells(batch: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw at most about 20,000 cells: of every batch at least 50, or all its cells."""
    if len(batch) <= MAX_CELLS_ALIGNED:
        return np.arange(len(batch))
    share = MAX_CELLS_ALIGNED / len(batch)
    shuffled = [rng.permutation(cells) for cells in cells_by_code(batch)]
    return np.sort(np.concatenate([cells[: max(round(share * len(cells)), MIN_CELLS_PER_BATCH)] for cells in shuffled]))


def group_sums(values: Tensor, group: Tensor) -> Tensor:
    """Sum over the batches of each group (dimension 1); each batch gets the sum of its group."""
    sums = values.new_zeros(len(values), int(group.max()) + 1, *values.shape[2:])
    return sums.index_add_(1, group, values)[:, group]


def shifts(x: Tensor, code: Tensor, assignment: Tensor, group: Tensor, expected: Tensor) -> Tensor:
    """Difference of each batch's mean from its group's mean in each cluster (clusters x batches x dimensions).

    The difference is shrunk if a cluster has few cells of the batch, compared with an equal share. If a batch lacks a
    cell type, a few wrongly assigned cells must not shift the other batches.
    """
    order, sizes = code.argsort(stable=True), torch.bincount(code, minlength=len(group)).tolist()
    batches = list(zip(assignment[order].split(sizes), x[order].split(sizes), strict=True))
    n_cells = torch.stack([weight.sum(0) for weight, _ in batches], 1).unsqueeze(2)
    mean = torch.stack([weight.T @ cells for weight, cells in batches], 1) / n_cells.clamp(min=1e-8)
    shrinkage = n_cells / (n_cells + RIDGE * expected.unsqueeze(2) + PSEUDO_CELLS)
    group_mean = group_sums(shrinkage * mean, group) / group_sums(shrinkage, group).clamp(min=1e-8)
    return shrinkage * (mean - group_mean)
