"""Paths between latent states, straight or from cell to cell, and the expression along them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse.csgraph import dijkstra
from sklearn.neighbors import kneighbors_graph

from .._session import shared
from ..fit.device import tensor_of, threads_as_asked
from ..model.vae import CountVAE
from .posterior import expression

MAX_CELLS_IN_GRAPH = 20_000  # more cells take time and hardly change the path
N_SMOOTHING_ROUNDS = 3  # removes the zigzag from cell to cell, keeps bends that span more cells


def straight(stops: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """Straight legs from each state to the next, as polylines (nodes x dimensions)."""
    return [np.stack(leg) for leg in pairwise(stops)]


def along_cells(
    states: NDArray[np.float32], stops: Sequence[int], n_neighbors: int
) -> tuple[list[NDArray[np.float32]], int | None]:
    """Legs from each cell in `stops` to the next: smoothed shortest paths in the graph of nearest neighbours.

    Returns the legs and `None`. If the graph has no path, returns the legs before it and the number of the failed leg.
    """
    evenly_spaced = np.linspace(0, len(states) - 1, min(len(states), MAX_CELLS_IN_GRAPH)).astype(np.int64)
    cells = np.unique(np.concatenate([evenly_spaced, stops]))
    nodes = np.searchsorted(cells, stops)
    with shared():  # scikit-learn sets the BLAS threads
        graph = kneighbors_graph(states[cells], min(n_neighbors, len(cells) - 1), mode="distance")
    graph.data = np.maximum(graph.data, 1e-12)  # cells at the same point are connected, too
    legs: list[NDArray[np.float32]] = []
    for begin, end in pairwise(nodes):
        predecessors = dijkstra(graph, directed=False, indices=begin, return_predecessors=True)[1]
        node, path = end, [end]
        while node != begin:
            node = predecessors[node]
            if node < 0:
                return legs, len(legs)
            path.append(node)
        legs.append(_smoothed(states[cells[path[::-1]]]))
    return legs, None


def _smoothed(nodes: NDArray[np.float32]) -> NDArray[np.float32]:
    """Move each node towards its neighbours on the path; both ends stay."""
    nodes = nodes.copy()
    for _ in range(N_SMOOTHING_ROUNDS):
        nodes[1:-1] = (nodes[:-2] + 2 * nodes[1:-1] + nodes[2:]) / 4
    return nodes


def equal_steps(
    legs: Sequence[NDArray[np.float32]], n_points: int
) -> tuple[NDArray[np.float32], NDArray[np.float64], float]:
    """Points at equal distances along the legs, the position (0 .. 1) of each stop, and the length of the path."""
    nodes = np.concatenate([legs[0][:1], *(leg[1:] for leg in legs)]).astype(np.float64)
    distance = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(nodes, axis=0), axis=1))])
    stops = np.concatenate([[0], np.cumsum([len(leg) - 1 for leg in legs])])
    at_points = np.linspace(0, distance[-1], n_points)
    points = np.column_stack([np.interp(at_points, distance, values) for values in nodes.T])
    return points.astype(np.float32), distance[stops] / distance[-1], float(distance[-1])


@torch.inference_mode()
def mean_expression(
    model: CountVAE, z: NDArray[np.float32], codes: Sequence[int], device: torch.device
) -> NDArray[np.float64]:
    """Share of each gene in the expected counts of latent states (states x genes), averaged over these batches."""
    model, states = model.to(device).eval(), tensor_of(z, device)
    total = np.zeros((len(z), model.config.n_genes))
    with threads_as_asked():
        for code in codes:
            total += expression(model, states, torch.full((len(z),), code, device=device)).cpu().numpy()
    return total / len(codes)
