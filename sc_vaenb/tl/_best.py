"""Which method is best, among those that do no harm, and the advice that follows."""

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

ROBUST = 2 / 3  # of the readings of the scores that a method wins, to be called best whatever the reading
SLOW = "kbet"  # left out of draws of cells: it takes as long as all others
Total = Callable[[Mapping[str, float]], float]


def readings(labelled: bool) -> dict[str, Total]:
    """Ways to make one total of the metrics; the first is the default."""
    if not labelled:
        return {f"{weight:g} neighbourhoods kept": _unlabelled(weight) for weight in BIO_WEIGHTS}
    weights = sorted(BIO_WEIGHTS, key=lambda weight: weight != BIO_WEIGHT)
    return {f"{name}, {w:g} bio": _labelled(metrics, w) for name, metrics in READINGS.items() for w in weights}


def _labelled(metrics: Sequence[str], weight: float) -> Total:
    return lambda values: aggregate(values, metrics, bio_weight=weight).get("total", np.nan)


def _unlabelled(weight: float) -> Total:
    def total(values: Mapping[str, float]) -> float:
        mixed, kept = 1 - max(0.0, values["same_batch_excess"]), values.get("neighborhood_overlap", np.nan)
        return mixed if np.isnan(kept) else weight * kept + (1 - weight) * mixed

    return total


@dataclass(frozen=True)
class Ranking:
    """Totals of each method under each reading (seeds x readings), and under the first on draws of the cells."""

    totals: dict[str, NDArray[np.float64]]
    drawn: dict[str, NDArray[np.float64]]
    drawn_share: float

    def mean(self, name: str) -> float:
        """Mean total over seeds, under the first reading."""
        return float(self.totals[name][:, 0].mean())

    def order(self, names: Sequence[str]) -> list[str]:
        """The best first."""
        return sorted(names, key=lambda name: -np.nan_to_num(self.mean(name), nan=-1))

    def lead(self, first: str, second: str) -> Lead:
        """Of one method over another."""
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
        """How many readings each of these methods wins."""
        means = np.stack([self.totals[name].mean(axis=0) for name in names])
        winner = means[:, np.isfinite(means).all(axis=0)].argmax(axis=0)
        return {name: int((winner == i).sum()) for i, name in enumerate(names)}

    @property
    def n_seeds(self) -> int:
        """The most of any method."""
        return max(len(totals) for totals in self.totals.values())


def rank(data: Judged, values: pd.DataFrame, method_of: pd.Series, seed: int) -> Ranking:
    """Totals of all seeds from their scores, and of first seeds on the same draws of cells."""
    ways = list(readings(data.labels is not None).values())
    rows = {name: values[(method_of == name).to_numpy()].to_dict("records") for name in data.embeddings}
    totals = {name: np.array([[total(row) for total in ways] for row in found]) for name, found in rows.items()}
    n_cells = len(data.batch)
    draws = draw_cells([data.batch] if data.labels is None else [data.batch, data.labels], n_cells, seed)
    metrics = ["same_batch_excess", "neighborhood_overlap"] if data.labels is None else list(READINGS["default"])
    before = data.reference if data.uncorrected else None
    usable = [m for m in metrics if m != SLOW and not (before is None and m in {"neighborhood_overlap", "geometry"})]
    drawn = {}
    for name, embeddings in data.embeddings.items():
        found = score_draws(embeddings[0], data.labels, data.batch, before, usable, draws)
        drawn[name] = np.array([ways[0](row) for row in found])
    return Ranking(totals, drawn, len(draws[0]) / n_cells if draws else 0.5)


def best_and_advice(data: Judged, ranking: Ranking, needed: Finding, harms: Mapping[str, Harm]) -> list[Finding]:
    """If nothing is to be corrected, the methods without correction; else the best of those that do no harm."""
    names = [name for name in data.embeddings if name not in data.seen]
    harmless = [name for name in names if harms[name].none]
    plain = [name for name in harmless if name in UNCORRECTED]
    if needed.answer in {"no", "cannot be told"} and plain:
        return _without_correction(data, ranking, needed, plain)
    usable = [name for name in names if not harms[name].excludes]
    pool = usable or names
    if correcting := [name for name in harmless if name not in UNCORRECTED]:
        best = ranking.order(correcting)[0]
        pool = harmless + [
            name
            for name in names
            if harms[name].lost and not harms[name].in_null and not keeps_better(data, best, name, harms[name])
        ]
        usable = list(dict.fromkeys([*pool, *usable]))
    return _with_correction(data, ranking, needed, harms, pool, usable)


