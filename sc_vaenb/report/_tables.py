"""The numbers of a comparison, in the order in which a reader meets them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from .._adata import read_categories
from .._names import means_no_label, texts
from ._meaning import FROM_BEFORE, GROUPS, MEANING

if TYPE_CHECKING:
    from anndata import AnnData

SUMMARY = "total", "bio", "batch", "total_scib", "bio_scib", "batch_scib"
MAX_BATCHES, MAX_LABELS = 12, 60  # columns and rows of a table that is still read
NO_LABEL = "(no label)"
CHOICE = {
    "seurat_v3": "most variable in the counts, as scanpy's flavor seurat_v3",
    "seurat": "most variable in log-normalised counts, as scanpy's flavor seurat",
    "all": "all that have counts",
}


@dataclass(frozen=True)
class Cell:
    """One score of one method."""

    mean: str
    spread: str = ""
    best: bool = False


@dataclass(frozen=True)
class Row:
    """One score of all methods."""

    name: str
    meaning: str
    lower_is_better: bool
    cells: list[Cell]


@dataclass(frozen=True)
class Scores:
    """Scores by group, methods in columns; the best first where there is a total."""

    methods: list[str]
    groups: dict[str, list[Row]]
    seconds: list[Cell]
    undefined: list[str]


@dataclass(frozen=True)
class Sizes:
    """Numbers of cells: by label (rows) and batch (columns), or by either alone."""

    caption: str
    columns: list[str]
    rows: list[tuple[str, list[int]]]


def score_table(record: Mapping[str, Any]) -> Scores:
    """Means over seeds, with the standard deviation where there are several, and the best of each row."""
    methods = record["methods"].set_index("embedding")
    values, metrics = record["scores"]["values"], record["scores"]["metrics"]
    method_of = methods["method"].astype(str).reindex(values.index)
    mean = values.groupby(method_of, sort=False).mean(numeric_only=True)
    spread = values.groupby(method_of, sort=False).std(numeric_only=True)
    if "total" in mean:
        mean = mean.sort_values("total", ascending=False)
    spread = spread.loc[mean.index]
    uncorrected = method_of.get(record["scores"]["params"].get("reference", ""))

    measured = [name for name in metrics.index if name in mean]
    groups: dict[str, list[Row]] = {title: [] for title in GROUPS.values()}
    for name in [name for name in SUMMARY if name in mean] + measured:
        if mean[name].isna().all():
            continue
        known = metrics.loc[name] if name in metrics.index else None
        higher = known is None or bool(known["higher_is_better"])
        group = "summary" if known is None else str(known["kind"]) if known["in_total"] else "other"
        judged = mean[name].drop(uncorrected) if name in FROM_BEFORE and uncorrected in mean.index else mean[name]
        if name == "same_batch_excess":
            judged = judged.clip(lower=0)  # batches are no better than mixed
        best = _best(judged, higher=higher)
        cells = [_cell(mean.loc[m, name], spread.loc[m, name], m in best) for m in mean.index]
        groups[GROUPS[group]].append(Row(name.replace("_", " "), MEANING.get(name, ""), not higher, cells))
    took = methods.groupby("method", sort=False)["seconds"].agg(["mean", "std"]).loc[mean.index]
    return Scores(
        methods=mean.index.tolist(),
        groups={title: rows for title, rows in groups.items() if rows},
        seconds=[_cell(m, s, digits=1 if m >= 10 else 2) for m, s in took.itertuples(index=False)],
        undefined=[str(name).replace("_", " ") for name in measured if mean[name].isna().all()],
    )


def _best(values: pd.Series, *, higher: bool) -> set[str]:
    """The methods that are best as far as three digits show; none where all are alike."""
    shown = values.dropna().round(3)
    if shown.nunique() < 2:
        return set()
    return set(shown.index[shown == (shown.max() if higher else shown.min())])


def _cell(mean: float, spread: float, best: bool = False, digits: int = 3) -> Cell:
    if np.isnan(mean):
        return Cell("n/a")
    return Cell(f"{mean:.{digits}f}", f"{spread:.{digits}f}" if np.isfinite(spread) else "", best)


def over_draws(record: Mapping[str, Any]) -> tuple[int, float] | None:
    """Where scores are means over draws of cells: the cells of a draw, and the largest deviation of a metric."""
    values = record["scores"]["values"]
    deviations = values[[name for name in values if str(name).endswith("_sd")]]
    if not deviations.size or deviations.isna().all(axis=None):
        return None
    return int(record["scores"]["params"]["max_cells"]), float(np.nanmax(deviations.to_numpy()))


def score_file(record: Mapping[str, Any]) -> str:
    """All scores as CSV: a row for each embedding, with the time it took; every digit."""
    values = record["scores"]["values"].rename(columns={"seconds": "seconds_of_scoring"})
    table = record["methods"].set_index("embedding").join(values)
    return str(table.to_csv(lineterminator="\n"))


def facts(adata: AnnData, record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What the data are, and what was found in them."""
    params, prepared = record["params"], adata.uns.get("prepare")
    found = [("Cells", f"{adata.n_obs:,}"), ("Genes", f"{adata.n_vars:,}")]
    for name, what in (("batch_key", "Batches"), ("label_key", "Cell types")):
        if name in params:
            names = _sizes(adata, params[name]).index
            known = [text for text in names if name == "batch_key" or not means_no_label(text)]
            found.append((what, f"{len(known)} in obs[{params[name]!r}]"))
    if "label_key" not in params:
        found.append(("Cell types", "none given: biology could not be scored"))
    scored = int(record["scores"]["params"]["n_cells"])
    if scored < adata.n_obs:
        found.append(("Cells scored", f"{scored:,} that have a label"))
    if not isinstance(prepared, Mapping) or "source" not in prepared:
        return [*found, ("Counts", "not prepared by sc_vaenb.pp.prepare")]
    flavor = str(prepared["flavor"])
    found.append(("Counts", f"found in {prepared['source']}"))
    found.append(("Genes chosen", f"{int(prepared['n_genes']):,}, {CHOICE.get(flavor, flavor)}"))
    if prepared.get("fallback"):
        found.append(("Why this flavor", str(prepared["fallback"])))
    if prepared.get("left_out"):
        found.append(("No say in the choice", f"batches {prepared['left_out']}: too few cells or counts"))
    return found


