"""Which methods do harm? Find types (or clusters) that PCA or the VAE separates and the method does not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..metrics import cross_batch_hits, knn
from ..metrics.loss import MIN_CELLS, Loss, losses, purity_per_cell
from ..metrics.separation import clusters
from ._findings import HARM, LEFT, SCALE, SEEN, UNCORRECTED, Confidence, Finding, Judged, few, number
from ._needed import MIXED

MAJOR_LOSS = 0.1  # share of the purity of all cells: a method whose lost types lose that much cannot be the best
SEVERE_LOSS, MAX_SHARE_SEVERE = 0.3, 0.34  # loss of purity of one type; share of the types with such a loss
N_NEIGHBORS = 16  # including the cell itself
CLUSTER_RESOLUTION = 0.5  # of the clusters of each batch
MIN_CERTAIN_LOSS = 0.1  # lower bound of the loss of purity from which a finding has high confidence
MIN_CELLS_CERTAIN = 30  # cells of a label from which a finding has high confidence


@dataclass(frozen=True)
class Harm:
    """Labels that a method lost, labels that the VAE lost too, and clusters lost if batches are random halves."""

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
        """Whether the harm is so large that the method cannot be the best."""
        return self.major or bool(self.in_null)

    @property
    def labels(self) -> list[str]:
        """The labels that are lost."""
        return [loss.label for loss in self.lost]


def find_harm(data: Judged, name: str, in_null: Sequence[Loss] = ()) -> Harm:
    """Compare the purity of each label with that in the uncorrected embedding, by a bootstrap over the label's cells.

    Without labels, clusters of each single batch in PCA are used. They are purest in PCA by construction. So count
    models are then compared with the VAE, which corrects nothing, and Harmony with PCA.
    """
    before = data.uncorrected
    if data.labels is None and name != "Harmony":
        before = "VAE" if "VAE" in data.embeddings else None
    if before is None or name in {before, data.uncorrected}:
        return Harm()
    all_losses = _losses(data, before, name)
    lost = [loss for loss in all_losses if loss.lost]
    lost_by_vae: frozenset[str] = frozenset()
    if lost and data.labels is not None and name not in UNCORRECTED and "VAE" in data.embeddings:
        lost_by_vae = frozenset(loss.label for loss in _losses(data, before, "VAE") if loss.lost)
    severe = [loss for loss in lost if loss.before - loss.after >= SEVERE_LOSS]
    major = bool(lost) and (_is_major(all_losses) or len(severe) >= MAX_SHARE_SEVERE * len(all_losses))
    # Short fits to few cells can lose a cluster by chance, so a loss in the null split counts only if it is major.
    lost_in_null = [loss for loss in in_null if loss.lost] if _is_major(in_null) else []
    return Harm(lost, before, lost_by_vae, major, lost_in_null)


def _is_major(all_losses: Sequence[Loss]) -> bool:
    """Whether the lost labels lose a tenth of the purity of all cells."""
    total_loss = sum(loss.n_cells * (loss.before - loss.after) for loss in all_losses if loss.lost)
    return total_loss > 0 and total_loss >= MAJOR_LOSS * sum(loss.n_cells for loss in all_losses)


def keeps_better(data: Judged, better: str, name: str, harm: Harm) -> bool:
    """Whether method `better` keeps any label that method `name` lost, compared directly by the same rule.

    Two methods on different sides of a threshold may hardly differ.
    """
    return any(loss.lost and loss.label in harm.labels for loss in _losses(data, better, name))


def _losses(data: Judged, before: str, after: str) -> list[Loss]:
    names: NDArray[Any] = _clusters_of_batches(data) if data.labels is None else data.labels
    return losses(_purity(data, before, names), _purity(data, after, names), names)


def _purity(data: Judged, name: str, names: NDArray[Any]) -> NDArray[np.float64]:
    """Purity of each cell, mean over seeds: of labels among all cells, or of clusters of batches within its batch."""
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
        codes = (
            clusters(data.reference[cells], resolution=CLUSTER_RESOLUTION)
            if len(cells) > 2 * N_NEIGHBORS
            else np.zeros(len(cells), int)
        )
        names[cells] = [f"cluster {code} of {batch}" for code in codes]
    return names.astype(str)


def harm_in_words(data: Judged, name: str, harm: Harm, left: float | None) -> list[Finding]:
    """Findings: whether a method leaves batches separated, and which types it loses."""
    findings = []
    if left is not None:
        text = f"{name} leaves batches{' slightly' if left < 2 * MIXED else ''} separated."
        if harm.lost:
            text += (
                f" It also mixes {few(harm.labels)} with other cells. These are not the cells that stay "
                "separated: more correction would lose more, and less would leave more of the batch effect."
            )
        evidence = f"Batch separation within types is still {number(left)} ({SCALE})."
        findings.append(Finding(LEFT, name, "yes", "high" if left > 2 * MIXED else "moderate", text, evidence))
    if harm.before == "":
        return findings
    if harm.none:
        text = f"{name} loses no {data.kind(1)}."
        return [*findings, Finding(HARM, name, "no", "moderate", text, _too_small_in_words(data))]
    texts: list[str] = []
    numbers: list[str] = []
    if harm.lost:
        verb = "loses much of the structure" if harm.major else "blurs"
        texts.append(f"{name} {verb}{': ' if harm.major else ' '}{few(harm.labels)}, which {harm.before} keeps apart.")
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
    certain = any(
        loss.low > MIN_CERTAIN_LOSS and loss.n_cells >= MIN_CELLS_CERTAIN for loss in (*harm.lost, *harm.in_null)
    )
    confidence: Confidence = "high" if certain else "moderate"
    answer = "yes" if harm.excludes else "few"
    return [*findings, Finding(HARM, name, answer, confidence, " ".join(texts), " ".join(numbers))]


def _too_small_in_words(data: Judged) -> str:
    """The types of too few cells to see a loss."""
    if data.labels is None:
        return ""
    names, sizes = np.unique(data.labels, return_counts=True)
    if not (sizes < MIN_CELLS).any():
        return ""
    small = names[sizes < MIN_CELLS].tolist()
    return f"Too small to be judged (fewer than {MIN_CELLS} of {len(data.labels):,} cells): {few(small)}."


def seen_in_words(data: Judged, name: str, best: str) -> Finding:
    """Why a fit that used the labels cannot be the best, and how good it is on cells whose labels were held back."""
    key, held_back = data.seen[name]
    text = f"{name} was fitted with the labels that it is scored with (obs[{key!r}]), so it is left out of the best."
    evidence = "Its scores show that it learned its labels, right or wrong."
    assert data.labels is not None  # else no labels were scored
    shares = {}
    for method in dict.fromkeys((name, best)):
        hits = cross_batch_hits(data.embeddings[method][0], data.labels, data.batch)[held_back]
        if np.isfinite(hits).sum() >= N_NEIGHBORS:
            shares[method] = f"{np.nanmean(hits):.2f} in {method}"
    if shares:
        evidence = (
            f"Of the {held_back.sum():,} cells whose labels were held back, the share to which other batches give "
            f"the right label is {' and '.join(shares.values())}."
        )
    return Finding(SEEN, name, "yes", "high", text, evidence)
