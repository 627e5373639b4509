"""What a comparison says, in words, from its numbers alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ..metrics import knn

if TYPE_CHECKING:
    from anndata import AnnData

MIXED = 0.05  # share of neighbours from the own batch beyond chance, within types: less is as good as mixed
LOST = 0.15  # fall of a type's purity below that before correction: more is a type that was given up
KEPT = 0.85  # of the biology confounded with batch, or private to one: less was mixed away
FEW = 20  # cells of a type, below which its purity says little


def verdict_in_words(adata: AnnData, methods: pd.DataFrame, scores: dict[str, Any], label_key: str | None) -> str:
    """Which method is best and by how much, what is under- or over-corrected, and whether correction was needed."""
    values = scores["values"].join(methods.set_index("embedding")[["method", "seed"]])
    criterion, text = "total", "total score, 0.6 bio + 0.4 batch"
    if "total" not in values:
        criterion, text = "consistency", "mean of batch mixing and of PCA's neighbourhoods kept (there are no labels)"
        mixed = 1 - values["same_batch_excess"].clip(lower=0)
        values[criterion] = (mixed + values["neighborhood_overlap"]) / 2
    mean = values.groupby("method", sort=False).mean(numeric_only=True)
    spread = values.groupby("method", sort=False).std(numeric_only=True)
    order = mean[criterion].sort_values(ascending=False)
    best = str(order.index[0])
    lines = [f"Best by the {text}: {best} ({order.iloc[0]:.3f})."]
    if len(order) > 1:
        lines.append(_lead(order, spread[criterion]))
    if "PCA" in mean.index and len(order) > 1:
        excess = mean.loc["PCA", "same_batch_excess"]
        lines.append(
            f"Before any correction (PCA), neighbours are from the own batch {excess:.0%} more often than by chance: "
            + ("there is hardly anything to correct." if excess < MIXED else "correction is needed.")
        )
    first = methods.drop_duplicates("method").set_index("method")["embedding"]
    for method, row in mean.iterrows():
        if method != "PCA":
            lines += _complaints(adata, str(method), row, first, label_key)
    return "\n".join(lines)


def _lead(order: pd.Series, spread: pd.Series) -> str:
    first, second = order.index[:2]
    lead = order.iloc[0] - order.iloc[1]
    noise = np.nanmax([spread[first], spread[second], 0.0])
    said = f"Its lead over {second} ({order.iloc[1]:.3f}) is {lead:.3f}"
    if not np.isfinite(spread[[first, second]]).any():
        return f"{said}; with one seed nothing is known of chance, which is often 0.01: use n_seeds=3."
    if lead > 2 * noise:
        return f"{said}, more than twice the spread over seeds ({noise:.3f})."
    return f"{said}, within the spread over seeds ({noise:.3f}): take either."


def _complaints(adata: AnnData, method: str, row: pd.Series, first: pd.Series, label_key: str | None) -> list[str]:
    lines = []
    if row["same_batch_excess"] > MIXED:
        lines.append(f"{method} under-corrects: neighbours are from the own batch {row['same_batch_excess']:.0%} more.")
    for name, what in (
        ("confounded_kept", "biology that is confounded with batch"),
        ("private_kept", "types of a single batch"),
    ):
        if row.get(name, np.nan) < KEPT:
            lines.append(f"{method} over-corrects: of {what} it keeps {row[name]:.0%}.")
    if label_key is not None and "PCA" in first.index:
        lost = _lost(adata, first[method], first["PCA"], label_key)
        if lost:
            lines.append(f"{method} blurs types that PCA keeps apart: {', '.join(lost)}.")
    return lines


def _lost(adata: AnnData, after: str, before: str, label_key: str) -> list[str]:
    """Types whose cells have clearly fewer neighbours of their type than before."""
    known = adata.obs[label_key].notna().to_numpy()
    labels = adata.obs[label_key][known].astype(str)
    own = [_own_share(np.asarray(adata.obsm[key])[known], labels) for key in (after, before)]
    fall = own[1] - own[0]
    return [str(label) for label in fall.index[fall > LOST] if (labels == label).sum() >= FEW]


def _own_share(embedding: Any, labels: pd.Series) -> pd.Series:
    names = labels.to_numpy()
    neighbours = knn(embedding, min(16, len(names))).indices[:, 1:]
    return pd.Series((names[neighbours] == names[:, None]).mean(1)).groupby(names).mean()
