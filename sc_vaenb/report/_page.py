"""Collect the content of the page, and render it."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from importlib.metadata import version
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import numpy as np
from jinja2 import Environment, StrictUndefined

from .. import pl
from .._obs import columns_of, read_categories
from .._record import read_record
from ..pl._text import printable
from ..tl._findings import BEST
from ._code import call_of, next_steps
from ._figures import Figure, draw
from ._tables import facts, over_draws, score_table, size_tables

if TYPE_CHECKING:
    from anndata import AnnData

TEMPLATE = "page.html.jinja"
PACKAGES = "sc_vaenb", "scanpy", "anndata", "torch", "numpy", "harmonypy"
GOOD_STATUSES = {"converged", "stopped_early"}


@dataclass(frozen=True)
class Fit:
    """One fit of a model: its verdict, its history, the groups of batches it found, its parameters."""

    name: str
    seed: int
    status: str
    good: bool
    message: str
    history: Figure
    groups: list[str]
    params: dict[str, str]


def page(adata: AnnData, key: str, *, command: str | None, title: str | None, data: str, table: str) -> str:
    """The report as HTML; `data` and `table` are the names of the files of the AnnData and of the scores."""
    record = adata.uns[key]
    params, methods = record["params"], record["methods"]
    scores = score_table(record)
    best = best_method(record)
    embedding = str(methods.set_index(methods["method"].astype(str)).loc[[best], "embedding"].iloc[0])
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=_printable
    )
    template = environment.from_string(files(__package__).joinpath(TEMPLATE).read_text(encoding="utf-8"))
    return template.render(
        title=title or "Comparison of embeddings",
        summary=_summary(adata, record, len(scores.methods), best),
        design=_design(record),
        verdict=_verdict_lines(record),
        findings=_findings(record),
        facts=facts(adata, record),
        sizes=size_tables(adata, params),
        scores=scores,
        labelled="label_key" in params,
        n_seeds=int(params["n_seeds"]),
        draws=over_draws(record),
        table=table,
        figures=_figures(adata, key, best, scores.methods),
        umaps=_umaps(adata, key, scores.methods),
        fits=_fits(adata, methods),
        failed=record["failed"],
        versions={name: version(name) for name in PACKAGES} | {"Python": platform.python_version()},
        seeds=", ".join(str(seed) for seed in sorted({int(seed) for seed in methods["seed"]})),
        date=f"{datetime.now().astimezone():%Y-%m-%d %H:%M %Z}",
        command=command,
        call=call_of(adata, record, key),
        next_steps=next_steps(params, embedding, data),
        best=best,
        embedding=embedding,
    )


def _printable(value: Any) -> Any:
    """Remove control characters from text, which HTML may not contain."""
    return printable(value) if type(value) is str else value


def best_method(record: Mapping[str, Any]) -> str:
    """The method that the verdict recommends; the page does not choose one itself."""
    if "findings" in record:
        findings = record["findings"]
        subjects = findings.loc[findings["question"] == BEST, "subject"].astype(str).tolist()
        names = [name for name in subjects if name in set(record["methods"]["method"].astype(str))]
    else:  # a record of an earlier version
        first_line = str(record["verdict"]).partition("\n")[0]
        names = [str(name) for name in record["methods"]["method"] if f": {name} (" in first_line]
    if not names:
        msg = "the verdict of the comparison names none of its methods: it is damaged. Run sc_vaenb.tl.compare again."
        raise ValueError(msg)
    return max(names, key=len)


def _summary(adata: AnnData, record: Mapping[str, Any], n_methods: int, best: str) -> str:
    sizes = [f"{adata.n_obs:,} cells", f"{adata.n_vars:,} genes"]
    for name, what in (("batch_key", "batches"), ("label_key", "cell types")):
        if name in record["params"]:
            sizes.append(f"{read_categories(adata, name, record['params'][name]).nunique():,} {what}")
    failed = f", {len(record['failed'])} failed" if record["failed"] else ""
    return f"{', '.join(sizes)}; {n_methods} methods compared{failed}. To go on with: {best}."


def _design(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Sentences on the experimental design, each with its numbers; records of earlier versions have none."""
    if "design" not in record:
        return []
    return [(str(row.sentence), str(row.evidence)) for row in record["design"].itertuples()]


