"""Paths between latent states, straight or from cell to cell, and what is expressed along them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse.csgraph import dijkstra
from sklearn.neighbors import kneighbors_graph

from .._session import shared
from ..fit.device import threads_as_asked
from ..model.vae import CountVAE
from .posterior import expression

MAX_CELLS_IN_GRAPH = 20_000  # in the graph: more would cost time and hardly move a path
N_SMOOTHING_ROUNDS = 3  # of smoothing: the zigzag from cell to cell goes, bends of more cells stay


def straight(stops: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """Legs from each state to the next, as polylines (nodes x dimensions)."""
    return [np.stack(leg) for leg in pairwise(stops)]


def along_cells(
    states: NDArray[np.float32], stops: Sequence[int], n_neighbors: int
) -> tuple[list[NDArray[np.float32]], int | None]:
    """Legs over the shortest paths in the graph of nearest neighbours from each cell in `stops` to the next, smoothed.

    Where the graph holds no path, the legs found so far, and the number of the leg without one; else `None`.
    """
    even = np.linspace(0, len(states) - 1, min(len(states), MAX_CELLS_IN_GRAPH)).astype(np.int64)
    cells = np.unique(np.concatenate([even, stops]))
    nodes = np.searchsorted(cells, stops)
    with shared():  # it sets the threads of BLAS
        graph = kneighbors_graph(states[cells], min(n_neighbors, len(cells) - 1), mode="distance")
    graph.data = np.maximum(graph.data, 1e-12)  # cells on one point are joined all the same
    legs: list[NDArray[np.float32]] = []
    for begin, end in pairwise(nodes):
        before = dijkstra(graph, directed=False, indices=begin, return_predecessors=True)[1]
        at, way = end, [end]
        while at != begin:
            at = before[at]
            if at < 0:
                return legs, len(legs)
            way.append(at)
        legs.append(_smoothed(states[cells[way[::-1]]]))
    return legs, None


def _smoothed(nodes: NDArray[np.float32]) -> NDArray[np.float32]:
    """Each node moved towards its neighbours on the path, but for both ends."""
    nodes = nodes.copy()
    for _ in range(N_SMOOTHING_ROUNDS):
        nodes[1:-1] = (nodes[:-2] + 2 * nodes[1:-1] + nodes[2:]) / 4
    return nodes


def equal_steps(
    legs: Sequence[NDArray[np.float32]], n_points: int
) -> tuple[NDArray[np.float32], NDArray[np.float64], float]:
    """Points at equal distances along the legs; where on the way (0 .. 1) each stop is; and how long the way is."""
    nodes = np.concatenate([legs[0][:1], *(leg[1:] for leg in legs)]).astype(np.float64)
    reached = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(nodes, axis=0), axis=1))])
    stops = np.concatenate([[0], np.cumsum([len(leg) - 1 for leg in legs])])
    wanted = np.linspace(0, reached[-1], n_points)
    points = np.column_stack([np.interp(wanted, reached, values) for values in nodes.T])
    return points.astype(np.float32), reached[stops] / reached[-1], float(reached[-1])


@torch.inference_mode()
def mean_expression(
    model: CountVAE, z: NDArray[np.float32], codes: Sequence[int], device: torch.device
) -> NDArray[np.float64]:
    """Share of each gene in the expected counts of states (states x genes), averaged over being in these batches."""
    model, states = model.to(device).eval(), torch.from_numpy(z).to(device)
    total = np.zeros((len(z), model.config.n_genes))
    with threads_as_asked():
        for code in codes:
            total += expression(model, states, torch.full((len(z),), code, device=device)).cpu().numpy()
    return total / len(codes)
