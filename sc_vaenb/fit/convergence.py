"""Judge whether a fit has converged, by the quality of the embedding during the fit and not by the loss.

Under a one-cycle schedule the learning rate ends near zero, so every loss becomes flat, whatever the model has learned.
So the neighbours of cells in the embedding are scored a few times during the fit (`fit.neighborhoods`): the score says
how much they explain of counts held back, divided by what neighbours in PCA explain. The limits below were chosen on
development cases, against label accuracy after fits four times as long; docs/truth.md has the test cases.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .neighborhoods import MIN_CELLS_PER_BATCH
from .schedule import DEFAULT_RATE, one_cycle

# The score of an embedding is what its neighbours explain, divided by what neighbours in PCA explain.
LOW = 0.78  # embeddings with a lower score were worse than those of other fits, or than PCA
BELOW_PCA = 0.75  # embeddings with a lower score were worse than PCA, whatever the fit
GOOD = 0.95  # an embedding with a higher score is good, even if its score was higher before,
MIN_SHARE_OF_BEST_IF_GOOD = 0.7  # unless the score fell below this share of its highest value
MIN_SHARE_OF_BEST = 0.82  # of the highest score: embeddings that fell below were worse than those of shorter fits
MIN_SHARE_OF_BEST_UNLEARNED = 0.9  # the same, if the loss of held-out cells has risen, too
MIN_RISE = 0.03  # of the score since the two scores before; a smaller rise counts as none
STEEP_RISE = 0.15  # of the last score; a fit shorter than the default that rises by more must go on
SCORED_AT = 0.4, 0.7  # shares of the cumulative learning rate at which every fit is scored
SCORED_EARLY_AT = 0.4, 1.0  # the same for fits of many epochs, but as shares of the default fit
MANY_EPOCHS = 20
MIN_LENGTH = 0.95  # a fit of a smaller length (`fit_length`) is shorter than the default


def fit_length(n_steps: int, learning_rate: float, n_default_steps: int) -> float:
    """Length of a fit: its cumulative learning rate, divided by that of the default fit."""
    return n_steps * learning_rate / (n_default_steps * DEFAULT_RATE)


def scoring_steps(evaluation_steps: list[int], n_steps: int, length: float, n_epochs: float) -> set[int]:
    """The evaluations (by step) at which neighbours are scored during a fit; its end is scored, too."""
    early = [share / max(length, 1.0) for share in SCORED_EARLY_AT] if n_epochs >= MANY_EPOCHS else []
    cumulative_rate = np.cumsum([one_cycle(step, n_steps) for step in range(n_steps)])
    return {
        next(step for step in evaluation_steps if cumulative_rate[step] >= share * cumulative_rate[-1])
        for share in (*early, *SCORED_AT)
    }


def judge(
    steps: NDArray[np.int64],
    explained: NDArray[np.float64],
    n_steps: int,
    learning_rate: float,
    n_default_steps: int,
    n_cells: int,
    collapsed: bool = False,
    unlearned: bool = False,
) -> tuple[str, str]:
    """Status and message.

    Parameters
    ----------
    steps, explained
        The evaluations: `explained` is the score of the neighbours, NaN where they were not scored.
    n_steps, learning_rate, n_cells
        Steps, peak learning rate and number of cells of the fit.
    n_default_steps
        Steps that a fit of these cells has by default.
    collapsed
        Whether the latent state ignores the cells.
    unlearned
        Whether the loss of held-out cells is higher at the end than at the first evaluation.
    """
    is_short = fit_length(n_steps, learning_rate, n_default_steps) < MIN_LENGTH
    short_fit = _why_short(n_steps, learning_rate, n_default_steps) if is_short else ""
    if not np.isfinite(explained[-1]):
        few_cells = f"no batch has the {MIN_CELLS_PER_BATCH} cells that a search for neighbours needs"
        return "not_judged", f"Whether the fit has converged was not judged: {short_fit or few_cells}."
    is_scored = np.isfinite(explained)
    steps, explained = steps[is_scored], explained[is_scored]
    last, best = explained[-1], int(explained.argmax())
    before = explained[-3:-1].mean() if len(explained) > 2 else 0.0
    numbers = f"Neighbours in the embedding explain {last:.0%} of what neighbours in PCA explain of counts held back"
    high_rate = ""
    if learning_rate > 2 * DEFAULT_RATE:
        high_rate = f"the learning rate {learning_rate:g} is higher than the default {DEFAULT_RATE:g}"
    if collapsed:
        return "worse_than_pca", f"The embedding is worse than PCA{': ' * bool(high_rate)}{high_rate}. {numbers}."
    if last < (MIN_SHARE_OF_BEST_UNLEARNED if unlearned else MIN_SHARE_OF_BEST) * explained[best]:
        cumulative_rate = np.cumsum([one_cycle(step, n_steps) for step in range(n_steps)])
        shorter = max(round(n_steps * cumulative_rate[steps[best] - 1] / cumulative_rate[-1] / 10) * 10, 20)
        best_and_last = f"{numbers}; after step {steps[best]:,} it was {explained[best]:.0%}."
        if last >= max(GOOD, MIN_SHARE_OF_BEST_IF_GOOD * explained[best]) and not (high_rate or unlearned):
            return (
                "converged",
                f"The fit has converged, but a shorter one (n_steps={shorter}) may be better. {best_and_last}",
            )
        or_pca = ", or use PCA (sc.pp.pca), which is better than this embedding" if last < BELOW_PCA else ""
        if high_rate:
            return "overfitted", f"The embedding became worse during the fit: {high_rate}{or_pca}. {best_and_last}"
        return "overfitted", (
            f"The fit was too long: the model overfits these {n_cells:,} cells, and the embedding became worse. "
            f"Fit again with n_steps={shorter}{or_pca}. {best_and_last}"
        )
    if last < LOW and high_rate:
        return "worse_than_pca", f"The embedding is worse than PCA: {high_rate}. {numbers}."
    steep = is_short and last < GOOD and last - before > STEEP_RISE * last
    if steep or (last < LOW and (is_short or (last - before > MIN_RISE and not unlearned))):
        low_rate = learning_rate < DEFAULT_RATE / 2 and n_steps >= n_default_steps
        return "still_improving", (
            f"The embedding is still improving: raise {'learning_rate' if low_rate else 'n_steps'}. {numbers}; "
            + (f"{short_fit}." if short_fit else f"it was {before:.0%} at the two scores before.")
        )
    if last < LOW:
        return "worse_than_pca", (
            f"The embedding is worse than PCA, and a longer fit will not mend it: use PCA (sc.pp.pca). {numbers}."
        )
    if short_fit or high_rate:
        reason = short_fit or high_rate
        return "not_judged", f"Whether the fit has converged was not judged: {reason}. {numbers}."
    return "converged", f"The fit has converged. {numbers}."


def _why_short(n_steps: int, learning_rate: float, n_default_steps: int) -> str:
    """Say why a fit is shorter than the default."""
    if n_steps < n_default_steps:
        return f"{n_steps:,} steps are fewer than the {n_default_steps:,} that these data get by default"
    return f"the learning rate {learning_rate:g} is lower than the default {DEFAULT_RATE:g}"
