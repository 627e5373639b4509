"""The verdict of a posterior check in words, from its numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

MIN_STANDARD_ERRORS = 2.0  # standard errors that a difference must exceed
MIN_EFFECT = 0.005  # share of NB's log-likelihood: a smaller difference does not matter, even if it is significant
COVERAGE_TOLERANCE = 0.05  # allowed difference from the nominal coverage
EARLY = 1 / 3  # share of the steps: a fit that stopped before had hardly begun
NAMES = {"zinb": "ZINB", "poisson": "Poisson", "nb": "NB"}


def verdict_in_words(record: Mapping[str, Any], params: Mapping[str, Any]) -> str:
    """What was checked, where model and data differ, and whether zero inflation or over-dispersion is needed."""
    which = (
        "held out from the fit" if params["cells"] == "held_out" else "given (fitted cells make the model look better)"
    )
    lines = [f"Checked on {params['n_cells']:,} cells {which}, {params['n_samples']} replicates of each."]
    lines += [_counts(record["coverage"]), _zeros(record["genes"], params["zeros"])]
    if "likelihoods" in record:
        table: pd.DataFrame = record["likelihoods"]
        lines += [_against_nb(str(name), row, table.loc["nb"]) for name, row in table.drop("nb").iterrows()]
        early = table["steps"] < EARLY * params["n_steps"]
        if early.any():
            stopped = ", ".join(f"{NAMES[name]} after {step:.0f}" for name, step in table["steps"][early].items())
            lines.append(
                f"Of {params['n_steps']:,} steps, the refits stopped early ({stopped}): these differences also "
                "show how soon each overfits."
            )
        if params["n_seeds"] == 1:
            lines.append(
                "With one fit each, these standard errors do not include the variance between fits: use n_seeds=3."
            )
    return "\n".join(lines)


def _counts(coverage: pd.DataFrame) -> str:
    expressed = bool(coverage.loc["count_expressed", "n"])
    share = coverage.loc["count_expressed" if expressed else "count", "90%"]
    which = "counts expected to be 1 or more" if expressed else "counts"
    sentence = f"Of the {which}, {share:.1%} lie in the central 90% of the replicates"
    if share < 0.9 - COVERAGE_TOLERANCE:
        return f"{sentence}: the data vary more than the model predicts."
    return f"{sentence}: " + (
        "the model predicts more variation than the data have."
        if share > 0.9 + COVERAGE_TOLERANCE
        else "as they should."
    )


def _zeros(genes: pd.DataFrame, share: float) -> str:
    expected = genes["zeros_replicates"].mean()
    share_more, share_fewer = (genes["zeros_pit"] > 0.975).mean(), (genes["zeros_pit"] < 0.025).mean()
    return (
        f"Zeros are {share:.2%} of the counts, and {expected:.2%} of those of the replicates. {share_more:.1%} of the "
        f"genes have more zeros than 97.5% of their replicates, {share_fewer:.1%} have fewer (by chance, 2.5% each)."
    )


def _against_nb(name: str, row: pd.Series, nb: pd.Series) -> str:
    difference, error = float(row["difference"]), float(row["difference_se"])
    clear = abs(difference) > MIN_STANDARD_ERRORS * error
    comparison = ("better" if difference > 0 else "worse") if clear else "not better"
    numbers = (
        f"(difference {difference:.2f} ± {error:.2f} nats per cell, NB has {nb['log_likelihood']:,.1f}; better for "
        f"{row['better_for']:.0%} of the cells)"
    )
    needed = clear and difference > MIN_EFFECT * abs(nb["log_likelihood"])
    negligible = " by so little that it hardly matters" if clear and difference > 0 and not needed else ""
    meaning = {
        "zinb": "zero inflation helps: fit with likelihood='zinb'" if needed else "zero inflation is not needed",
        "poisson": "counts vary more than Poisson: over-dispersion is needed"
        if clear and difference < 0
        else "over-dispersion is not needed",
    }[name]
    return f"{NAMES[name]} is {comparison} than NB on held-out cells{negligible} {numbers}: {meaning}."
