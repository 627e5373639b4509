"""Is correction needed? The batch separation in the uncorrected embedding that composition does not explain."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.csgraph import connected_components

from ..metrics.separation import Separation, batch_separation, clusters, linked_batches, shifted_batches
from ._findings import NEEDED, SCALE, Confidence, Finding, Judged, few, number, p_value

MIXED = 0.05  # batch separation within types, below which batches count as mixed
LEVEL = 0.01  # significance level of the permutation test
FEW_TESTED, ENOUGH_TESTED = 0.1, 0.5  # share of the cells in types (or clusters) that two batches have


def correction_needed(data: Judged) -> Finding:
    """Test with a permutation of batches within types, or within clusters if there are no labels."""
    if data.uncorrected is None:
        text = "Whether correction is needed cannot be told, because no embedding without correction was computed."
        return Finding(NEEDED, "", "cannot be told", "low", text)
    strata: NDArray[Any] = clusters(data.reference) if data.labels is None else data.labels
    separation = batch_separation(data.reference, data.batch, strata)
    if not np.isfinite(separation.excess):
        return _nothing_shared(data)
    answer, confidence, sentence = _answer(separation)
    evidence = (
        f"In the {data.uncorrected}, batch separation within {data.kind()} is {number(max(separation.excess, 0))} "
        f"({SCALE}); "
        f"permuting batches within {data.kind()} gives p {p_value(separation.p)}."
    )
    if separation.tested < FEW_TESTED:
        confidence = "low"
        evidence += f" Only {separation.tested:.0%} of the cells are of {data.kind()} that two batches have."
    elif data.labels is None and answer != "yes" and separation.tested < ENOUGH_TESTED:
        confidence = "low"
        sentence += (
            f" But {1 - separation.tested:.0%} of the cells are in clusters of one batch alone, and without labels it "
            "cannot be told whether these are other kinds of cells or the same under a strong batch effect."
        )
    unlinked = _unlinked(data, strata)
    if unlinked and confidence == "high":
        confidence = "moderate"
    return Finding(NEEDED, "", answer, confidence, sentence + unlinked, evidence)


def _answer(separation: Separation) -> tuple[str, Confidence, str]:
    """Answer, confidence and sentence."""
    if separation.p > LEVEL:
        text = "No correction is needed: batches are as mixed as chance would have them."
        return "no", "high" if separation.excess < MIXED / 2 else "moderate", text
    if separation.excess < MIXED:
        text = "Hardly any correction is needed: there is a batch effect, but it is small."
        return "hardly", "high" if separation.excess < MIXED / 2 else "moderate", text
    return "yes", "high" if separation.excess >= 2 * MIXED else "moderate", "Correction is needed."


def _unlinked(data: Judged, strata: NDArray[Any]) -> str:
    """A sentence on sets of batches that have no type in common, so that they cannot be compared; empty if one set."""
    names = np.unique(data.batch)
    set_of_batch = linked_batches(data.batch, strata)
    if data.labels is None and len(np.unique(set_of_batch)) > 1:
        # two batches are linked if they share a cluster, or have the same kinds of cells in different clusters
        groups = _groups(data)
        is_linked = (set_of_batch[:, None] == set_of_batch) | (groups[:, None] == groups)
        set_of_batch = connected_components(is_linked, directed=False)[1]
    sets = [", ".join(names[set_of_batch == code]) for code in np.unique(set_of_batch)]
    if len(sets) == 1:
        return ""
    return (
        f" This holds within sets of batches only. Between the sets it cannot be told, because they have no "
        f"{data.kind(1)} in common: {' | '.join(sets)}."
    )


def _groups(data: Judged) -> NDArray[Any]:
    """The group of each batch (a group shares kinds of cells): from a fit, else from shifts between clusters."""
    return data.groups if data.groups is not None else shifted_batches(data.reference, data.batch)


def _nothing_shared(data: Judged) -> Finding:
    """The finding if no type (or cluster) has cells of two batches."""
    names = np.unique(data.batch)
    if data.labels is not None:
        types = "; ".join(f"{name} has {few(sorted(set(data.labels[data.batch == name])))}" for name in names)
        text = "Whether correction is needed cannot be told from these data, because no type is in two batches."
        return Finding(NEEDED, "", "cannot be told", "high", text, f"Batch {types}.")
    evidence = f"In the {data.uncorrected}, every cluster is of one batch."
    if len(np.unique(_groups(data))) == 1:
        text = "Correction is needed: batches have kinds of cells in common, and yet no cluster holds two batches."
        shared = "The fit found kinds of cells that batches share."
        if data.groups is None:
            shared = "One shift lays the clusters of a batch on those of another."
        return Finding(NEEDED, "", "yes", "moderate", text, f"{evidence} {shared}")
    text = (
        "Whether correction is needed cannot be told from these data, because no cluster is in two batches: this is a "
        "strong batch effect, or batches without a type in common."
    )
    if data.groups is not None:
        evidence += " The fit found batches that share no kind of cell."
    return Finding(NEEDED, "", "cannot be told", "moderate" if data.groups is not None else "low", text, evidence)
