"""Which methods do harm? Types (or clusters) that the uncorrected embedding tells apart and the method does not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..metrics import cross_batch_hits, knn
from ..metrics.loss import Loss, losses, purity_per_cell
from ..metrics.separation import clusters
from ._findings import HARM, LEFT, SCALE, SEEN, UNCORRECTED, Confidence, Finding, Judged, few, number
from ._needed import MIXED

MAJOR_FALL = 0.1  # of the purity of all cells, by what the lost types lost: such a method is not best
SEVERE, MANY = 0.3, 0.34  # nor is one that loses so many of the types by such a fall
N_NEIGHBORS = 16  # cells of a neighbourhood, the cell itself included
COARSE = 0.5  # resolution of the clusters of single batches
SURE = 0.1  # fall of a purity that the bootstrap excludes
FEW_CELLS = 30  # of a label, on which a bootstrap is not sure


@dataclass(frozen=True)
class Harm:
    """Labels that a method lost, those that the VAE lost too, and clusters lost where batches are random halves."""

    lost: list[Loss] = field(default_factory=list)
    before: str = ""  # the method with which it is compared
    lost_by_vae: frozenset[str] = frozenset()
    major: bool = False
    in_null: list[Loss] = field(default_factory=list)

    @property
    def none(self) -> bool:
        """Whether nothing is lost."""
        return not self.lost and not self.in_null

    @property
    def excludes(self) -> bool:
        """Whether it is too much for the method to be the best."""
        return self.major or bool(self.in_null)

    @property
    def labels(self) -> list[str]:
        """The labels that are lost."""
        return [loss.label for loss in self.lost]


def find_harm(data: Judged, name: str, in_null: Sequence[Loss] = ()) -> Harm:
    """Compare the purity of each label with that in the uncorrected embedding, by a bootstrap over the label's cells.

    Without labels, with clusters that each batch shows by itself in PCA. These are purest in PCA by construction, so
    that there a count model is compared with the VAE, which corrects nothing, and Harmony with PCA.
    """
    before = data.uncorrected
    if data.labels is None and name != "Harmony":
        before = "VAE" if "VAE" in data.embeddings else None
    if before is None or name in {before, data.uncorrected}:
        return Harm()
    found = _losses(data, before, name)
    lost = [loss for loss in found if loss.lost]
    by_vae: frozenset[str] = frozenset()
    if lost and data.labels is not None and name not in UNCORRECTED and "VAE" in data.embeddings:
        by_vae = frozenset(loss.label for loss in _losses(data, before, "VAE") if loss.lost)
    severe = [loss for loss in lost if loss.before - loss.after >= SEVERE]
    major = bool(lost) and (_is_major(found) or len(severe) >= MANY * len(found))
    # of short fits to few cells a cluster can look lost by chance, so that only what is lost altogether counts
    return Harm(lost, before, by_vae, major, [loss for loss in in_null if loss.lost] if _is_major(in_null) else [])


def _is_major(found: Sequence[Loss]) -> bool:
    """Whether a tenth of the purity of all cells is lost, in labels that are lost."""
    fall = sum(loss.n_cells * (loss.before - loss.after) for loss in found if loss.lost)
    return fall > 0 and fall >= MAJOR_FALL * sum(loss.n_cells for loss in found)


def keeps_better(data: Judged, better: str, name: str, harm: Harm) -> bool:
    """Whether one method keeps any of the labels that another has lost, by the rule by which they are lost.

    Two methods on either side of a limit need not differ.
    """
    return any(loss.lost and loss.label in harm.labels for loss in _losses(data, better, name))


def _losses(data: Judged, before: str, after: str) -> list[Loss]:
    names: NDArray[Any] = _clusters_of_batches(data) if data.labels is None else data.labels
    return losses(_purity(data, before, names), _purity(data, after, names), names)


def _purity(data: Judged, name: str, names: NDArray[Any]) -> NDArray[np.float64]:
    """Each cell's purity, as a mean over seeds: among all cells by labels, within its batch by clusters of batches."""
    if name not in data.purities:
        parts = [np.arange(len(names))]
        if data.labels is None:
            parts = [np.flatnonzero(data.batch == batch) for batch in np.unique(data.batch)]
        purity = np.full((len(data.embeddings[name]), len(names)), np.nan)
        for row, embedding in zip(purity, data.embeddings[name], strict=True):
            for cells in parts:
                if len(cells) > 1:
                    row[cells] = purity_per_cell(knn(embedding[cells], N_NEIGHBORS), names[cells])
        data.purities[name] = purity.mean(axis=0)
    return data.purities[name]


