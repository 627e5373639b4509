"""The loops over cells of the alignment, compiled: their time grows with the cells, and hardly with the batches."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from ..model.alignment import SHARPNESS
from ..model.compiled import OPTIONS, cached_njit
from ..model.nb_compiled import exp
from ..model.sparse_linear import add, add_weighted

ZERO, ONE, SHARP = np.float32(0), np.float32(1), np.float32(SHARPNESS)


@numba.njit(fastmath={"contract", "reassoc"}, **OPTIONS)
def _assign(out: NDArray, similarity: NDArray, share: Any, in_group: NDArray, in_batch: NDArray) -> None:
    """Set the probabilities of the clusters for a cell: those that its batch fills less than expected are preferred."""
    total = ZERO
    for k in range(len(out)):
        expected, observed = share * max(in_group[k], ZERO), max(in_batch[k], ZERO)
        out[k] = exp(SHARP * (similarity[k] - ONE)) * (expected + ONE) / (observed + ONE)
        total += out[k]
    for k in range(len(out)):
        out[k] /= total


@cached_njit
def reassign(
    cells: NDArray,
    assignment: NDArray,
    in_batch: NDArray,
    in_group: NDArray,
    direction: NDArray,
    centroid: NDArray,
    code: NDArray,
    group: NDArray,
    share: NDArray,
) -> None:
    """Assign some cells anew, given the clusters of all others.

    Parameters
    ----------
    cells
        The cells, in the order in which their data lie in memory.
    assignment, in_batch, in_group
        Changed in place: the probabilities of the clusters (cells x clusters), and their sums over the cells of each
        batch and of each group of batches.
    direction, centroid
        Unit vectors: of the cells (cells x dimensions) and of the clusters (dimensions x clusters).
    code, group, share
        The batch of each cell, the group of each batch, and its share of the cells of this group.
    """
    similarity, dims = np.empty(centroid.shape[1], np.float32), np.arange(len(centroid))
    for i in cells:
        add(in_batch[code[i]], -ONE, assignment[i])
        add(in_group[group[code[i]]], -ONE, assignment[i])
    for i in cells:
        similarity[:] = ZERO
        add_weighted(similarity, centroid, dims, direction[i])
        _assign(assignment[i], similarity, share[code[i]], in_group[group[code[i]]], in_batch[code[i]])
    for i in cells:
        add(in_batch[code[i]], ONE, assignment[i])
        add(in_group[group[code[i]]], ONE, assignment[i])


@cached_njit
def sum_by_batch(x: NDArray, assignment: NDArray, code: NDArray, n_batches: int) -> NDArray:
    """Sums of x (cells x columns) over the cells of each batch, weighted by the probabilities of the clusters.

    The sums are batches x columns x clusters.
    """
    sums = np.zeros((n_batches, x.shape[1], assignment.shape[1]), np.float32)
    for i in range(len(x)):
        for d in range(x.shape[1]):
            add(sums[code[i], d], x[i, d], assignment[i])
    return sums