def _verdict_lines(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The sentences of the verdict, each with its numbers; for records of earlier versions, its lines unchanged."""
    if "findings" not in record:
        return [(line, "") for line in str(record["verdict"]).splitlines()]
    return [sentence_and_numbers(line, record["findings"]) for line in str(record["verdict"]).splitlines()]


def sentence_and_numbers(line: str, findings: Any) -> tuple[str, str]:
    """Split a line of the verdict into its sentence and its evidence."""
    for sentence, evidence in zip(findings["sentence"].astype(str), findings["evidence"].astype(str), strict=True):
        if evidence and line == f"{sentence} {evidence}":
            return sentence, evidence
    return line, ""


def _findings(record: Mapping[str, Any]) -> list[list[str]]:
    """The table of findings, without the columns that the sentences repeat."""
    if "findings" not in record:
        return []
    columns = ["question", "subject", "answer", "confidence"]
    return record["findings"][columns].astype(str).to_numpy().tolist()


def _figures(adata: AnnData, key: str, best: str, methods: list[str]) -> list[Figure]:
    method_names = ", ".join(methods)
    figures = [
        draw(
            pl.scores, adata, key,
            alt=f"Means and the scores that they are of, for {method_names}, as a table that is darker where better; "
            "the table above holds the numbers.",
            caption="Darker is better in each column.",
        )
    ]  # fmt: skip
    if "label_key" in adata.uns[key]["params"]:
        figures.append(draw(
            pl.tradeoff, adata, key,
            alt=f"Mean of the biology scores against mean of the batch scores of {method_names}.",
            caption="Up and to the right is better.",
        ))  # fmt: skip
        figures.append(draw(
            pl.confusion, adata, key=key, method=best,
            alt=f"Share of the cells of each cell type that are in each Leiden cluster of {best}.",
            caption=f"Where the cells of each type went, with {best}.",
        ))  # fmt: skip
    return figures


def _umaps(adata: AnnData, key: str, methods: list[str]) -> Figure:
    params = adata.uns[key]["params"]
    keys = [params[name] for name in ("batch_key", "label_key") if name in params]
    columns = ", ".join(column for key in keys for column in columns_of(key))
    return draw(
        pl.compare, adata, key, raster=True,
        alt=f"UMAPs of {', '.join(methods)}, a row for each, coloured by {columns} and Leiden cluster.",
        caption="A UMAP shows who is next to whom, not how far apart groups are. "
        "Judge by the scores, which are computed in the embeddings themselves.",
    )  # fmt: skip


def _fits(adata: AnnData, methods: Any) -> dict[str, list[Fit]]:
    """The fits of each method; the first is the one that the plots show."""
    fits: dict[str, list[Fit]] = {}
    for row in methods.itertuples():
        name = str(row.embedding).removeprefix("X_")
        record = adata.uns.get(name)
        if not (isinstance(record, Mapping) and {"history", "verdict", "params", "model"} <= set(record)):
            continue
        record = read_record(adata, name)
        verdict = record["verdict"]
        status = str(verdict["status"]).replace("_", " ")
        # earlier versions called fits that were too long converged, with this message
        collapsed, overfitted = bool(verdict["posterior_collapse"]), "need not suffer" in str(verdict["message"])
        history = draw(
            partial(pl.history, adata, name),
            alt=f"Losses, learning rate, active units and KL divergence of the fit {name}, step by step.",
            caption=f"History of the fit in uns[{name!r}].",
        )
        fits.setdefault(str(row.method), []).append(Fit(
            name=name,
            seed=int(row.seed),
            status=status + (", posterior collapse" if collapsed else ", but overfitted" if overfitted else ""),
            good=str(verdict["status"]) in GOOD_STATUSES and not collapsed and not overfitted,
            message=str(verdict["message"]),
            history=history,
            groups=_groups(record.get("overlap")),
            params={k: _short(v) for k, v in sorted(record["params"].items())},
        ))  # fmt: skip
    return fits


def _groups(overlap: Mapping[str, Any] | None) -> list[str]:
    """The batches of each group; different groups have no kind of cell in common. Empty if all batches overlap."""
    if overlap is None or not np.any(overlap["group"]):
        return []
    names, group = np.asarray(overlap["batches"]).astype(str), np.asarray(overlap["group"])
    return [", ".join(names[group == g]) for g in np.unique(group)]


def _short(value: Any) -> str:
    value = np.asarray(value)
    return f"{value.size:,} values" if value.size > 20 else str(value.tolist())
