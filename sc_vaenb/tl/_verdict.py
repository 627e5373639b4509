"""What a comparison says, in words, from its numbers alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from .. import _adata
from .._names import texts
from ..metrics import knn

if TYPE_CHECKING:
    from anndata import AnnData

MIXED = 0.05  # excess of the own batch among neighbours, within types: less is as good as mixed
LOST = 0.15  # fall of a type's purity below that before correction: more is a type that was given up
KEPT = 0.85  # of the biology confounded with batch, or private to one: less was mixed away
FEW = 20  # cells of a type, below which its purity says little
MOST_CELLS = 20_000  # of which types are judged


def verdict_in_words(adata: AnnData, methods: pd.DataFrame, scores: dict[str, Any], label_key: str | None) -> str:
    """Which method is best and by how much, what is under- or over-corrected, and whether correction was needed."""
    values = scores["values"].join(methods.set_index("embedding")[["method", "seed"]])
    criterion, text = "total", "total score, 0.6 bio + 0.4 batch"
    if "total" not in values:
        criterion, text = "consistency", "mean of batch mixing and of PCA's neighbourhoods kept (there are no labels)"
        mixed = 1 - values["same_batch_excess"].clip(lower=0)
        values[criterion] = (mixed + values["neighborhood_overlap"]) / 2 if "neighborhood_overlap" in values else mixed
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
            f"Before any correction (PCA), batches are apart by {excess:.2f} (0: mixed, 1: nothing in common): "
            + ("there is hardly anything to correct." if excess < MIXED else "correction is needed.")
        )
    blurred = _blurred(adata, methods, label_key) if label_key is not None and "PCA" in mean.index else {}
    judged = mean.drop("PCA", errors="ignore")
    batch_key = scores.get("params", {}).get("batch_key")
    if label_key is not None and batch_key is not None and _few_confounded(adata, batch_key, label_key):
        judged = judged.drop(columns=["confounded_kept", "private_kept"], errors="ignore")
    for method, row in judged.iterrows():
        lines += _complaints(str(method), row)
        if blurred.get(str(method)):
            lines.append(f"{method} blurs types that PCA keeps apart: {', '.join(blurred[str(method)])}.")
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
    return f"{said}, not more than twice the spread over seeds ({noise:.3f}): take either."


def _few_confounded(adata: AnnData, batch_key: str, label_key: str) -> bool:
    """Whether the types that some batch lacks are too few cells for a word on how they fared."""
    labels = _adata.read_labels(adata, "label_key", label_key)
    sizes = pd.crosstab(labels, texts(adata.obs[batch_key]))
    return int(sizes[(sizes == 0).any(axis=1)].to_numpy().sum()) < FEW


def _complaints(method: str, row: pd.Series) -> list[str]:
    lines = []
    if row["same_batch_excess"] > MIXED:
        slightly = " slightly" if row["same_batch_excess"] < 2 * MIXED else ""
        lines.append(f"{method} under-corrects{slightly}: batches are still apart by {row['same_batch_excess']:.2f}.")
    for name, what in (
        ("confounded_kept", "biology that is confounded with batch"),
        ("private_kept", "types of a single batch"),
    ):
        if row.get(name, np.nan) < KEPT:
            lines.append(f"{method} over-corrects: of {what} it keeps {row[name]:.0%}.")
    return lines


def _blurred(adata: AnnData, methods: pd.DataFrame, label_key: str) -> dict[str, list[str]]:
    """For each method the types whose cells have clearly fewer neighbours of their own type than in PCA."""
    names = _adata.read_labels(adata, "label_key", label_key)
    known = np.flatnonzero(names != None)  # noqa: E711 (of each cell)
    cells = np.sort(np.random.default_rng(0).permutation(known)[:MOST_CELLS])
    labels = names[cells].astype(str)
    often = [str(name) for name, n in pd.Series(labels).value_counts().items() if n >= FEW]
    own = {
        str(row["method"]): _own_share(_adata.read_embedding(adata, row["embedding"])[cells], labels)
        for _, row in methods.drop_duplicates("method").iterrows()
    }
    return {
        method: sorted(name for name in often if own["PCA"][name] - share[name] > LOST) for method, share in own.items()
    }


def _own_share(embedding: NDArray[np.float32], labels: NDArray[np.str_]) -> pd.Series:
    neighbours = knn(embedding, min(16, len(labels))).indices[:, 1:]
    return pd.Series((labels[neighbours] == labels[:, None]).mean(1)).groupby(labels).mean()
