"""What the nearest cells of a reference say of new cells: their labels, and whether there is anything like them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors

from .._session import shared


def nearest(
    points: NDArray[np.float32], reference: NDArray[np.float32], k: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Distances to, and positions of, the k nearest cells of a reference (all, where it has fewer), near to far."""
    found = NearestNeighbors(n_neighbors=min(k, len(reference)), algorithm="brute").fit(reference)
    with shared():  # it sets the threads of BLAS
        return found.kneighbors(points)


def vote(distance: NDArray[np.float32], label: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The label with most of the neighbours' votes, and the share of the votes that it did not get.

    A vote weighs exp(-(d / m)^2), where m is the mean distance of the cell's neighbours.

    Parameters
    ----------
    distance, label
        Of each cell's neighbours (cells x neighbours).
    """
    weight = np.exp(-((distance / np.maximum(distance.mean(1, keepdims=True), 1e-12)) ** 2))
    votes = np.zeros((len(label), label.max() + 1))
    np.add.at(votes, (np.arange(len(label))[:, None], label), weight)
    winner = votes.argmax(1)
    return winner, (1 - votes.max(1) / votes.sum(1)).clip(0, 1).astype(np.float32)


def novelty(points: NDArray[np.float32], reference: NDArray[np.float32], k: int) -> NDArray[np.float32]:
    """Mean distance of points to their k nearest in a reference, relative to what these have among themselves.

    Relative, as kinds of cells differ in how densely they lie (as in the local outlier factor, Breunig et al. 2000).
    """
    k = min(k, len(reference) - 1)
    distance, at = nearest(points, reference, k)
    near, position = np.unique(at, return_inverse=True)
    among = nearest(reference[near], reference, k + 1)[0][:, 1:].mean(1)  # without the cell itself
    return (distance.mean(1) / np.maximum(among[position.reshape(at.shape)].mean(1), 1e-12)).astype(np.float32)
