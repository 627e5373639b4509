"""Schemas of the results in `uns` that other functions read: comparisons, scores, searches, posterior checks, ...

Results come from files, as models do. So each kind of result has a schema (`_schema`), which is checked before use.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from . import _schema as schema
from ._schema import (
    Check,
    Damaged,
    anything,
    explain_damage,
    fields,
    integer,
    names,
    number,
    plain,
    sequence,
    table,
    text,
)

MAX_METHODS = 1_000  # and of embeddings, and of rows of small tables
MAX_TRIALS = 100_000
KINDS = {"bio", "batch", "overcorrection"}
OF_GENES = ("mean", "variance", "zeros")
STATISTICS = (*OF_GENES, "depth", "detected", "correlation", "count", "count_expressed")


def _non_empty_text(value: Any, where: str) -> str:
    string: str = text()(value, where)
    if not string.strip():
        raise Damaged(f"{where} is empty")
    return string


def _metrics(value: Any, where: str) -> Any:
    columns = {"kind": "text", "higher_is_better": "flag", "in_total": "flag", "in_scib": "flag"}
    added_later = {"in_scib"}  # results of earlier versions lack it
    rows = table(columns, optional=columns if np.size(value) == 0 else added_later, most=MAX_METHODS)(value, where)
    names()(rows.index.to_list(), f"{where}.index")
    if unknown := sorted(set(rows.get("kind", ())) - KINDS):
        raise Damaged(f"{where}['kind'] holds {schema.brief(unknown[0])}, which is not known")
    return rows


def _scores(value: Any, where: str) -> dict[str, Any]:
    scores = fields(
        {
            "values": table({}, others="gaps", least=1, most=MAX_METHODS),
            "metrics": _metrics,
            "params": fields(
                {
                    "n_cells": integer(),
                    "max_cells": integer(),
                    "reference": text(),
                    "batch_key": schema.BATCH_KEY,
                    "label_key": text(),
                },
                optional={"n_cells", "max_cells", "reference", "batch_key", "label_key"},
                others=plain,
            ),
        },
        optional={"params"},
    )(value, where)
    names()(scores["values"].index.to_list(), f"{where}['values'].index")
    if not len(scores["values"].columns):
        raise Damaged(f"{where}['values'] has no scores")
    return scores


def _methods(value: Any, where: str) -> Any:
    columns = {"method": "text", "embedding": "text", "seed": "whole", "seconds": "gaps"}
    rows = table(columns, optional=("seed", "seconds"), least=1, most=MAX_METHODS)(value, where)
    names()(rows["embedding"].to_list(), f"{where}['embedding']")
    return rows


def _coverage(value: Any, where: str) -> Any:
    rows = table({"n": "number"}, others="gaps", most=len(STATISTICS))(value, where)
    if any(name not in STATISTICS for name in rows.index) or any(
        not str(name).rstrip("%").isdecimal() for name in rows.columns.drop("n")
    ):
        raise Damaged(f"{where} has a row or column that is not known")
    return rows


def _pit(value: Any, where: str) -> Any:
    rows = table({"count": "gaps", "count_expressed": "gaps"}, others="gaps", least=1, most=MAX_METHODS)(value, where)
    edges = sequence(number(0, 1))(rows.index.to_list(), f"{where}.index")
    if edges != sorted(edges):
        raise Damaged(f"{where}.index does not ascend")
    return rows


def _likelihoods(value: Any, where: str) -> Any:
    columns = dict.fromkeys(("log_likelihood", "difference", "difference_se"), "number")
    rows = table(columns, others="gaps", most=MAX_METHODS, least=2)(value, where)
    if "nb" not in rows.index:
        raise Damaged(f"{where} lacks the row 'nb'")
    return rows


def _data_and_replicates(*statistics: str) -> Check:
    """A table of statistics of the data, each beside its mean over replicates; it has one row or more."""
    columns = {name + suffix: "number" for name in statistics for suffix in ("", "_replicates")}
    return table(columns, others="any", least=1, unique=False)


def _dimensions(value: Any, where: str) -> Any:
    rows = table({"variance": "number", "active": "flag", "up": "text", "down": "text"}, others="gaps", least=1)(
        value, where
    )
    names()(rows.index.to_list(), f"{where}.index")
    return rows


def _sweep(n_dimensions: int) -> Check:
    """A sweep over latent dimensions: points, genes and expression for each dimension."""

    def check(value: Any, where: str) -> Any:
        parts = {"z": schema.array("fiu", n_dimensions, None), "genes": anything, "log1p": anything}
        sweep = fields(parts, others=anything)(value, where)
        genes, n_points = sweep["genes"], sweep["z"].shape[1]
        if not isinstance(genes, np.ndarray) or genes.ndim != 2 or len(genes) != n_dimensions or genes.shape[1] < 2:
            raise schema.unexpected(f"{where}['genes']", genes, "an array of dimensions x genes")
        sequence(text())(list(genes.reshape(-1)), f"{where}['genes']")
        schema.array("fiu", n_dimensions, genes.shape[1], n_points)(sweep["log1p"], f"{where}['log1p']")
        if not n_points:
            raise Damaged(f"{where}['z'] holds no points")
        return sweep

    return check


MADE = table(
    {"made_from": "text", "checksum": "whole", "seconds": "gaps", "found": "flag"},
    optional={"found"},  # results of earlier versions lack it
    most=MAX_METHODS * 100,
)
FINDINGS = table(
    dict.fromkeys(("question", "subject", "answer", "confidence", "sentence", "evidence"), "text"),
    least=1,
    most=MAX_METHODS,
)
NULL_SPLIT = table({"method": "text", "made_from": "text"}, others="plain", most=MAX_METHODS, unique=False)
SEED_OVERLAP = table({"method": "text", "n_seeds": "whole", "overlap": "number"}, most=MAX_METHODS)
PATH_PARAMS = fields({"path": text(), "key": text(), "batch": text()}, optional={"batch"}, others=plain)
COMPARISON_PARAMS = fields(
    {"batch_key": schema.BATCH_KEY, "label_key": text(), "n_seeds": integer(1), "rng": integer()},
    optional={"label_key", "n_seeds", "rng"},
    others=plain,
)
TRIALS = table(
    {"trial": "whole", "score": "gaps", "kept": "gaps", "mixed": "gaps", "default": "flag", "chosen": "flag"},
    optional={"mixed"},
    others="plain",
    least=1,
    most=MAX_TRIALS,
)
TRANSFERRED = table(
    {"n_cells": "whole", "n_batches": "whole", "n_calibration": "whole", "n_left_out": "whole", "called": "text"},
    others="gaps",
    least=1,
    most=MAX_TRIALS,
)
MAPPED = table(
    {
        "batch": "text",
        "label": "text",
        "n_cells": "whole",
        "n_novel": "whole",
        "difference": "gaps",
        "new": "flag",
    },
    least=1,
    most=MAX_TRIALS,
)
RESULTS: dict[str, tuple[str, str, dict[str, Check]]] = {
    "compare": (
        "comparison",
        "compare",
        {
            "scores": _scores,
            "methods": _methods,
            "findings": FINDINGS,
            "design": FINDINGS,
            "null_split": NULL_SPLIT,
            "seed_overlap": SEED_OVERLAP,
            "verdict": text(),
            "params": COMPARISON_PARAMS,
            "failed": fields({}, others=text()),
            "made": MADE,
        },
    ),
    "scores": ("scores", "score", {"values": anything, "metrics": anything, "params": anything}),
    "tune": (
        "search",
        "tune",
        {
            "trials": TRIALS,
            "seeds": table({"trial": "whole", "seed": "whole", "score": "gaps"}, others="gaps", most=MAX_TRIALS),
            "verdict": _non_empty_text,
        },
    ),
    "posterior_check": (
        "posterior check",
        "posterior_check",
        {
            "genes": _data_and_replicates(*OF_GENES),
            "cells": _data_and_replicates("depth", "detected"),
            "correlations": table(
                {"correlation": "gaps", "correlation_replicates": "gaps"}, others="any", least=1, unique=False
            ),
            "coverage": _coverage,
            "pit": _pit,
            "likelihoods": _likelihoods,
            "verdict": text(),
        },
    ),
    "interpolation": (
        "interpolation",
        "interpolate",
        {
            "expression": table({}, others="counts", least=1),
            "stops": table({"name": "text", "position": "number"}, least=2, most=MAX_METHODS),
            "points": anything,
            "params": PATH_PARAMS,
        },
    ),
    "transfer": (
        "transfer of labels",
        "map_query",
        {
            "labels": TRANSFERRED,
            "query": MAPPED,
            "calibration": table({"n_cells": "whole", "stated": "number", "right": "number"}, most=MAX_TRIALS),
            "expected": schema.array("f", 2, low=0, high=1),
            "verdict": _non_empty_text,
        },
    ),
    "factors": ("description", "factors", {"dimensions": _dimensions, "association": anything, "sweep": anything}),
}
"""For each kind of result: its name in messages, the function of `tl` that makes it, and a check for each part."""


def check_result(record: Mapping[str, Any], key: str, kind: str, *needed: str) -> dict[str, Any]:
    """Check and return the parts of a result in `uns[key]` that other functions read; `needed` parts must exist."""
    noun, maker, parts = RESULTS[kind]
    with explain_damage(
        f"the {noun} in uns[{key!r}] is damaged", f"Run sc_vaenb.tl.{maker} again, or read the file again."
    ):
        if missing := [name for name in needed if name not in record]:
            raise Damaged(f"it lacks {missing[0]!r}")
        if kind == "scores":
            return _scores(record, key)
        checked = {name: parts[name](record[name], name) for name in record if name in parts}
        _check_agreement(kind, checked)
        return checked


def _check_agreement(kind: str, checked: Mapping[str, Any]) -> None:
    """Refuse parts of a result that contradict each other."""
    if kind == "compare" and "scores" in checked and "methods" in checked:
        scored, embeddings = list(checked["scores"]["values"].index), list(checked["methods"]["embedding"])
        if set(scored) != set(embeddings):
            raise Damaged("scores['values'] and methods are not of the same embeddings")
    if kind == "factors":
        dimensions = dict.fromkeys(checked["dimensions"].index, "number")
        association = table({"measure": "text", **dimensions}, most=MAX_TRIALS)(checked["association"], "association")
        if not set(association["measure"]) <= {"eta2", "spearman"}:
            raise Damaged("association['measure'] holds what is not known")
        if "sweep" in checked:
            _sweep(len(checked["dimensions"]))(checked["sweep"], "sweep")
    if kind == "tune":
        trials = checked["trials"]
        if not trials["score"].notna().any():
            raise Damaged("trials['score'] holds no score")
    if kind == "interpolation":
        if checked["expression"].shape[1] < 2 or not checked["expression"].index.is_unique:
            raise Damaged("expression is not genes x two points or more")
        if not all(isinstance(name, str) for name in checked["expression"].index):
            raise Damaged("expression.index holds what is no name of a gene")