def _clusters_of_batches(data: Judged) -> NDArray[np.str_]:
    names = np.empty(len(data.batch), dtype=object)
    for batch in np.unique(data.batch):
        cells = np.flatnonzero(data.batch == batch)
        found = (
            clusters(data.reference[cells], resolution=COARSE)
            if len(cells) > 2 * N_NEIGHBORS
            else np.zeros(len(cells), int)
        )
        names[cells] = [f"cluster {code} of {batch}" for code in found]
    return names.astype(str)


def harm_in_words(data: Judged, name: str, harm: Harm, left: float | None) -> list[Finding]:
    """What a method loses and what it leaves, and how the two go together."""
    found = []
    if left is not None:
        text = f"{name} leaves batches{' slightly' if left < 2 * MIXED else ''} separated."
        if harm.lost:
            text += (
                f" It also mixes {few(harm.labels)} with other cells. Both are true, of different cells, so more "
                "correction would lose more, and less would leave more of the batch effect."
            )
        evidence = f"Batch separation within types is still {number(left)} ({SCALE})."
        found.append(Finding(LEFT, name, "yes", "high" if left > 2 * MIXED else "moderate", text, evidence))
    if harm.before == "":
        return found
    if harm.none:
        return [*found, Finding(HARM, name, "no", "moderate", f"{name} loses no {data.kind(1)}.")]
    texts: list[str] = []
    numbers: list[str] = []
    if harm.lost:
        does = "loses much of what is there" if harm.major else "blurs"
        texts.append(f"{name} {does}{': ' if harm.major else ' '}{few(harm.labels)}, which {harm.before} keeps apart.")
        if harm.lost_by_vae >= set(harm.labels):
            texts.append("So does the VAE: the model blurs, not the correction.")
        parts = [f"{loss.label} {loss.before:.2f} to {loss.after:.2f} ({loss.n_cells} cells)" for loss in harm.lost[:4]]
        more = f", and {len(harm.lost) - 4} more" if len(harm.lost) > 4 else ""
        numbers.append(f"Share of neighbours of the own {data.kind(1)}: {', '.join(parts)}{more}.")
    if harm.in_null:
        texts.append(f"{name} destroys structure even where there is nothing to correct.")
        worst = min(harm.in_null, key=lambda loss: loss.after - loss.before)
        numbers.append(
            f"With one batch split at random into two, the purity of a cluster of {worst.n_cells} cells falls from "
            f"{worst.before:.2f} to {worst.after:.2f}."
        )
    sure = any(loss.low > SURE and loss.n_cells >= FEW_CELLS for loss in (*harm.lost, *harm.in_null))
    confidence: Confidence = "high" if sure else "moderate"
    answer = "yes" if harm.excludes else "few"
    return [*found, Finding(HARM, name, answer, confidence, " ".join(texts), " ".join(numbers))]


def seen_in_words(data: Judged, name: str, best: str) -> Finding:
    """Why a fit that was told the labels is left out, and what it is worth on cells that it was not told of."""
    key, untold = data.seen[name]
    text = f"{name} was fitted with the labels that it is scored with (obs[{key!r}]), so it is left out of the best."
    evidence = "Its scores show that it learned its labels, right or wrong."
    assert data.labels is not None  # else no labels were scored
    right = {}
    for method in dict.fromkeys((name, best)):
        hits = cross_batch_hits(data.embeddings[method][0], data.labels, data.batch)[untold]
        if np.isfinite(hits).sum() >= N_NEIGHBORS:
            right[method] = f"{np.nanmean(hits):.2f} in {method}"
    if right:
        evidence = (
            f"Of the {untold.sum():,} cells whose labels were held back, the share to which other batches give "
            f"the right label is {' and '.join(right.values())}."
        )
    return Finding(SEEN, name, "yes", "high", text, evidence)
