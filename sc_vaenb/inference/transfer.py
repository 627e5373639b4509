"""Transfer of labels from the nearest cells of a reference to new cells, and the novelty of new cells."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from sklearn.neighbors import NearestNeighbors

from .._session import shared
from ..data.counts import cells_by_code

MAX_CALIBRATION_CELLS = 6_000  # for each, all cells of the reference are searched
MAX_CALIBRATION_BATCHES = 12
MIN_CELLS_PER_LABEL = 5  # cells of a batch, for the batch to count as having the label


def nearest(
    points: NDArray[np.float32], reference: NDArray[np.float32], k: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Distances to the k nearest cells of a reference, and their positions, near to far; all cells if it has fewer."""
    index = NearestNeighbors(n_neighbors=min(k, len(reference)), algorithm="brute").fit(reference)
    with shared():  # scikit-learn sets the BLAS threads
        return index.kneighbors(points)


def vote(distance: NDArray[np.float32], label: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The label with most votes of the neighbours, and the share of the votes for other labels.

    The weight of a vote is exp(-(d / m)^2), where d is its distance and m the mean distance of the cell's neighbours.

    Parameters
    ----------
    distance, label
        Distances and label codes of the neighbours of each cell (cells x neighbours).
    """
    weight = np.exp(-((distance / np.maximum(distance.mean(1, keepdims=True), 1e-12)) ** 2))
    votes = np.zeros((len(label), label.max() + 1))
    np.add.at(votes, (np.arange(len(label))[:, None], label), weight)
    winner = votes.argmax(1)
    return winner, (1 - votes.max(1) / votes.sum(1)).clip(0, 1).astype(np.float32)


def novelty(points: NDArray[np.float32], reference: NDArray[np.float32], k: int) -> NDArray[np.float32]:
    """Mean distance of points to their k nearest reference cells, relative to the same distance of these cells.

    It is relative because the density of cells differs between cell types (as in the local outlier factor, Breunig et
    al. 2000).
    """
    k = min(k, len(reference) - 1)
    distance, neighbors = nearest(points, reference, k)
    cells, position = np.unique(neighbors, return_inverse=True)
    cell_distance = nearest(reference[cells], reference, k + 1)[0][:, 1:].mean(1)  # without the cell itself
    local_distance = cell_distance[position.reshape(neighbors.shape)].mean(1)
    return (distance.mean(1) / np.maximum(local_distance, 1e-12)).astype(np.float32)


@dataclass(frozen=True)
class Reference:
    """Labelled cells of a reference.

    Attributes
    ----------
    embedding
        Aligned embedding of all labelled cells (cells x dimensions); neighbours are searched among them.
    label, batch
        Label and batch codes of these cells. If only one batch has labels, `batch` holds random halves of the cells,
        and `across_batches` is False.
    sample
        The cells (rows of `embedding`, sorted) that play the query, one batch at a time (see `parts`).
    sample_embedding
        Embedding of the sample: not aligned if the query has new batches and the counts are known, else aligned.
    counts
        Counts of the sample (cells x genes), None if they are not known.
    names
        Names of the labels.
    """

    embedding: NDArray[np.float32]
    label: NDArray[np.int64]
    batch: NDArray[np.int64]
    across_batches: bool
    sample: NDArray[np.int64]
    sample_embedding: NDArray[np.float32]
    counts: csr_matrix | None
    names: list[str]

    @property
    def n_labels(self) -> int:
        return len(self.names)

    def n_cells(self) -> NDArray[np.int64]:
        """The number of cells (batches x labels)."""
        table = np.zeros((self.batch.max() + 1, self.n_labels), np.int64)
        np.add.at(table, (self.batch, self.label), 1)
        return table

    def n_batches(self) -> NDArray[np.int64]:
        """The number of batches that have each label."""
        return (self.n_cells() >= MIN_CELLS_PER_LABEL).sum(0)

    def parts(self) -> list[NDArray[np.int64]]:
        """Positions in the sample, batch by batch."""
        return cells_by_code(self.batch[self.sample])

    def votes(self, k: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Predicted label (-1: none) and its share of the votes, for the sample; cells of all other batches vote."""
        label, share = np.full(len(self.sample), -1), np.full(len(self.sample), np.nan)
        for part in self.parts():
            others = np.flatnonzero(self.batch != self.batch[self.sample[part[0]]])
            distance, neighbors = nearest(self.sample_embedding[part], self.embedding[others], k)
            label[part], uncertainty = vote(distance, self.label[others][neighbors])
            share[part] = 1 - uncertainty
        return label, share


def batches_or_halves(batch: NDArray[np.int64], seed: int) -> tuple[NDArray[np.int64], bool]:
    """Batch codes of labelled cells and True; with only one batch, codes of random halves of it and False."""
    _, batch = np.unique(batch, return_inverse=True)
    if batch.max() > 0:
        return batch, True
    return np.random.default_rng(seed).permutation(len(batch)) % 2, False


def draw_sample(batch: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """Cells that play the query, sorted: about equally many of each of the largest batches."""
    rng = np.random.default_rng(seed)
    groups = sorted(cells_by_code(batch), key=len, reverse=True)[:MAX_CALIBRATION_BATCHES]
    drawn, n_remaining = [], MAX_CALIBRATION_CELLS
    for i, cells in enumerate(reversed(groups)):  # the unused share of small batches goes to larger ones
        drawn.append(rng.permutation(cells)[: n_remaining // (len(groups) - i)])
        n_remaining -= len(drawn[-1])
    return np.sort(np.concatenate(drawn))
