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
from .device import tensor_of, threads_as_asked

MAX_CELLS_ALIGNED = 20_000  # cells that clusters and shifts are learned from: more cost time and hardly change them
MIN_CELLS_PER_BATCH = 50  # of these (or all cells of the batch)
CELLS_PER_CLUSTER, MAX_CLUSTERS = 30, 100
MAX_CELLS_OF_KMEANS = 5_000  # cells of which k-means finds the clusters that the rounds start from
# The shift of a batch in a cluster is halved where the batch has RIDGE * expected + PSEUDO_CELLS cells.
RIDGE, PSEUDO_CELLS = 0.5, 1.0
CELLS_ALIGNED_AT_ONCE = 2_000  # so that their probabilities of clusters stay in the cache
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
    cells = rng.permutation(draw_cells(batch, rng))  # in random order, so that each part is a sample of all
    x, code = (tensor_of(values[cells]) for values in (embedding, batch))
    with one_thread(), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # some clusters are empty if few cells are distinct
        kmeans = KMeans(min(len(alignment.centroid), len(x)), n_init=1, max_iter=25, random_state=seed % 2**32).fit(
            normalize(x[:MAX_CELLS_OF_KMEANS]).numpy()
        )
    centroid = torch.zeros_like(alignment.centroid)
    centroid[: kmeans.n_clusters] = torch.from_numpy(kmeans.cluster_centers_.astype(np.float32))
    centroid = normalize(centroid)

    # There may be thousands of batches, so no array here is cells x batches or batches x batches.
    group_of_batch, n_cells = torch.from_numpy(group), torch.bincount(code, minlength=len(group)).float()
    share = n_cells / group_sums(n_cells, group_of_batch)[group_of_batch].clamp(min=1)  # of a batch in its group
    by_batch, sizes = code.argsort(stable=True), n_cells.int().tolist()
    with_one = torch.cat([x, torch.ones_like(x[:, :1])], 1)[by_batch]  # for sums over cells and their number

    def expected(observed: Tensor) -> Tensor:
        return share.unsqueeze(1) * group_sums(observed, group_of_batch).index_select(0, group_of_batch)

    def log_weight(observed: Tensor) -> Tensor:
        return expected(observed).add_(1).div_(observed + 1).log_()

    aligned, assignment = x, torch.softmax(SHARPNESS * normalize(x) @ centroid.T, 1)
    observed = assignment.new_zeros(len(group), len(centroid)).index_add_(0, code, assignment)  # number of cells
    for _ in range(MAX_ROUNDS):
        direction = normalize(aligned)
        for _ in range(N_INNER_ROUNDS):
            centroid = normalize(assignment.T @ direction)
            # one part after the other, so that cells depend on the new clusters of other cells of their batch
            parts = (values.tensor_split(N_PARTS) for values in (assignment, direction, code))
            for assigned, directions, codes in zip(*parts, strict=True):
                observed.index_add_(0, codes, assigned, alpha=-1)
                logit = log_weight(observed).index_select(0, codes)
                torch.softmax(logit.addmm_(directions, centroid.T, alpha=SHARPNESS), 1, out=assigned)
                observed.index_add_(0, codes, assigned)
        batches = zip(assignment.index_select(0, by_batch).split(sizes), with_one.split(sizes), strict=True)
        sums = torch.stack([weight.T @ values for weight, values in batches])  # batches x clusters x (dimensions, one)
        observed = sums[:, :, -1].contiguous()
        alignment.centroid.copy_(centroid)
        alignment.log_weight.copy_(log_weight(observed).T)
        alignment.shift.copy_(shifts(sums[:, :, :-1], observed, expected(observed), group_of_batch).transpose(0, 1))
        previous, aligned = aligned, torch.empty_like(x)
        for block in by_batch.split(CELLS_ALIGNED_AT_ONCE):
            aligned[block] = alignment(x[block], code[block])
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
    """Sum over the batches (dimension 0) of each group."""
    return values.new_zeros(int(group.max()) + 1, *values.shape[1:]).index_add_(0, group, values)


def shifts(sums: Tensor, observed: Tensor, expected: Tensor, group: Tensor) -> Tensor:
    """Difference of each batch's mean from its group's mean in each cluster (batches x clusters x dimensions).

    The difference is shrunk if a cluster has few cells of the batch, compared with an equal share. If a batch lacks a
    cell type, a few wrongly assigned cells must not shift the other batches.

    Parameters
    ----------
    sums, observed, expected
        Per batch and cluster: the sum of its cells, their number, and their number at an equal share.
    """
    denominator = observed + RIDGE * expected + PSEUDO_CELLS
    shrinkage = (observed / denominator).unsqueeze(2)
    shrunk = sums / denominator.unsqueeze(2)  # shrinkage times mean
    group_mean = group_sums(shrunk, group) / group_sums(shrinkage, group).clamp(min=1e-8)
    return shrunk.sub_(group_mean.index_select(0, group).mul_(shrinkage))
