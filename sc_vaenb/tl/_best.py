"""Which method is best among those that do no harm, and what to do."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..metrics import BIO_WEIGHTS, READINGS, aggregate
from ..metrics.catalogue import BIO_WEIGHT
from ..metrics.ranking import ALPHA, SEED_SD, Lead, draw_cells, lead, score_draws, seed_variance
from ._findings import ADVICE, BEST, UNCORRECTED, Confidence, Finding, Judged, few, number, p_value
from ._harm import Harm, keeps_better

ROBUST_SHARE = 2 / 3  # share of the readings that a method must win to be the best under any reading
SLOW_METRIC = "kbet"  # not computed on draws of cells: it takes as long as all others together
Total = Callable[[Mapping[str, float]], float]


def readings(labelled: bool) -> dict[str, Total]:
    """Ways to combine the metrics into one total (readings); the first is the default."""
    if not labelled:
        return {f"{weight:g} neighbourhoods kept": _total_without_labels(weight) for weight in BIO_WEIGHTS}
    weights = sorted(BIO_WEIGHTS, key=lambda weight: weight != BIO_WEIGHT)
    return {f"{name}, {w:g} bio": _total_with_labels(metrics, w) for name, metrics in READINGS.items() for w in weights}


def _total_with_labels(metrics: Sequence[str], weight: float) -> Total:
    return lambda values: aggregate(values, metrics, bio_weight=weight).get("total", np.nan)


def _total_without_labels(weight: float) -> Total:
    def total(values: Mapping[str, float]) -> float:
        mixing, overlap = 1 - max(0.0, values["same_batch_excess"]), values.get("neighborhood_overlap", np.nan)
        return mixing if np.isnan(overlap) else weight * overlap + (1 - weight) * mixing

    return total


@dataclass(frozen=True)
class Ranking:
    """Totals of each method: under each reading (seeds x readings), and under the first reading on draws of cells."""

    totals: dict[str, NDArray[np.float64]]
    drawn: dict[str, NDArray[np.float64]]
    drawn_share: float

    def mean(self, name: str) -> float:
        """Mean total over seeds, under the first reading."""
        return float(self.totals[name][:, 0].mean())

    def order(self, names: Sequence[str]) -> list[str]:
        """The methods, the best first."""
        return sorted(names, key=lambda name: -np.nan_to_num(self.mean(name), nan=-1))

    def lead(self, first: str, second: str) -> Lead:
        """The lead of one method over another."""
        variance, freedom = seed_variance({name: totals[:, 0].tolist() for name, totals in self.totals.items()})
        return lead(
            self.totals[first][:, 0].tolist(),
            self.totals[second][:, 0].tolist(),
            self.drawn[first] - self.drawn[second],
            variance,
            freedom,
            fixed=(first == "PCA", second == "PCA"),
            drawn_share=self.drawn_share,
        )

    def wins(self, names: Sequence[str]) -> dict[str, int]:
        """The number of readings that each method wins."""
        means = np.stack([self.totals[name].mean(axis=0) for name in names])
        winner = means[:, np.isfinite(means).all(axis=0)].argmax(axis=0)
        return {name: int((winner == i).sum()) for i, name in enumerate(names)}

    @property
    def n_seeds(self) -> int:
        """The largest number of seeds of any method."""
        return max(len(totals) for totals in self.totals.values())


def rank(data: Judged, values: pd.DataFrame, method_of: pd.Series, seed: int) -> Ranking:
    """Totals of all seeds from their scores, and of the first seed of each method on the same draws of cells."""
    total_functions = list(readings(data.labels is not None).values())
    rows = {name: values[(method_of == name).to_numpy()].to_dict("records") for name in data.embeddings}
    totals = {
        name: np.array([[total(scores) for total in total_functions] for scores in scores_of_seeds])
        for name, scores_of_seeds in rows.items()
    }
    n_cells = len(data.batch)
    draws = draw_cells([data.batch] if data.labels is None else [data.batch, data.labels], n_cells, seed)
    metrics = ["same_batch_excess", "neighborhood_overlap"] if data.labels is None else list(READINGS["default"])
    reference = data.reference if data.uncorrected else None
    needs_reference = {"neighborhood_overlap", "geometry"}
    usable = [m for m in metrics if m != SLOW_METRIC and not (reference is None and m in needs_reference)]
    drawn = {}
    for name, embeddings in data.embeddings.items():
        scores_of_draws = score_draws(embeddings[0], data.labels, data.batch, reference, usable, draws)
        drawn[name] = np.array([total_functions[0](scores) for scores in scores_of_draws])
    return Ranking(totals, drawn, len(draws[0]) / n_cells if draws else 0.5)


def best_and_advice(data: Judged, ranking: Ranking, needed: Finding, harms: Mapping[str, Harm]) -> list[Finding]:
    """If there is nothing to correct, the methods without correction; else the best of those that do no harm."""
    names = [name for name in data.embeddings if name not in data.seen]
    harmless = [name for name in names if harms[name].none]
    uncorrected = [name for name in harmless if name in UNCORRECTED]
    if needed.answer in {"no", "cannot be told"} and uncorrected:
        return _without_correction(data, ranking, needed, uncorrected)
    usable = [name for name in names if not harms[name].excludes]
    candidates = usable or names
    if correcting := [name for name in harmless if name not in UNCORRECTED]:
        best = ranking.order(correcting)[0]
        candidates = harmless + [
            name
            for name in names
            if harms[name].lost and not harms[name].in_null and not keeps_better(data, best, name, harms[name])
        ]
        usable = list(dict.fromkeys([*candidates, *usable]))
    return _with_correction(data, ranking, needed, harms, candidates, usable)


def _scores(data: Judged, ranking: Ranking, names: Sequence[str]) -> str:
    meaning = f"total = {BIO_WEIGHT:g} bio + {1 - BIO_WEIGHT:g} batch"
    if data.labels is None:
        meaning = "mean of batch mixing and of neighbourhoods kept, as there are no labels"
    numbers = ", ".join(f"{name} {number(ranking.mean(name))}" for name in ranking.order(names))
    return f"Scores ({meaning}, 0 to 1): {numbers}."


def _without_correction(data: Judged, ranking: Ranking, needed: Finding, uncorrected: list[str]) -> list[Finding]:
    names, subject = " or ".join(uncorrected), uncorrected[0]
    evidence = _scores(data, ranking, list(data.embeddings))
    if needed.answer == "no":
        text = f"Best: {names} will do, because there is nothing to correct."
        advice = f"Use {names}. A correction can only remove biology here."
        answer = names
    else:
        text = (
            f"Which method is best cannot be told from these data. {names} will do: without correction nothing is lost."
        )
        advice = (
            f"Use {names}. Do not interpret a difference between batches as biology or as a batch effect until a type "
            "or a control sample was measured in both."
        )
        answer = "cannot be told"
    return [
        Finding(BEST, subject, answer, needed.confidence, text, evidence),
        Finding(ADVICE, subject, names, needed.confidence, advice),
    ]


def _with_correction(
    data: Judged,
    ranking: Ranking,
    needed: Finding,
    harms: Mapping[str, Harm],
    candidates: list[str],
    usable: list[str],
) -> list[Finding]:
    order = ranking.order(candidates)
    top, wins = order[0], ranking.wins(order)
    leads = {name: ranking.lead(top, name) for name in order[1:]}
    robust = wins[top] >= ROBUST_SHARE * sum(wins.values())
    tied = [top, *(name for name, its_lead in leads.items() if its_lead.p > ALPHA or (not robust and wins[name] > 0))]
    if needed.answer == "hardly":  # among equals, methods that correct nothing come first
        tied.sort(key=lambda name: name not in UNCORRECTED)
    elif needed.answer == "yes":  # if there is something to correct, keep only methods that correct
        tied = [name for name in tied if name not in UNCORRECTED] or tied
    answer = " or ".join(tied)
    text = f"Best: {answer}."
    if len(tied) > 1:
        text = f"Best: {answer}; they do not differ beyond chance."
        if not robust and any(leads[name].p <= ALPHA for name in tied if name in leads):
            text = f"Best: {answer}; which of them depends on how the scores are weighted."
    text += _why_not_higher(data, ranking, harms, candidates, usable, top)
    evidence = _scores(data, ranking, list(data.embeddings))
    if len(order) > 1:
        second = leads[order[1]]
        evidence += (
            f" {top} leads {order[1]} by {second.difference:.3f} (standard error {second.se:.3f} over cells and seeds, "
            f"p {p_value(second.p)}); it is best under {wins[top]} of {sum(wins.values())} readings of the scores."
        )
        if ranking.n_seeds == 1:
            evidence += f" With one seed, a spread of {SEED_SD:g} over seeds is assumed; n_seeds=3 measures it."
    confidence: Confidence = "high" if robust and ranking.n_seeds > 1 and len(tied) == 1 else "moderate"
    return [
        Finding(BEST, tied[0], answer, confidence, text, evidence),
        Finding(ADVICE, tied[0], answer, confidence, _advice(data, needed, tied, harms)),
    ]


def _why_not_higher(
    data: Judged, ranking: Ranking, harms: Mapping[str, Harm], candidates: list[str], usable: list[str], top: str
) -> str:
    """Why methods that score higher are not the best."""
    higher = [n for n in data.embeddings if n not in {*candidates, *data.seen} and ranking.mean(n) > ranking.mean(top)]
    text = ""
    for name in ranking.order(higher):
        reason = f"it blurs {few(harms[name].labels)}" if name in usable else "it does harm"
        text += f" {name} scores higher ({number(ranking.mean(name))}), but {reason}."
    return text


def _advice(data: Judged, needed: Finding, tied: list[str], harms: Mapping[str, Harm]) -> str:
    uncorrected = [name for name in tied if name in UNCORRECTED]
    if needed.answer == "hardly" and uncorrected:
        return f"Use {' or '.join(uncorrected)}: the batch effect is too small to need a correction."
    if len(uncorrected) == len(tied):
        return (
            f"Use {' or '.join(uncorrected)}, and keep the batch in every test: batches are separated, but the "
            "corrections that were tried are no better."
        )
    names_of: dict[str, list[str]] = {}  # methods with the same reservation
    for name in [name for name in tied if name not in UNCORRECTED][:2]:
        lost = set(harms[name].labels)
        keeping = [method for method in ("VAE", "PCA") if method in harms and not lost & set(harms[method].labels)]
        alternative = keeping[0] if keeping else data.uncorrected
        reservation = f", but compare {few(sorted(lost))} in the {alternative}" if lost else ""
        names_of.setdefault(reservation, []).append(name)
    return f"Use {'; or '.join(' or '.join(names) + reservation for reservation, names in names_of.items())}."
