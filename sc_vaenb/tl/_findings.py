"""Findings of a comparison, the data they are based on, and how lists and numbers are written in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from .. import _adata, _obs
from ._score import labels_seen

if TYPE_CHECKING:
    from anndata import AnnData

MAX_JUDGED = 20_000  # cells
UNCORRECTED = "PCA", "VAE"  # methods that do not correct for batches
SCALE = "0 = fully mixed, 1 = fully separated"

BEST, ADVICE, NEEDED, HARM, LEFT, SEEN, SEEDS = (
    "Which method is best?",
    "What to do?",
    "Is correction needed?",
    "Does the method lose types?",
    "Does the method leave batches separated?",
    "Did the method see the labels?",
    "Do other seeds give the same neighbours?",
)
Confidence = Literal["high", "moderate", "low"]


@dataclass(frozen=True)
class Finding:
    """One answer. `subject` is the method that it is about (for `BEST`: the method to use), or empty."""

    question: str
    subject: str
    answer: str
    confidence: Confidence
    sentence: str
    evidence: str = ""


@dataclass
class Judged:
    """The cells on which methods are compared, and the embeddings of each method, one per seed.

    `groups`: the overlap group of each batch (sorted by name), if a fit looked for kinds of cells in common. `seen`:
    for each method that was fitted with the labels, their column and the cells whose labels were held back.
    """

    labels: NDArray[np.str_] | None
    batch: NDArray[np.str_]
    embeddings: dict[str, list[NDArray[np.float32]]]
    uncorrected: str | None
    groups: NDArray[np.int64] | None = None
    seen: dict[str, tuple[str, NDArray[np.bool_]]] = field(default_factory=dict)
    purities: dict[str, NDArray[np.float64]] = field(default_factory=dict)  # of each method, computed once

    @property
    def reference(self) -> NDArray[np.float32]:
        """The embedding before any correction."""
        assert self.uncorrected is not None  # only used if there is one
        return self.embeddings[self.uncorrected][0]

    def kind(self, n: int = 2) -> str:
        """The word for kinds of cells: types, or clusters if there are no labels."""
        return ("type" if self.labels is not None else "cluster") + ("" if n == 1 else "s")


def read_judged(
    adata: AnnData, methods: pd.DataFrame, batch_key: str | Sequence[str], label_key: str | None, seed: int = 0
) -> Judged:
    """Read labels, batches and embeddings of at most 20,000 cells (with a label, if there are labels)."""
    names = None if label_key is None else _obs.read_labels(adata, "label_key", label_key)
    usable = np.ones(adata.n_obs, bool) if names is None else names != None  # noqa: E711 (elementwise)
    cells = np.sort(np.random.default_rng(seed).permutation(np.flatnonzero(usable))[:MAX_JUDGED])
    codes, batches = _obs.batch_labels(adata, batch_key)
    batch = batches[codes[cells]]
    labels = None if names is None else names[cells].astype(str)
    data = Judged(labels, batch, {}, None)
    for row in methods.itertuples():
        name, key = str(row.method), str(row.embedding)
        record = adata.uns.get(key.removeprefix("X_"), {})
        data.embeddings.setdefault(name, []).append(_adata.read_embedding(adata, key)[cells])
        if label_key is not None and (seen := labels_seen(adata, record, label_key, cells)) is not None:
            data.seen[name] = seen
        if data.groups is None and record.get("params", {}).get("overlap") == "auto":
            data.groups = _groups(record.get("overlap"), np.unique(batch))
    data.uncorrected = next((name for name in UNCORRECTED if name in data.embeddings), None)
    return data


def _groups(overlap: Mapping[str, Any] | None, names: NDArray[np.str_]) -> NDArray[np.int64] | None:
    """The overlap group of each batch, from the record of a fit."""
    if overlap is None or not {"batches", "group"} <= set(overlap):
        return None
    group = dict(zip(np.asarray(overlap["batches"]).astype(str), np.asarray(overlap["group"]), strict=True))
    return np.array([group[name] for name in names]) if set(names) <= set(group) else None


def few(names: Sequence[str], most: int = 4) -> str:
    """The first names of a list, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def listed(names: Sequence[str]) -> str:
    """The names in words: 'a, b and c'."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def number(value: float) -> str:
    """The value with two decimals."""
    return f"{value:.2f}" if np.isfinite(value) else "not defined"


def p_value(value: float) -> str:
    """The p value with its sign: '= 0.04' or '< 0.01'."""
    return "< 0.01" if value < 0.0095 else f"= {value:.2f}"
