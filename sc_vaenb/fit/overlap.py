"""Which batches have cells of the same kinds, found in the counts.

A conditional model explains every difference between batches by the batch, if it is trained for long enough, also that
between an early embryo and a late one. Where two sets of batches have no kind of cell in common, nothing in the data
says how much of their difference is technical. They are put into different groups then: batch effects are estimated
within each, and the difference between the groups is kept.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse.csgraph import connected_components
from torch.nn.functional import normalize

from .batches import Counts

MOST_CELLS = 3_000
COMPONENTS, NEIGHBOURS = 50, 5
ABOUT_AS_CLOSE = 1.2  # times the distance to the closest other batch
LINKED = 0.05  # share of the cells of one batch that are about as close to another as to any,
CELLS_LINKED = 5  # and how many there must be at least, so that a single odd cell links nothing


@dataclass(frozen=True)
class Overlap:
    """`share` (batches x batches): of the cells of the first, those to which the second is about as close as any other.

    `group`: of each batch, 0 for the first; batches of one group are linked, directly or over others.
    """

    share: NDArray[np.float64]
    group: NDArray[np.int64]

    def code(self) -> NDArray[np.int64]:
        """The batches of each group counted from 0: what a model is told, so that it cannot tell the groups by it."""
        return np.array([(self.group[:b] == g).sum() for b, g in enumerate(self.group)])


def assumed(n_batches: int) -> Overlap:
    """All batches in one group."""
    return Overlap(np.ones((n_batches, n_batches)), np.zeros(n_batches, np.int64))


def compared(condition: NDArray[np.int64], seed: int = 0) -> list[NDArray[np.int64]]:
    """The cells of each batch that are compared; none where there is nothing to find."""
    n_batches = int(condition.max()) + 1
    if n_batches <= 3:
        return []
    rng = np.random.default_rng(seed)
    most = max(MOST_CELLS // n_batches, 2 * NEIGHBOURS)
    return [rng.permutation(np.flatnonzero(condition == b))[:most] for b in range(n_batches)]


@torch.no_grad()
def find_overlap(counts: Counts, seed: int = 0) -> Overlap:
    """Link batches that many cells are about as close to as to the closest other batch, and group what is linked.

    Closeness is the mean distance to a cell's 5 nearest in a batch, among equally many cells of every batch (all, where
    there are fewer), in the 50 principal components of the log-normalised counts scaled to length 1. As each batch is
    linked to its closest other one, two or three batches are always one group.
    """
    n_batches = int(counts.condition.max()) + 1
    parts = compared(counts.condition, seed)
    if not parts:
        return assumed(n_batches)
    sizes = [len(part) for part in parts]
    values = normalize(counts.minibatch(np.concatenate(parts), torch.device("cpu")).log_normalised())
    values -= values.mean(0)
    points, own = (
        components(values, min(COMPONENTS, *values.shape), seed),
        torch.arange(n_batches).repeat_interleave(torch.tensor(sizes)),
    )
    distance = points.new_full((len(points), n_batches), torch.inf)
    for b, there in enumerate(points.split(sizes)):
        nearest = torch.cdist(points, there).topk(min(NEIGHBOURS, len(there)), largest=False)[0]
        distance[:, b] = nearest.mean(1).masked_fill(own == b, torch.inf)
    close = (distance <= ABOUT_AS_CLOSE * distance.amin(1, keepdim=True)).float()
    share = np.stack([part.mean(0).numpy() for part in close.split(sizes)]).astype(np.float64)
    np.fill_diagonal(share, 1.0)
    others = share - np.eye(n_batches)
    linked = (others >= LINKED) & (others * np.array(sizes)[:, None] >= CELLS_LINKED)
    linked |= others >= others.max(1, keepdims=True)  # every batch at least to its closest
    return Overlap(share, connected_components(linked, directed=False)[1].astype(np.int64))


def components(values: torch.Tensor, n: int, seed: int) -> torch.Tensor:
    """The first principal components of centred values (cells x `n`), by a random projection.

    Halko, Martinsson & Tropp 2011, SIAM Review. (`torch.svd_lowrank` draws from torch's global random state.)
    """
    generator = torch.Generator("cpu").manual_seed(seed)
    found = values @ torch.randn(values.shape[1], n, generator=generator, dtype=values.dtype)
    for _ in range(2):
        found = values @ (values.T @ torch.linalg.qr(found).Q)
    basis = torch.linalg.qr(found).Q
    u, s, _ = torch.linalg.svd(basis.T @ values, full_matrices=False)
    return basis @ (u * s)
