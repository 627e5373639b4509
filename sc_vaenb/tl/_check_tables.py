"""What a posterior check finds, as tables for `uns`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..inference.marginal import Fitness
from ..inference.posterior_check import BINS, COVERAGE_LEVELS, Check, Compared, coverage, histogram

ALL = slice(None)


def tables(found: Check, genes: Sequence[str], cells: pd.Index, draw: np.random.Generator) -> dict[str, pd.DataFrame]:
    """What was found, as tables."""
    names = np.array(genes, dtype=object)
    pairs = {"gene": names[found.pairs[0]], "other": names[found.pairs[1]]}
    parts: dict[str, tuple[dict[str, Compared], Any, dict[str, Any]]] = {
        "genes": (found.genes, pd.Index(names, name="gene"), {}),
        "cells": (found.cells, cells.copy(), {}),
        "correlations": ({"correlation": found.correlation}, None, pairs),
    }
    made, histograms = {}, {}
    for part, (statistics, index, columns) in parts.items():
        for name, both in statistics.items():
            pit = both.pit(draw)
            columns |= {name: both.data, f"{name}_replicates": both.replicates.mean(0), f"{name}_pit": pit}
            histograms[name] = histogram(pit)
        made[part] = pd.DataFrame(columns, index=index)
    histograms |= {"count": found.counts["all"], "count_expressed": found.counts["expressed"]}
    made["coverage"] = pd.DataFrame(
        [[counts.sum(), *coverage(counts)] for counts in histograms.values()],
        index=pd.Index(list(histograms), name="statistic"),
        columns=["n", *(f"{level}%" for level in COVERAGE_LEVELS)],
    ).astype({"n": np.int64})
    made["pit"] = pd.DataFrame(
        {name: counts / max(counts.sum(), 1) for name, counts in histograms.items()},
        index=pd.Index(np.arange(BINS) / BINS, name="from"),
    )
    return made


def likelihood_table(judged: Mapping[str, Sequence[Fitness]], cells: Any = ALL) -> pd.DataFrame:
    """A row per likelihood, from the fits (one a seed) of each, judged by the same cells."""
    bounds = {name: np.stack([fitness.bound[cells] for fitness in fits]) for name, fits in judged.items()}
    rows = {}
    for name, fits in judged.items():
        difference = bounds[name] - bounds["nb"]
        rows[name] = {
            "log_likelihood": bounds[name].mean(),
            "se": _standard_error(bounds[name]),
            "elbo": np.mean([fitness.elbo[cells].mean() for fitness in fits]),
            "difference": difference.mean(),
            "difference_se": _standard_error(difference),
            "better_for": (difference.mean(0) > 0).mean(),
            "zeros": np.mean([fitness.zeros[cells].mean() for fitness in fits]),
            "steps": np.mean([fitness.steps for fitness in fits]),
        }
    table = pd.DataFrame.from_dict(rows, orient="index")
    table.index.name = "likelihood"
    return table


def batch_table(judged: Mapping[str, Sequence[Fitness]], batch: NDArray[np.str_]) -> pd.DataFrame:
    """The same for the cells of each batch that has two or more."""
    names, sizes = np.unique(batch, return_counts=True)
    parts = {str(name): likelihood_table(judged, batch == name) for name in names[sizes > 1]}
    if not parts:
        return likelihood_table(judged)[:0].drop(columns="steps").reset_index().assign(batch=[])
    return pd.concat(parts, names=["batch", "likelihood"]).drop(columns="steps").reset_index()


def _standard_error(values: NDArray[np.float64]) -> float:
    """Of the mean of fits x cells: other cells would have given another one, and so would other fits."""
    n_fits, n_cells = values.shape
    of_fits = values.mean(1).var(ddof=1) / n_fits if n_fits > 1 else 0.0
    return float(np.sqrt(values.mean(0).var(ddof=1) / n_cells + of_fits))
