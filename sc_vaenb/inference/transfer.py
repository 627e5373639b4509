"""What the nearest cells of a reference say of new cells: their labels, and whether there is anything like them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from sklearn.neighbors import NearestNeighbors

from .._session import shared
from ..data.counts import cells_by_code


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


MAX_CALIBRATION_CELLS = 6_000  # each costs a search among all cells of the reference
MAX_CALIBRATION_BATCHES = 12
MIN_CELLS_PER_LABEL = 5  # of a batch, to say that the batch has the label


@dataclass(frozen=True)
class Reference:
    """Labelled cells of a reference.

    Attributes
    ----------
    embedding
        The aligned states of all labelled cells (cells x dimensions), among which neighbours are searched.
    label, batch
        Their codes. Without two batches that have labels, `batch` holds random halves of the cells, and
        `across_batches` is False.
    sample
        The cells (rows of `embedding`) that play the query, batch by batch.
    state
        States of the sample as a query's cells lie: before alignment.
    counts
        Counts of the sample (cells x genes), None where they are not known.
    names
        Of the labels.
    """

    embedding: NDArray[np.float32]
    label: NDArray[np.int64]
    batch: NDArray[np.int64]
    across_batches: bool
    sample: NDArray[np.int64]
    state: NDArray[np.float32]
    counts: csr_matrix | None
    names: list[str]

    @property
    def n_labels(self) -> int:
        return len(self.names)

    def n_batches(self) -> NDArray[np.int64]:
        """The number of batches that have each label."""
        table = np.zeros((self.batch.max() + 1, self.n_labels), np.int64)
        np.add.at(table, (self.batch, self.label), 1)
        return (table >= MIN_CELLS_PER_LABEL).sum(0)

    def parts(self) -> list[NDArray[np.int64]]:
        """Positions in the sample, batch by batch."""
        return cells_by_code(self.batch[self.sample])

    def votes(self, k: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Label and share of the votes of each cell of the sample, from the cells of all other batches; -1 if none."""
        label, share = np.full(len(self.sample), -1), np.full(len(self.sample), np.nan)
        for part in self.parts():
            others = np.flatnonzero(self.batch != self.batch[self.sample[part[0]]])
            distance, at = nearest(self.state[part], self.embedding[others], k)
            label[part], uncertainty = vote(distance, self.label[others][at])
            share[part] = 1 - uncertainty
        return label, share


def batches_or_halves(batch: NDArray[np.int64], seed: int) -> tuple[NDArray[np.int64], bool]:
    """The batches of labelled cells, or with one batch alone random halves of it; and whether they are batches."""
    _, batch = np.unique(batch, return_inverse=True)
    if batch.max() > 0:
        return batch, True
    return np.random.default_rng(seed).permutation(len(batch)) % 2, False


def draw_sample(batch: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """Cells that play the query, sorted: of the largest batches, about as many of each."""
    rng = np.random.default_rng(seed)
    groups = sorted(cells_by_code(batch), key=len, reverse=True)[:MAX_CALIBRATION_BATCHES]
    drawn, left = [], MAX_CALIBRATION_CELLS
    for i, cells in enumerate(reversed(groups)):  # what small batches leave goes to the larger ones
        drawn.append(rng.permutation(cells)[: left // (len(groups) - i)])
        left -= len(drawn[-1])
    return np.sort(np.concatenate(drawn))