def size_tables(adata: AnnData, params: Mapping[str, Any]) -> list[Sizes]:
    """Cells by batch and label, as one table where it is small enough to be read, else as one for each."""
    keys = {what: str(params[name]) for name, what in (("batch_key", "batch"), ("label_key", "cell type"))
            if name in params}  # fmt: skip
    sizes = {what: _sizes(adata, key) for what, key in keys.items()}
    if len(sizes) == 2 and len(sizes["batch"]) <= MAX_BATCHES and len(sizes["cell type"]) <= MAX_LABELS:
        batch, label = (_names(adata, key) for key in keys.values())
        table = pd.crosstab(label.to_numpy(), batch.to_numpy())
        table = table.reindex(index=sizes["cell type"].index, columns=sizes["batch"].index)
        rows = [(str(name), [*map(int, row), int(row.sum())]) for name, row in table.iterrows()]
        rows.append(("all", [*map(int, table.sum()), adata.n_obs]))
        return [Sizes("Cells by cell type and batch", [*table.columns, "all"], rows)]
    return [
        Sizes(f"Cells by {what}", ["cells"], [(str(name), [int(n)]) for name, n in counts.items()])
        for what, counts in sizes.items()
    ]


def _names(adata: AnnData, key: str) -> pd.Series:
    return pd.Series([NO_LABEL if text is None else text for text in texts(adata.obs[key])], dtype=object)


def _sizes(adata: AnnData, key: str) -> pd.Series:
    """Numbers of cells in the order of the categories, those without a label last."""
    column = read_categories(adata, "key", key)
    order = column.cat.categories.tolist() + [NO_LABEL] * bool(column.isna().any())
    return _names(adata, key).value_counts().reindex(order)
