"""The labels of a reference for the cells of a query, how sure they are, and what is new: columns, tables, words."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from ..data.counts import cells_by_code
from ..inference.confidence import MIN_CELLS, Confidence, calibrate
from ..inference.novelty import MIN_CALIBRATION, MIN_TYPES, Novelty, discoveries
from ..inference.transfer import Reference, nearest, vote
from ._findings import few

FALSE_DISCOVERY_RATE = 0.1
MIN_NOVEL_CELLS, MIN_NOVEL_SHARE = 10, 0.2  # of the cells of a batch with one label, to speak of a new type
NOTICED, FOUND = 0.8, 0.5  # AUROC, and share of the cells, from which a type that is left out would be noticed
MAX_NAMED = 5  # in a sentence


class Transferred(NamedTuple):
    columns: dict[str, Any]
    tables: dict[str, Any]


def transfer_labels(
    reference: Reference,
    label_key: str,
    reference_batches: list[str],
    state: NDArray[np.float32],
    counts: csr_matrix | None,
    batch: NDArray[np.int64],
    batches: list[str],
    k: int,
    seed: int,
) -> Transferred:
    """Columns of `obs` and tables for `uns`, with their verdict."""
    names, n_labels = reference.names, reference.n_labels
    distance, at = nearest(state, reference.embedding, k)
    predicted, uncertainty = vote(distance, reference.label[at])
    share, confidence = 1 - uncertainty, calibrate(reference, k)
    novelty = Novelty(reference, k, seed)
    p, novel = np.full(len(state), np.nan), np.zeros(len(state), bool)
    rows, confounded = [], []
    for cells in cells_by_code(batch):
        judged = novelty(state[cells], None if counts is None else counts[cells], predicted[cells])
        p[cells] = judged.p
        novel[cells] = discoveries(p[cells], FALSE_DISCOVERY_RATE)
        name = batches[batch[cells[0]]]
        if not judged.told_apart:
            confounded.append(name)
        for label in np.unique(predicted[cells]):
            mine = cells[predicted[cells] == label]
            n_novel = int(novel[mine].sum())
            difference = float(judged.difference[label])
            new = n_novel >= max(MIN_NOVEL_CELLS, MIN_NOVEL_SHARE * len(mine)) or bool(judged.differs[label])
            row = {"batch": name, "label": names[label], "n_cells": len(mine), "n_novel": n_novel}
            rows.append({**row, "difference": difference, "new": new and judged.told_apart})
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
            _of_confidence(confidence, stated, reference.across_batches),
            *_of_new(query, labels, confounded, reference),
            *_of_relatives(labels),
        ]
    )
    return Transferred(columns, tables)


def _of_confidence(confidence: Confidence | None, stated: NDArray[np.float32], across: bool) -> str:
    if confidence is None:
        return (
            f"The confidence of labels cannot be stated (NaN): fewer than {MIN_CELLS} cells of the reference have a "
            "label that two batches have."
        )
    gap = 100 * np.abs(confidence.stated - confidence.right)
    sentence = f"Mean confidence of the labels is {stated.mean():.0%}, for cells of types that the reference has. "
    if not across:
        return sentence + (
            "It was calibrated on random halves of the reference, which has labels in one batch only: expect fewer "
            "right labels in other batches."
        )
    if len(gap) > 1:
        low, high = confidence.expected(stated)
        sentence += f"In one batch, {low:.0%} to {high:.0%} of them may be right. "
        if len(gap) == 2:
            sentence += "Two reference batches are too few to tell it better. "
        sentence += (
            f"With each of {len(gap)} reference batches left out, what was stated for it differed from the share of "
            f"labels that were right by {gap.mean():.1f} percentage points on average, {gap.max():.1f} at most."
        )
    return sentence.strip()


def _of_new(query: pd.DataFrame, labels: pd.DataFrame, confounded: list[str], reference: Reference) -> list[str]:
    said = []
    for name, rows in query[query["new"]].groupby("batch", sort=False):
        rows = rows.sort_values("n_novel", ascending=False)[:MAX_NAMED]
        what = "; ".join(f"{row.n_cells} cells are called {row.label}, {_evidence(row)}" for row in rows.itertuples())
        said.append(
            f"Batch {name!r} seems to have cells of a type that the reference lacks, under these labels: {what}. Do "
            "not trust these labels before you have looked at marker genes."
        )
    if confounded:
        said.append(
            f"Whether types are new cannot be told in {few(confounded)}: fewer than {MIN_TYPES} types were found "
            "there, so what is new cannot be told from a batch effect."
        )
    rest = [name for name in query["batch"].unique() if name not in {*query.loc[query["new"], "batch"], *confounded}]
    if rest:
        said.append(f"No type was noticed that the reference lacks in {few(rest)}.")
    used = set(query["label"])
    uncalibrated = [name for name in labels.index[labels["n_calibration"] < MIN_CALIBRATION] if name in used]
    if uncalibrated:
        said.append(
            f"Novelty of cells called {few(uncalibrated)} cannot be told (NaN): fewer than {MIN_CALIBRATION} cells of "
            "the reference to compare with."
        )
    one = [name for name in labels.index[labels["n_batches"] < 2] if name in used and name not in uncalibrated]
    if one and reference.across_batches:
        said.append(
            f"Only one reference batch has {few(one)}: neither confidence nor novelty is calibrated across batches "
            "for them."
        )
    return said


def _evidence(row: Any) -> str:
    """What is unlike the reference about cells with one label."""
    parts = [f"{row.n_novel} of them unlike its cells (false discovery rate {FALSE_DISCOVERY_RATE:.0%})"]
    if row.difference > 1:
        parts.append(
            f"together with a squared difference from it {row.difference:.1f} times that of any reference batch"
        )
    return " and ".join(parts if row.n_novel else parts[1:])


def _of_relatives(labels: pd.DataFrame) -> list[str]:
    """What would not be noticed, were it new."""
    single = (labels["auroc"] >= NOTICED) & (labels["found"] >= FOUND)
    missed = labels[(labels["n_left_out"] > 0) & ~single & ~(labels["noticed"] >= FOUND)]
    if missed.empty:
        return []
    what = "; ".join(
        f"{name} would be called {row.called} (AUROC {row.auroc:.2f}, {row.found:.0%} of the cells found)"
        for name, row in missed.iterrows()
    )
    both = sorted({*missed.index, *missed["called"]})
    return [
        f"Close relatives would not be noticed as new. Left out of the reference, {what}. So a new type that is close "
        f"to {few(both, 2 * MAX_NAMED)} can hide among them."
    ]
