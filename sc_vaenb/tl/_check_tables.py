"""The results of a posterior check as tables for `uns`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..inference.marginal import Fitness
from ..inference.posterior_check import BINS, COVERAGE_LEVELS, Check, Compared, coverage, histogram

ALL = slice(None)


def tables(
    check: Check, genes: Sequence[str], cells: pd.Index, generator: np.random.Generator
) -> dict[str, pd.DataFrame]:
    """The statistics of genes, cells and correlations, their coverage, and their PIT histograms."""
    names = np.array(genes, dtype=object)
    pairs = {"gene": names[check.pairs[0]], "other": names[check.pairs[1]]}
    parts: dict[str, tuple[dict[str, Compared], Any, dict[str, Any]]] = {
        "genes": (check.genes, pd.Index(names, name="gene"), {}),
        "cells": (check.cells, cells.copy(), {}),
        "correlations": ({"correlation": check.correlation}, None, pairs),
    }
    result, histograms = {}, {}
    for part, (statistics, index, columns) in parts.items():
        for name, statistic in statistics.items():
            pit = statistic.pit(generator)
            columns |= {name: statistic.data, f"{name}_replicates": statistic.replicates.mean(0), f"{name}_pit": pit}
            histograms[name] = histogram(pit)
        result[part] = pd.DataFrame(columns, index=index)
    histograms |= {"count": check.counts["all"], "count_expressed": check.counts["expressed"]}
    result["coverage"] = pd.DataFrame(
        [[counts.sum(), *coverage(counts)] for counts in histograms.values()],
        index=pd.Index(list(histograms), name="statistic"),
        columns=["n", *(f"{level}%" for level in COVERAGE_LEVELS)],
    ).astype({"n": np.int64})
    result["pit"] = pd.DataFrame(
        {name: counts / max(counts.sum(), 1) for name, counts in histograms.items()},
        index=pd.Index(np.arange(BINS) / BINS, name="from"),
    )
    return result


def likelihood_table(fits_by_likelihood: Mapping[str, Sequence[Fitness]], cells: Any = ALL) -> pd.DataFrame:
    """A row per likelihood, from its fits (one per seed), evaluated on the same cells."""
    bounds = {name: np.stack([fitness.bound[cells] for fitness in fits]) for name, fits in fits_by_likelihood.items()}
    rows = {}
    for name, fits in fits_by_likelihood.items():
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


def batch_table(fits_by_likelihood: Mapping[str, Sequence[Fitness]], batch: NDArray[np.str_]) -> pd.DataFrame:
    """The table of `likelihood_table` for each batch with two cells or more."""
    names, sizes = np.unique(batch, return_counts=True)
    parts = {str(name): likelihood_table(fits_by_likelihood, batch == name) for name in names[sizes > 1]}
    if not parts:
        return likelihood_table(fits_by_likelihood)[:0].drop(columns="steps").reset_index().assign(batch=[])
    return pd.concat(parts, names=["batch", "likelihood"]).drop(columns="steps").reset_index()


def _standard_error(values: NDArray[np.float64]) -> float:
    """Standard error of the mean over fits x cells: it includes the variance over cells and over fits."""
    n_fits, n_cells = values.shape
    variance_of_fits = values.mean(1).var(ddof=1) / n_fits if n_fits > 1 else 0.0
    return float(np.sqrt(values.mean(0).var(ddof=1) / n_cells + variance_of_fits))
