"""What surrounds each cell of a tissue: the mean state of the cells around it, and the shares of kinds among them.

Kinds are soft clusters of states. Their shares tell two mixtures of cells apart also where the mean states are alike;
the mean state shows what all cells of a place have in common.
"""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.neighbors import kneighbors_graph

from .._session import one_thread
from ..data.counts import cells_by_code
from ..fit.align import draw_cells

N_NEIGHBORS = 6  # of a cell in a graph that is built here; as in squidpy
CELLS_AROUND = 30  # that the default number of hops reaches, about
SHARPNESS = 4.0  # of the assignment to kinds: of exp(-SHARPNESS * squared distance / its mean to the nearest kind)
CELLS_ASSIGNED_AT_ONCE = 65_536


def build_graph(coordinates: NDArray[np.float64], slices: NDArray[np.int64]) -> sparse.csr_array:
    """Which cells are neighbours: the nearest ones in the same slice, in one direction or the other."""
    rows, columns = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for cells in cells_by_code(slices):
        k = min(N_NEIGHBORS, len(cells) - 1)
        if k:
            near = kneighbors_graph(coordinates[cells], k, include_self=False).tocoo()
            rows.append(cells[near.row])
            columns.append(cells[near.col])
    n = len(coordinates)
    i, j = np.concatenate([*rows, *columns]), np.concatenate([*columns, *rows])
    return sparse.csr_array((np.ones(len(i), bool), (i, j)), (n, n))


def default_hops(graph: sparse.csr_array) -> int:
    """5 with 6 neighbours a cell, 2 with 15."""
    return max(1, round(CELLS_AROUND * graph.shape[0] / max(graph.nnz, 1)))


def kinds(states: NDArray[np.float32], slices: NDArray[np.int64], n_kinds: int, seed: int) -> NDArray[np.float32]:
    """How much each cell is of each kind: cells x kinds, with rows that sum to 1 (if there are kinds)."""
    if n_kinds == 0:
        return np.empty((len(states), 0), np.float32)
    drawn = states[draw_cells(slices, np.random.default_rng(seed))]
    with one_thread(), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # some kinds are empty if few cells are distinct
        fitted = KMeans(min(n_kinds, len(drawn)), n_init=1, random_state=seed).fit(drawn)
        scale = max(float(fitted.inertia_) / len(drawn), 1e-30)  # 0 if no cell is between kinds
        parts = [
            _softmax(-SHARPNESS * (fitted.transform(states[first : first + CELLS_ASSIGNED_AT_ONCE]) ** 2 / scale))
            for first in range(0, len(states), CELLS_ASSIGNED_AT_ONCE)
        ]
    return np.concatenate(parts)


def _softmax(logits: NDArray[np.floating]) -> NDArray[np.float32]:
    weight = np.exp(logits - logits.max(axis=1, keepdims=True))
    result: NDArray[np.float32] = (weight / weight.sum(axis=1, keepdims=True)).astype(np.float32)
    return result


def surroundings(
    states: NDArray[np.float32], shares: NDArray[np.float32], graph: sparse.csr_array, n_hops: int
) -> NDArray[np.float32]:
    """Means of states and shares around each cell, side by side, each of the two with total variance 1."""
    means = mean_around(np.hstack([states, shares]), graph, n_hops)
    for part in (means[:, : states.shape[1]], means[:, states.shape[1] :]):
        rounding = 1e-5 * np.abs(part).max(initial=0)
        part -= part.mean(axis=0)
        spread = np.linalg.norm(part) / np.sqrt(len(part))
        part /= spread if spread > rounding else 1
    return means


def mean_around(values: NDArray[np.float32], graph: sparse.csr_array, n_hops: int) -> NDArray[np.float32]:
    """The mean over each cell and its neighbours, `n_hops` times; a cell without neighbours keeps its own values."""
    n = graph.shape[0]
    with_self = sparse.csr_array(graph, dtype=np.float32) + sparse.eye_array(n, dtype=np.float32, format="csr")
    mean = sparse.diags_array(1 / with_self.sum(axis=1)) @ with_self
    for _ in range(n_hops):
        values = mean @ values
    return values
