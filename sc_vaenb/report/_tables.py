"""The numbers of a comparison, in the order in which a reader meets them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from .._names import means_no_label
from .._obs import columns_of, read_categories
from ._meaning import GROUPS, MEANING, RELATIVE_TO_UNCORRECTED

if TYPE_CHECKING:
    from anndata import AnnData

SUMMARY = "total", "bio", "batch", "total_scib", "bio_scib", "batch_scib"
MAX_BATCHES, MAX_LABELS = 12, 60  # columns and rows of a readable table
NO_LABEL = "(no label)"
FLAVOR_MEANING = {
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
    """Scores by group, with methods in columns; if there is a total, the best method comes first."""

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
    """Means over seeds, standard deviations if there are several seeds, and the best method of each row."""
    methods = record["methods"].set_index("embedding")
    values, metrics = record["scores"]["values"], record["scores"]["metrics"]
    method_of = methods["method"].astype(str).reindex(values.index)
    mean = values.groupby(method_of, sort=False).mean(numeric_only=True)
    spread = values.groupby(method_of, sort=False).std(numeric_only=True)
    if "total" in mean:
        mean = mean.sort_values("total", ascending=False)
    spread = spread.loc[mean.index]
    uncorrected = method_of.get(record["scores"]["params"].get("reference", ""))

    metric_names = [name for name in metrics.index if name in mean]
    groups: dict[str, list[Row]] = {title: [] for title in GROUPS.values()}
    for name in [name for name in SUMMARY if name in mean] + metric_names:
        if mean[name].isna().all():
            continue
        properties = metrics.loc[name] if name in metrics.index else None
        higher_is_better = properties is None or bool(properties["higher_is_better"])
        group = "summary" if properties is None else str(properties["kind"]) if properties["in_total"] else "other"
        compared = mean[name]
        if name in RELATIVE_TO_UNCORRECTED and uncorrected in mean.index:
            compared = compared.drop(uncorrected)
        if name == "same_batch_excess":
            compared = compared.clip(lower=0)  # values below 0 are not better than 0, which is fully mixed
        best = _best(compared, higher=higher_is_better)
        cells = [_cell(mean.loc[m, name], spread.loc[m, name], m in best) for m in mean.index]
        groups[GROUPS[group]].append(Row(name.replace("_", " "), MEANING.get(name, ""), not higher_is_better, cells))
    seconds_of = methods.groupby("method", sort=False)["seconds"].agg(["mean", "std"]).loc[mean.index]
    return Scores(
        methods=mean.index.tolist(),
        groups={title: rows for title, rows in groups.items() if rows},
        seconds=[_cell(m, s, digits=1 if m >= 10 else 2) for m, s in seconds_of.itertuples(index=False)],
        undefined=[str(name).replace("_", " ") for name in metric_names if mean[name].isna().all()],
    )


def _best(values: pd.Series, *, higher: bool) -> set[str]:
    """The methods with the best value at three decimals; none if all values are equal."""
    rounded = values.dropna().round(3)
    if rounded.nunique() < 2:
        return set()
    return set(rounded.index[rounded == (rounded.max() if higher else rounded.min())])


def _cell(mean: float, spread: float, best: bool = False, digits: int = 3) -> Cell:
    if np.isnan(mean):
        return Cell("n/a")
    return Cell(f"{mean:.{digits}f}", f"{spread:.{digits}f}" if np.isfinite(spread) else "", best)


def over_draws(record: Mapping[str, Any]) -> tuple[int, float] | None:
    """If scores are means over draws of cells: the cells of a draw, and the largest standard deviation of a metric."""
    values = record["scores"]["values"]
    deviations = values[[name for name in values if str(name).endswith("_sd")]]
    if not deviations.size or deviations.isna().all(axis=None):
        return None
    return int(record["scores"]["params"]["max_cells"]), float(np.nanmax(deviations.to_numpy()))


def score_file(record: Mapping[str, Any]) -> str:
    """All scores as CSV with all digits: a row for each embedding, with its run time."""
    values = record["scores"]["values"].rename(columns={"seconds": "seconds_of_scoring"})
    table = record["methods"].set_index("embedding").join(values)
    return str(table.to_csv(lineterminator="\n"))


def facts(adata: AnnData, record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Facts about the data: numbers of cells and genes, batches, labels, counts."""
    params, prepare_record = record["params"], adata.uns.get("prepare")
    rows = [("Cells", f"{adata.n_obs:,}"), ("Genes", f"{adata.n_vars:,}")]
    for name, title in (("batch_key", "Batches"), ("label_key", "Cell types")):
        if name in params:
            names = _sizes(adata, params[name]).index
            labels = [text for text in names if name == "batch_key" or not means_no_label(text)]
            columns = " and ".join(f"obs[{column!r}]" for column in columns_of(params[name]))
            rows.append((title, f"{len(labels)} in {columns}"))
    if "label_key" not in params:
        rows.append(("Cell types", "none given: biology could not be scored"))
    n_scored = int(record["scores"]["params"]["n_cells"])
    if n_scored < adata.n_obs:
        rows.append(("Cells scored", f"{n_scored:,} that have a label"))
    if not isinstance(prepare_record, Mapping) or "source" not in prepare_record:
        return [*rows, ("Counts", "not prepared by sc_vaenb.pp.prepare")]
    flavor = str(prepare_record["flavor"])
    rows.append(("Counts", f"found in {prepare_record['source']}"))
    rows.append(("Genes chosen", f"{int(prepare_record['n_genes']):,}, {FLAVOR_MEANING.get(flavor, flavor)}"))
    if prepare_record.get("fallback"):
        rows.append(("Why this flavor", str(prepare_record["fallback"])))
    if prepare_record.get("left_out"):
        rows.append(("No say in the choice", f"batches {prepare_record['left_out']}: too few cells or counts"))
    return rows


def size_tables(adata: AnnData, params: Mapping[str, Any]) -> list[Sizes]:
    """Numbers of cells by batch and label: one table if it is small enough to read, else one table for each."""
    keys = {what: params[name] for name, what in (("batch_key", "batch"), ("label_key", "cell type"))
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


def _names(adata: AnnData, key: str | Sequence[str]) -> pd.Series:
    column = read_categories(adata, "key", key)
    return column.astype(object).where(column.notna(), NO_LABEL)


def _sizes(adata: AnnData, key: str | Sequence[str]) -> pd.Series:
    """Numbers of cells in the order of the categories; cells without a label come last."""
    column = read_categories(adata, "key", key)
    order = column.cat.categories.tolist() + [NO_LABEL] * bool(column.isna().any())
    return _names(adata, key).value_counts().reindex(order)
