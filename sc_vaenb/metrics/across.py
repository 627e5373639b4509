"""Label accuracy across batches: do the nearest cells of other batches predict the label of a cell?"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from .._checks import checked
from .._session import own_state
from ._check import FloatArray, Groups, IntArray, check_embedding, check_groups, defined_mean
from .neighbors import Neighbors, sum_by_group

_BLOCK = 4_000_000  # distances in memory at once
_NEARER = 1e-3  # extra weight of the nearest neighbour: it decides ties and is less than one vote


def _neighbors_in_other_batches(x: FloatArray, batch: Groups, k: int) -> tuple[IntArray, IntArray]:
    """The `k` nearest cells of other batches, and how many of the `k` columns are filled (fewer in very small data)."""
    x = x - x.mean(axis=0)  # distances by a matrix product lose precision far from the origin
    square = np.einsum("ij,ij->i", x, x)
    indices = np.zeros((len(x), k), dtype=np.intp)
    n_found = np.zeros(len(x), dtype=np.intp)
    for code, own_cells in enumerate(batch.cells()):
        other_cells = np.flatnonzero(batch.codes != code)
        n = min(k, len(other_cells))
        step = max(1, _BLOCK // len(other_cells))
        for start in range(0, len(own_cells), step):
            rows = own_cells[start : start + step]
            # squared, without the term that is constant in a row
            distances = square[other_cells] - 2 * x[rows] @ x[other_cells].T
            nearest = np.argpartition(distances, n - 1, axis=1)[:, :n]
            order = np.argsort(np.take_along_axis(distances, nearest, axis=1), axis=1, kind="stable")
            indices[rows, :n] = other_cells[np.take_along_axis(nearest, order, axis=1)]
        n_found[own_cells] = n
    return indices, n_found


def _graph_neighbors_in_other_batches(neighbors: Neighbors, batch: Groups, k: int) -> tuple[IntArray, IntArray]:
    """The same from a neighbour list, which may have fewer neighbours in other batches."""
    is_other_batch = batch.codes[neighbors.indices] != batch.codes[:, None]
    order = np.argsort(~is_other_batch, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(neighbors.indices, order, axis=1), np.minimum(is_other_batch.sum(axis=1), order.shape[1])


@own_state()
@checked
def cross_batch_hits(
    embedding: ArrayLike | Neighbors, labels: ArrayLike, batch: ArrayLike, *, k: int = 15
) -> FloatArray:
    """Whether each cell's `k` nearest cells of *other* batches vote for its label.

    A label of fewer than `k` cells in the other batches is given as many votes as it has cells there, so that a rare
    label can win. A tie goes to the label with the nearer cells.

    Parameters
    ----------
    embedding
        Shape (n_cells, n_dimensions), or the neighbours in a graph; a cell that has no neighbour of another batch in
        the graph counts as wrong.
    labels, batch
        One entry per cell; at least two batches.
    k
        Number of votes.

    Returns
    -------
    Shape (n_cells,): 1 right, 0 wrong, NaN where no other batch has the cell's label.

    See Also
    --------
    sc_vaenb.metrics.cross_batch_accuracy : The mean over labels.
    """
    x = embedding if isinstance(embedding, Neighbors) else check_embedding(embedding)
    n_cells = x.n_cells if isinstance(x, Neighbors) else len(x)
    label_groups = check_groups(labels, n_cells, "labels")
    batch_groups = check_groups(batch, n_cells, "batch", min_groups=2)
    sizes = batch_groups.crosstab(label_groups)
    n_in_other_batches = (sizes.sum(axis=0) - sizes)[batch_groups.codes, label_groups.codes]
    if isinstance(x, Neighbors):
        indices, n_found = _graph_neighbors_in_other_batches(x, batch_groups, k)
    else:
        indices, n_found = _neighbors_in_other_batches(x, batch_groups, k)

    rank = np.arange(indices.shape[1])
    weights = np.where(rank < np.minimum(n_found, n_in_other_batches)[:, None], 1 + _NEARER / (1 + rank), 0.0)
    votes = sum_by_group(label_groups.codes[indices], len(label_groups.names), weights)
    is_right = (votes.argmax(axis=1) == label_groups.codes) & (votes.max(axis=1) > 0)
    return np.where(n_in_other_batches > 0, is_right.astype(np.float64), np.nan)


@own_state()
@checked
def cross_batch_accuracy(
    embedding: ArrayLike | Neighbors, labels: ArrayLike, batch: ArrayLike, *, k: int = 15
) -> float:
    """Accuracy of labels across batches, each label counting the same.

    Mean over labels of :func:`cross_batch_hits`: unlike the purity of neighbourhoods it does not rise where batches
    stay apart, and unlike mixing it does not rise where types are mixed.

    Parameters
    ----------
    embedding
        Shape (n_cells, n_dimensions), or the neighbours in a graph.
    labels, batch
        One entry per cell; at least two batches.
    k
        Number of votes.

    Returns
    -------
    Between 0 and 1; NaN if no label is in two batches.

    See Also
    --------
    sc_vaenb.metrics.cross_batch_hits : The value of each cell.
    """
    hits = cross_batch_hits(embedding, labels, batch, k=k)
    groups = check_groups(labels, len(hits), "labels")
    return defined_mean([defined_mean(hits[cells]) for cells in groups.cells()])
