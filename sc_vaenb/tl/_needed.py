"""Is correction needed? Batch separation in the uncorrected embedding that composition does not explain."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.csgraph import connected_components

from ..metrics.separation import Separation, batch_separation, clusters, linked_batches, shifted_batches
from ._findings import NEEDED, SCALE, Confidence, Finding, Judged, few, number, p_value

MIXED = 0.05  # batch separation within types: less is as good as mixed
LEVEL = 0.01  # of the permutation test
FEW_TESTED, ENOUGH_TESTED = 0.1, 0.5  # share of the cells whose type (or cluster) two batches have


def correction_needed(data: Judged) -> Finding:
    """Permute batches within types, or within clusters where there are no labels."""
    if data.uncorrected is None:
        text = "Whether correction is needed cannot be told, because no embedding without correction was computed."
        return Finding(NEEDED, "", "cannot be told", "low", text)
    strata: NDArray[Any] = clusters(data.reference) if data.labels is None else data.labels
    found = batch_separation(data.reference, data.batch, strata)
    if not np.isfinite(found.excess):
        return _nothing_shared(data)
    answer, confidence, sentence = _weigh(found)
    evidence = (
        f"In the {data.uncorrected}, batch separation within {data.kind()} is {number(max(found.excess, 0))} "
        f"({SCALE}); "
        f"permuting batches within {data.kind()} gives p {p_value(found.p)}."
    )
    if found.tested < FEW_TESTED:
        confidence = "low"
        evidence += f" Only {found.tested:.0%} of the cells are of {data.kind()} that two batches have."
    elif data.labels is None and answer != "yes" and found.tested < ENOUGH_TESTED:
        confidence = "low"
        sentence += (
            f" But {1 - found.tested:.0%} of the cells are in clusters of one batch alone, and without labels it "
            "cannot be told whether these are other kinds of cells or the same under a strong batch effect."
        )
    unlinked = _unlinked(data, strata)
    if unlinked and confidence == "high":
        confidence = "moderate"
    return Finding(NEEDED, "", answer, confidence, sentence + unlinked, evidence)


def _weigh(found: Separation) -> tuple[str, Confidence, str]:
    if found.p > LEVEL:
        text = "No correction is needed: batches are as mixed as chance would have them."
        return "no", "high" if found.excess < MIXED / 2 else "moderate", text
    if found.excess < MIXED:
        text = "Hardly any correction is needed: there is a batch effect, but it is small."
        return "hardly", "high" if found.excess < MIXED / 2 else "moderate", text
    return "yes", "high" if found.excess >= 2 * MIXED else "moderate", "Correction is needed."


def _unlinked(data: Judged, strata: NDArray[Any]) -> str:
    """A sentence on sets of batches without a type in common, between which nothing can be told."""
    names = np.unique(data.batch)
    linked = linked_batches(data.batch, strata)
    if data.labels is None and len(np.unique(linked)) > 1:  # they share a cluster, or kinds of cells in two clusters
        groups = _groups(data)
        together = (linked[:, None] == linked) | (groups[:, None] == groups)
        linked = connected_components(together, directed=False)[1]
    sets = [", ".join(names[linked == code]) for code in np.unique(linked)]
    if len(sets) == 1:
        return ""
    return (
        f" This holds within sets of batches only. Between the sets it cannot be told, because they have no "
        f"{data.kind(1)} in common: {' | '.join(sets)}."
    )


def _groups(data: Judged) -> NDArray[Any]:
    """Batches with kinds of cells in common: as a fit found, else as their own clusters lie to each other."""
    return data.groups if data.groups is not None else shifted_batches(data.reference, data.batch)


def _nothing_shared(data: Judged) -> Finding:
    names = np.unique(data.batch)
    if data.labels is not None:
        held = "; ".join(f"{name} has {few(sorted(set(data.labels[data.batch == name])))}" for name in names)
        text = "Whether correction is needed cannot be told from these data, because no type is in two batches."
        return Finding(NEEDED, "", "cannot be told", "high", text, f"Batch {held}.")
    where = f"In the {data.uncorrected}, every cluster is of one batch."
    if len(np.unique(_groups(data))) == 1:
        text = "Correction is needed: batches have kinds of cells in common, and yet no cluster holds two batches."
        found = "The fit found kinds of cells that batches share."
        if data.groups is None:
            found = "One shift lays the clusters of a batch on those of another."
        return Finding(NEEDED, "", "yes", "moderate", text, f"{where} {found}")
    text = (
        "Whether correction is needed cannot be told from these data, because no cluster is in two batches: this is a "
        "strong batch effect, or batches without a type in common."
    )
    if data.groups is not None:
        where += " The fit found batches that share no kind of cell."
    return Finding(NEEDED, "", "cannot be told", "moderate" if data.groups is not None else "low", text, where)