def _scores(data: Judged, ranking: Ranking, names: Sequence[str]) -> str:
    what = f"total = {BIO_WEIGHT:g} bio + {1 - BIO_WEIGHT:g} batch"
    if data.labels is None:
        what = "mean of batch mixing and of neighbourhoods kept, as there are no labels"
    numbers = ", ".join(f"{name} {number(ranking.mean(name))}" for name in ranking.order(names))
    return f"Scores ({what}, 0 to 1): {numbers}."


def _without_correction(data: Judged, ranking: Ranking, needed: Finding, plain: list[str]) -> list[Finding]:
    either, subject = " or ".join(plain), plain[0]
    evidence = _scores(data, ranking, list(data.embeddings))
    if needed.answer == "no":
        text = f"Best: {either} will do, because there is nothing to correct."
        advice = f"Use {either}. A correction can only take something away here."
        answer = either
    else:
        text = (
            f"Which method is best cannot be told from these data. {either} will do: without correction nothing is "
            "lost."
        )
        advice = (
            f"Use {either}. Do not read a difference between batches as biology or as a batch effect until a type or "
            "a control sample was measured in both."
        )
        answer = "cannot be told"
    return [
        Finding(BEST, subject, answer, needed.confidence, text, evidence),
        Finding(ADVICE, subject, either, needed.confidence, advice),
    ]


def _with_correction(
    data: Judged,
    ranking: Ranking,
    needed: Finding,
    harms: Mapping[str, Harm],
    pool: list[str],
    usable: list[str],
) -> list[Finding]:
    order = ranking.order(pool)
    top, wins = order[0], ranking.wins(order)
    leads = {name: ranking.lead(top, name) for name in order[1:]}
    robust = wins[top] >= ROBUST * sum(wins.values())
    tied = [top, *(name for name, found in leads.items() if found.p > ALPHA or (not robust and wins[name] > 0))]
    if needed.answer == "hardly":  # of equals, those that correct nothing first
        tied.sort(key=lambda name: name not in UNCORRECTED)
    elif needed.answer == "yes":  # and where there is something to correct, those that do
        tied = [name for name in tied if name not in UNCORRECTED] or tied
    answer = " or ".join(tied)
    text = f"Best: {answer}."
    if len(tied) > 1:
        text = f"Best: {answer}; they do not differ beyond chance."
        if not robust and any(leads[name].p <= ALPHA for name in tied if name in leads):
            text = f"Best: {answer}; which of them depends on how the scores are weighted."
    text += _others(data, ranking, harms, pool, usable, top)
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


def _others(
    data: Judged, ranking: Ranking, harms: Mapping[str, Harm], pool: list[str], usable: list[str], top: str
) -> str:
    """On methods that score higher than the best, and why they are not it."""
    higher = [n for n in data.embeddings if n not in {*pool, *data.seen} and ranking.mean(n) > ranking.mean(top)]
    text = ""
    for name in ranking.order(higher):
        why = f"it blurs {few(harms[name].labels)}" if name in usable else "it does harm"
        text += f" {name} scores higher ({number(ranking.mean(name))}), but {why}."
    return text


def _advice(data: Judged, needed: Finding, tied: list[str], harms: Mapping[str, Harm]) -> str:
    plain = [name for name in tied if name in UNCORRECTED]
    if needed.answer == "hardly" and plain:
        return f"Use {' or '.join(plain)}: the batch effect is too small to need a correction."
    if len(plain) == len(tied):
        return (
            f"Use {' or '.join(plain)}, and keep the batch in every test: batches are separated, but the corrections "
            "that were tried do not improve on it."
        )
    parts = []
    for name in [name for name in tied if name not in UNCORRECTED][:2]:
        lost = set(harms[name].labels)
        keeps = [other for other in ("VAE", "PCA") if other in harms and not lost & set(harms[other].labels)]
        where = keeps[0] if keeps else data.uncorrected
        parts.append(f"{name}, but compare {few(sorted(lost))} in the {where}" if lost else name)
    return f"Use {'; or '.join(parts) if any('but' in part for part in parts) else ' or '.join(parts)}."
