"""Transfer of labels from a reference to a query, with confidence and novelty: columns, tables, verdict."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from ..data.counts import cells_by_code
from ..inference.confidence import MIN_CELLS, Confidence, calibrate
from ..inference.groups import MIN_TYPES
from ..inference.novelty import MIN_CALIBRATION, Novelty, discoveries
from ..inference.transfer import Reference, nearest, vote
from ._findings import few

FALSE_DISCOVERY_RATE = 0.1
MIN_NOVEL_CELLS, MIN_NOVEL_SHARE = 10, 0.2  # of the cells of a batch with a label, for a new type under this label
MIN_AUROC, MIN_SHARE = 0.8, 0.5  # AUROC, and share of cells (or batches), from which a left-out type would be noticed
MAX_NAMED = 5  # names in a sentence


class Transferred(NamedTuple):
    """Columns for `obs`, and tables for `uns` with the verdict."""

    columns: dict[str, Any]
    tables: dict[str, Any]


def transfer_labels(
    reference: Reference,
    label_key: str,
    reference_batches: list[str],
    embedding: NDArray[np.float32],
    counts: csr_matrix | None,
    batch: NDArray[np.int64],
    batches: list[str],
    k: int,
    seed: int,
) -> Transferred:
    """Transfer the labels of a reference to the cells of a query.

    `embedding`, `counts`, `batch` and `batches` are of the query; `k` is the number of neighbours.
    """
    names, n_labels = reference.names, reference.n_labels
    distance, neighbors = nearest(embedding, reference.embedding, k)
    predicted, uncertainty = vote(distance, reference.label[neighbors])
    share, confidence = 1 - uncertainty, calibrate(reference, k)
    novelty = Novelty(reference, k, seed)
    p, novel = np.full(len(embedding), np.nan), np.zeros(len(embedding), bool)
    rows, confounded = [], []
    for cells in cells_by_code(batch):
        result = novelty(embedding[cells], None if counts is None else counts[cells], predicted[cells])
        p[cells] = result.p
        novel[cells] = discoveries(p[cells], FALSE_DISCOVERY_RATE)
        name = batches[batch[cells[0]]]
        if not result.enough_types:
            confounded.append(name)
        for label in np.unique(predicted[cells]):
            labelled = cells[predicted[cells] == label]
            n_novel = int(novel[labelled].sum())
            difference = float(result.difference[label])
            new = n_novel >= max(MIN_NOVEL_CELLS, MIN_NOVEL_SHARE * len(labelled)) or bool(result.differs[label])
            row = {"batch": name, "label": names[label], "n_cells": len(labelled), "n_novel": n_novel}
            rows.append({**row, "difference": difference, "new": new and result.enough_types})
    query = pd.DataFrame(rows)
    left_out = novelty.left_out()
    labels = pd.DataFrame(
        {
            "n_cells": np.bincount(reference.label, minlength=n_labels),
            "n_batches": reference.n_batches(),
            "n_calibration": novelty.n_calibration,
            "n_left_out": left_out.n_cells,
            "called": [names[code] if code >= 0 else "" for code in left_out.called],
            "auroc": left_out.auroc,
            "found": left_out.found,
            "noticed": left_out.noticed,
        },
        index=names,
    )
    tables: dict[str, Any] = {"labels": labels, "query": query}
    if confidence is not None:
        tables["calibration"] = pd.DataFrame(
            {"n_cells": confidence.n_cells, "stated": confidence.stated, "right": confidence.right},
            index=[
                reference_batches[code] if reference.across_batches else f"half {code}" for code in confidence.batch
            ],
        )
        if reference.across_batches and len(confidence.batch) > 1:
            tables["expected"] = np.array(confidence.expected(confidence(share)))
    stated = np.full(len(share), np.nan, np.float32) if confidence is None else confidence(share)
    columns = {
        f"{label_key}_predicted": predicted,
        f"{label_key}_uncertainty": uncertainty,
        f"{label_key}_confidence": stated,
        "novelty_p": p,
        "novel": novel,
    }
    tables["verdict"] = "\n".join(
        [
            _confidence_in_words(confidence, stated, reference.across_batches),
            *_new_types_in_words(query, labels, confounded, reference),
            *_unnoticed_in_words(labels),
        ]
    )
    return Transferred(columns, tables)


def _confidence_in_words(confidence: Confidence | None, stated: NDArray[np.float32], across_batches: bool) -> str:
    """How likely the labels are to be right, and how well this is known."""
    if confidence is None:
        return (
            f"The confidence of labels cannot be stated (NaN): fewer than {MIN_CELLS} cells of the reference have a "
            "label that two batches have."
        )
    gap = 100 * np.abs(confidence.stated - confidence.right)
    sentence = f"Mean confidence of the labels is {stated.mean():.0%}, for cells of types that the reference has. "
    if not across_batches:
        return sentence + (
            "It was calibrated on random halves of the reference, which has labels in one batch only: expect fewer "
            "right labels in other batches."
        )
    if len(gap) > 1:
        low, high = confidence.expected(stated)
        sentence += f"In a single batch, expect {low:.0%} to {high:.0%} of the labels to be right. "
        if len(gap) == 2:
            sentence += "Two reference batches are too few for a narrower range. "
        sentence += (
            f"With each of {len(gap)} reference batches left out, the stated confidence differed from the share of "
            f"right labels by {gap.mean():.1f} percentage points on average, {gap.max():.1f} at most."
        )
    return sentence.strip()


def _new_types_in_words(
    query: pd.DataFrame, labels: pd.DataFrame, confounded: list[str], reference: Reference
) -> list[str]:
    """Sentences on batches with new types, on batches without, and on cells whose novelty is not known."""
    sentences = []
    for name, rows in query[query["new"]].groupby("batch", sort=False):
        rows = rows.sort_values("n_novel", ascending=False)[:MAX_NAMED]
        evidence = "; ".join(f"{row.label} ({row.n_cells} cells), where {_evidence(row)}" for row in rows.itertuples())
        sentences.append(
            f"Batch {name!r} seems to have cells of a type that the reference lacks. Check marker genes before you "
            f"trust these labels: {evidence}."
        )
    if confounded:
        sentences.append(
            f"Whether types are new cannot be told in {few(confounded)}: fewer than {MIN_TYPES} types were found "
            "there, so a new type cannot be distinguished from a batch effect."
        )
    without_new = [
        name for name in query["batch"].unique() if name not in {*query.loc[query["new"], "batch"], *confounded}
    ]
    if without_new:
        sentences.append(f"No type that the reference lacks was noticed in {few(without_new)}.")
    predicted = set(query["label"])
    uncalibrated = [name for name in labels.index[labels["n_calibration"] < MIN_CALIBRATION] if name in predicted]
    if uncalibrated:
        sentences.append(
            f"The novelty of cells called {few(uncalibrated)} is not known (NaN): the reference has fewer than "
            f"{MIN_CALIBRATION} cells to compare with."
        )
    in_one_batch = [
        name for name in labels.index[labels["n_batches"] < 2] if name in predicted and name not in uncalibrated
    ]
    if in_one_batch and reference.across_batches:
        sentences.append(
            f"Only one reference batch has {few(in_one_batch)}: neither confidence nor novelty is calibrated across "
            "batches for them."
        )
    return sentences


def _evidence(row: Any) -> str:
    """How the cells with a label differ from the cells of this label in the reference."""
    parts = [
        f"{row.n_novel} cells differ from those of the reference (false discovery rate {FALSE_DISCOVERY_RATE:.0%})"
    ]
    if row.difference > 1:
        parts.append(
            f"the group's squared difference from the reference is {row.difference:.1f} times the largest of any batch "
            "of the reference"
        )
    return " and ".join(parts if row.n_novel else parts[1:])


def _unnoticed_in_words(labels: pd.DataFrame) -> list[str]:
    """A sentence on the labels whose cells would not be noticed as new if the reference lacked the label."""
    noticed_by_cell = (labels["auroc"] >= MIN_AUROC) & (labels["found"] >= MIN_SHARE)
    noticed_as_group = labels["noticed"] >= MIN_SHARE
    missed = labels[(labels["n_left_out"] > 0) & ~noticed_by_cell & ~noticed_as_group]
    if missed.empty:
        return []
    evidence = "; ".join(
        f"{name} would be called {row.called} ({row.found:.0%} of the cells found to be new, AUROC {row.auroc:.2f})"
        for name, row in missed.iterrows()
    )
    relatives = sorted({*missed.index, *missed["called"]})
    return [
        "A new type that is close to a known one may not be noticed. If the reference lacked them, "
        f"{evidence}. So be careful with cells that are called {few(relatives, 2 * MAX_NAMED)}."
    ]
