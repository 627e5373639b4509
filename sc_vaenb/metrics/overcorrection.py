"""Over-correction, which scIB's total does not show: what did integration destroy?

Batch metrics rise whenever batches are mixed, also if they should not be, and labels cover only what was annotated.
The metrics here fall: neighbourhoods within a batch, which no batch effect can distort, and the purity of labels that
do not occur in every batch, which mixing harms first.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from .._checks import checked
from .._session import own_state
from ._check import BoolArray, FloatArray, Groups, check_embedding, check_groups, defined_mean
from .isolated import batches_per_label
from .loss import purity_per_cell
from .neighbors import Neighbors, knn_within
from .pcr import check_reference

LabelSet = Literal["all", "confounded", "private"]


@own_state()
@checked
def overlap_per_batch(embedding: ArrayLike, reference: ArrayLike, batch: ArrayLike, *, k: int = 30) -> dict[str, float]:
    """Share of each cell's `k` nearest cells of its batch that stay the same, averaged per batch.

    Both searches are within the batch: in the embedding, and in the reference. Batches have no effect within
    themselves, so a method that only removes batch effects should leave these neighbourhoods alone. A value of 1 is not
    the aim (a count model denoises, so its neighbours differ from those of a PCA); compare methods, and see whether one
    falls below the others. An embedding of noise scores k / (n_batch - 1).

    Parameters
    ----------
    embedding, reference
        After and before integration, shape (n_cells, ...), such as the VAE's and the PCA's.
    batch
        One entry per cell; a single batch is fine.
    k
        Neighbours, at most a quarter of the batch's cells.

    Returns
    -------
    For each batch of at least two cells the share, between 0 and 1.

    See Also
    --------
    sc_vaenb.metrics.neighborhood_overlap : The mean over batches.
    """
    x = check_embedding(embedding)
    before = check_reference(reference, x)
    groups = check_groups(batch, x.shape[0], "batch")
    shares: dict[str, float] = {}
    for (code, cells, neighbors_after), (_, _, neighbors_before) in zip(
        knn_within(x, groups, k), knn_within(before, groups, k), strict=True
    ):
        offset = np.arange(len(cells))[:, None] * len(cells)  # so that each row has unique numbers
        shares[groups.names[code]] = float(np.isin(neighbors_after + offset, neighbors_before + offset).mean())
    return shares


@own_state()
@checked
def neighborhood_overlap(embedding: ArrayLike, reference: ArrayLike, batch: ArrayLike, *, k: int = 30) -> float:
    """Mean over batches of `overlap_per_batch`, each batch counting the same.

    Parameters
    ----------
    embedding, reference
        After and before integration, shape (n_cells, ...), such as the VAE's and the PCA's.
    batch
        One entry per cell; a single batch is fine.
    k
        Neighbours, at most a quarter of the batch's cells.

    Returns
    -------
    Between 0 and 1; NaN if every batch has a single cell.

    See Also
    --------
    sc_vaenb.metrics.overlap_per_batch : The share of each batch.
    """
    return defined_mean(list(overlap_per_batch(embedding, reference, batch, k=k).values()))


def _purity(neighbors: Neighbors, labels: Groups) -> FloatArray:
    per_cell = purity_per_cell(neighbors, labels.codes)
    return np.array([defined_mean(per_cell[cells]) for cells in labels.cells()])


@own_state()
@checked
def purity_per_label(neighbors: Neighbors, labels: ArrayLike) -> dict[str, float]:
    """Share of a cell's neighbours that have its label, averaged per label.

    For a label of n cells only the nearest n - 1 are looked at if that is fewer, so that a rare label can reach 1;
    a label of one cell has NaN.

    Parameters
    ----------
    neighbors
        From :func:`knn`.
    labels
        One label per cell.

    Returns
    -------
    For each label the share, between 0 and 1, or NaN.

    See Also
    --------
    sc_vaenb.metrics.label_purity : The mean over labels.
    """
    groups = check_groups(labels, neighbors.n_cells, "labels")
    return dict(zip(groups.names, _purity(neighbors, groups).tolist(), strict=True))


def _in_label_set(labels: Groups, batch: ArrayLike | None, n_cells: int, which: LabelSet) -> BoolArray:
    if which == "all":
        if batch is not None:
            check_groups(batch, n_cells, "batch")  # checked here too, although it is not used
        return np.ones(len(labels.names), dtype=bool)
    if batch is None:
        raise ValueError(f"which={which!r} depends on the batches but batch is None: pass one batch per cell.")
    batches = check_groups(batch, n_cells, "batch", min_groups=2)
    n_batches = batches_per_label(labels, batches)
    return np.asarray(n_batches == 1 if which == "private" else n_batches < len(batches.names))


@own_state()
@checked
def label_purity(
    neighbors: Neighbors,
    labels: ArrayLike,
    batch: ArrayLike | None = None,
    *,
    which: Literal["all", "confounded", "private"] = "all",
) -> float:
    """Mean neighbourhood purity (`purity_per_label`) over labels.

    Parameters
    ----------
    neighbors
        From :func:`knn` on the embedding.
    labels
        One label per cell.
    batch
        One batch per cell, for `which` other than "all".
    which
        "all" labels; only the "confounded" ones, missing from at least one batch: a method that forces batches onto
        each other must mix these with something else; only "private" ones, found in a single batch.

    Returns
    -------
    Between 0 and 1; NaN if there is no such label.

    See Also
    --------
    sc_vaenb.metrics.purity_per_label : The value of each label.
    sc_vaenb.metrics.purity_kept : Compared with before integration.
    """
    groups = check_groups(labels, neighbors.n_cells, "labels", min_groups=2)
    return defined_mean(_purity(neighbors, groups)[_in_label_set(groups, batch, neighbors.n_cells, which)])


@own_state()
@checked
def purity_kept(
    neighbors: Neighbors,
    reference_neighbors: Neighbors,
    labels: ArrayLike,
    batch: ArrayLike | None = None,
    *,
    which: Literal["all", "confounded", "private"] = "private",
) -> float:
    """Fate of labels: mean over labels of min(1, purity after / purity before).

    1: labels are at least as pure as before integration; 0.5: half their neighbours were lost to other labels.
    Labels without any purity before are left out.

    Parameters
    ----------
    neighbors, reference_neighbors
        From :func:`knn` with the same k on the embedding and on the unintegrated reference.
    labels, batch, which
        As in :func:`label_purity`.

    Returns
    -------
    Between 0 and 1; NaN if there is no such label.

    See Also
    --------
    sc_vaenb.metrics.label_purity : The purity after integration alone.
    """
    if (neighbors.n_cells, neighbors.k) != (reference_neighbors.n_cells, reference_neighbors.k):
        raise ValueError(
            f"neighbors is {neighbors.n_cells} cells x {neighbors.k} but reference_neighbors is "
            f"{reference_neighbors.n_cells} x {reference_neighbors.k}: search both in the same cells with the same k."
        )
    groups = check_groups(labels, neighbors.n_cells, "labels", min_groups=2)
    chosen = _in_label_set(groups, batch, neighbors.n_cells, which)
    after, before = _purity(neighbors, groups)[chosen], _purity(reference_neighbors, groups)[chosen]
    usable = before > 0  # also False for NaN
    return defined_mean(np.minimum(1, after[usable] / before[usable]))
