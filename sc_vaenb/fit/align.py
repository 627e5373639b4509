"""Fit the alignment of batches in the latent space.

The method is Harmony's (Korsunsky et al. 2019, Nature Methods): clusters in which every batch has its share, then the
batches' means in each cluster laid over each other, and again. Two things differ. What comes out is a function of
latent state and batch, so that cells seen later are aligned as the fitted ones were; and only batches of one group
(`fit.overlap`) are laid over each other, because only they have cells of the same kinds.
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
from .device import threads_as_asked

MAX_CELLS_ALIGNED = 20_000  # from which clusters and shifts are learned: more would cost time and hardly move them
OF_A_BATCH = 50  # at least, or all
CELLS_PER_CLUSTER, MAX_CLUSTERS = 30, 100
DIVERSITY = 1.0  # exponent of (expected / observed) cells of a batch in a cluster
RIDGE = 0.5  # a batch with this share of its expected cells in a cluster has its shift there halved,
A_FEW = 1.0  # and one with no more cells than this at any rate
LARGEST_OUTER, INNER, PARTS = 10, 4, 20
SETTLED = 1e-3  # change of the latent states, relative to their size


def n_clusters(n_cells: int) -> int:
    """Clusters for so many cells."""
    return int(np.clip(n_cells // CELLS_PER_CLUSTER, 2, MAX_CLUSTERS))


@torch.no_grad()
@threads_as_asked()
def align(
    alignment: Alignment, latent: NDArray[np.float32], batch: NDArray[np.int64], group: NDArray[np.int64], seed: int
) -> None:
    """Set the alignment from latent states (cells x dimensions), their batch codes, and the group of each batch."""
    alignment.cpu()
    rng = np.random.default_rng(seed)
    chosen = draw_cells(batch, rng)
    # A copy in torch's own memory: products of arrays that lie otherwise may round otherwise.
    z, code = torch.from_numpy(latent[chosen]).clone(), torch.from_numpy(batch[chosen])
    clusters = len(alignment.centroid)
    with shared(), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct states than clusters: some stay empty
        start = KMeans(min(clusters, len(z)), n_init=1, max_iter=25, random_state=seed % 2**32).fit(
            normalize(z).numpy()
        )
    centroid = torch.zeros(clusters, z.shape[1], dtype=z.dtype)
    centroid[: start.n_clusters] = torch.from_numpy(start.cluster_centers_.astype(np.float32))
    centroid = normalize(centroid)

    # Batches are many (thousands), so nothing here is cells x batches or batches x batches.
    group_of = torch.from_numpy(group)
    size = torch.bincount(code, minlength=len(group)).float()
    share = size / group_sums(size.unsqueeze(0), group_of).squeeze(0).clamp(min=1)  # of a batch in its group

    def expected(observed: Tensor) -> Tensor:
        return group_sums(observed, group_of) * share

    def by_batch(assignment: Tensor, code: Tensor) -> Tensor:
        return assignment.new_zeros(len(group), assignment.shape[1]).index_add_(0, code, assignment).T

    def log_weight(observed: Tensor) -> Tensor:
        return DIVERSITY * ((expected(observed) + 1) / (observed + 1)).log()

    aligned, assignment = z, torch.softmax(SHARPNESS * normalize(z) @ centroid.T, 1)
    observed = by_batch(assignment, code)  # clusters x batches, in cells
    for _ in range(LARGEST_OUTER):
        direction = normalize(aligned)
        for _ in range(INNER):
            centroid = normalize(assignment.T @ direction)
            for part in torch.from_numpy(rng.permutation(len(z))).tensor_split(PARTS):
                # a part at a time, so that cells see where others of their batch have gone
                observed = observed - by_batch(assignment[part], code[part])
                near = SHARPNESS * direction[part] @ centroid.T
                assignment[part] = torch.softmax(near + log_weight(observed.clamp(min=0)).T[code[part]], 1)
                observed += by_batch(assignment[part], code[part])
        alignment.centroid.copy_(centroid)
        alignment.log_weight.copy_(log_weight(observed.clamp(min=0)))
        alignment.shift.copy_(shifts(z, code, assignment, group_of, expected(observed)))
        before, aligned = aligned, alignment(z, code)
        if (aligned - before).abs().mean() < SETTLED * z.abs().mean():
            break


def draw_cells(batch: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """At most about 20,000 cells, of every batch at least 50 or all."""
    if len(batch) <= MAX_CELLS_ALIGNED:
        return np.arange(len(batch))
    share = MAX_CELLS_ALIGNED / len(batch)
    parts = [rng.permutation(cells) for cells in cells_by_code(batch)]
    return np.sort(np.concatenate([part[: max(round(share * len(part)), OF_A_BATCH)] for part in parts]))


def group_sums(values: Tensor, group: Tensor) -> Tensor:
    """Sums over the batches of a group (dimension 1), for each of its batches."""
    sums = values.new_zeros(len(values), int(group.max()) + 1, *values.shape[2:])
    return sums.index_add_(1, group, values)[:, group]


def shifts(z: Tensor, code: Tensor, assignment: Tensor, group: Tensor, expected: Tensor) -> Tensor:
    """How far each batch's mean in each cluster is from that of its group (clusters x batches x dimensions).

    It is shrunk where a cluster holds few of the batch's cells, measured by what an equal share would be: a cell type
    that a batch lacks must not be drawn to the few cells of it that only seem to be there.
    """
    order, sizes = code.argsort(stable=True), torch.bincount(code, minlength=len(group)).tolist()
    parts = list(zip(assignment[order].split(sizes), z[order].split(sizes), strict=True))
    cells = torch.stack([m.sum(0) for m, _ in parts], 1).unsqueeze(2)
    mean = torch.stack([m.T @ x for m, x in parts], 1) / cells.clamp(min=1e-8)
    shrinkage = cells / (cells + RIDGE * expected.unsqueeze(2) + A_FEW)
    centre = group_sums(shrinkage * mean, group) / group_sums(shrinkage, group).clamp(min=1e-8)
    return shrinkage * (mean - centre)
