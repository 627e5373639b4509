"""The verdict of a comparison: a table of findings, and the same in words. Every sentence comes with its numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import pandas as pd

from ..metrics.loss import Loss
from ._best import best_and_advice, rank
from ._findings import HARM, SEEDS, UNCORRECTED, read_judged
from ._findings import listed as as_list
from ._harm import find_harm, harm_in_words, seen_in_words
from ._needed import MIXED, correction_needed
from ._seeds import seeds_in_words

if TYPE_CHECKING:
    from anndata import AnnData


def judge(
    adata: AnnData,
    methods: pd.DataFrame,
    scores: Mapping[str, Any],
    batch_key: str | Sequence[str],
    label_key: str | None,
    lost_in_null: Mapping[str, Sequence[Loss]] | None = None,
    seed: int = 0,
    overlap: pd.DataFrame | None = None,
) -> tuple[pd.DataFrame, str]:
    """Answer each question from embeddings and scores.

    `lost_in_null`: the losses of each method in a null split. `overlap`: common neighbours of fits with other seeds.
    """
    data = read_judged(adata, methods, batch_key, label_key, seed)
    values = scores["values"]
    method_of = methods.set_index("embedding")["method"].astype(str).reindex(values.index)
    needed = correction_needed(data)
    harms = {name: find_harm(data, name, (lost_in_null or {}).get(name, ())) for name in data.embeddings}
    findings = best_and_advice(data, rank(data, values, method_of, seed), needed, harms)
    best = findings[0].subject
    findings.append(needed)
    excess = values["same_batch_excess"].groupby(method_of).mean()
    for name, harm in harms.items():
        # without labels, composition and batch effect cannot be separated
        is_judged = name not in UNCORRECTED and data.labels is not None and needed.answer == "yes"
        remaining = float(excess[name]) if is_judged and excess[name] > MIXED else None
        findings += harm_in_words(data, name, harm, remaining)
    findings += [seen_in_words(data, name, best) for name in data.seen]
    findings += [] if overlap is None else seeds_in_words(overlap)
    table = pd.DataFrame([asdict(finding) for finding in findings])
    return table, in_words(table)


def in_words(findings: pd.DataFrame) -> str:
    """A line for each finding; one line for all methods that lose nothing; no line for seeds that agree."""
    no_loss = (findings["question"] == HARM) & (findings["answer"] == "no")
    seeds_agree = (findings["question"] == SEEDS) & (findings["answer"] == "yes")
    lines = [f"{row.sentence} {row.evidence}".strip() for row in findings[~no_loss & ~seeds_agree].itertuples()]
    if no_loss.any():
        kind = "cluster" if "cluster" in str(findings.loc[no_loss, "sentence"].iloc[0]) else "type"
        sentence = f"No {kind} is lost by {as_list(findings.loc[no_loss, 'subject'].tolist())}."
        lines.append(f"{sentence} {findings.loc[no_loss, 'evidence'].iloc[0]}".strip())  # they have the same evidence
    return "\n".join(lines)
