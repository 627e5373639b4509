"""Has a fit converged? Judged by what the embedding is worth while the learning rate is still high, not by the loss.

Under a one-cycle schedule the learning rate ends at nearly zero, so that every loss settles, whatever was learned. So
the neighbours of cells in the embedding are looked at a few times during the fit (`fit.neighborhoods`): how much they
explain of counts that were held back, as a share of what neighbours in PCA explain. The limits below were chosen on
development cases, against label accuracy after fits four times as long; docs/truth.md has the cases kept aside.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .neighborhoods import MIN_CELLS_PER_BATCH
from .schedule import DEFAULT_RATE, one_cycle

LOW = 0.78  # of what PCA explains: embeddings below were worse than those of other fits, or than PCA
BELOW_PCA = 0.75  # embeddings below were worse than PCA, whatever the fit
GOOD = 0.95  # of what PCA explains: an embedding above has not become bad, even if it was better,
FALLEN_FAR = 0.7  # unless it fell below this share of its highest value
FALLEN = 0.82  # of its highest value: embeddings that fell below were worse than those of shorter fits
FALLEN_UNLEARNED = 0.9  # the same, where held-out cells say so as well
FLAT = 0.03  # a smaller rise since the looks before is none
STEEP = 0.15  # of the last value: a larger rise, of a fit that trains less than the default, is not over
EVALUATED_AT = 0.4, 0.7  # of the cumulative learning rate: looks in every fit
EARLY = 0.4, 1.0  # looks of fits that pass over the cells often, in units of the training that is the default
OFTEN = 20  # passes over the cells
ALMOST = 0.95  # of the default training is as good as all of it


def training_share(n_steps: int, learning_rate: float, usual: int) -> float:
    """The cumulative learning rate of a fit as a share of that of the default fit, of `usual` steps."""
    return n_steps * learning_rate / (usual * DEFAULT_RATE)


def look_steps(due: list[int], n_steps: int, training: float, n_epochs: float) -> set[int]:
    """The steps (of those that are due) after which the neighbours are looked at, beside the end of the fit."""
    early = [share / max(training, 1.0) for share in EARLY] if n_epochs >= OFTEN else []
    done = np.cumsum([one_cycle(step, n_steps) for step in range(n_steps)])
    return {next(step for step in due if done[step] >= share * done[-1]) for share in (*early, *EVALUATED_AT)}


def judge(
    steps: NDArray[np.int64],
    explained: NDArray[np.float64],
    n_steps: int,
    learning_rate: float,
    usual: int,
    n_cells: int,
    collapsed: bool = False,
    unlearned: bool = False,
) -> tuple[str, str]:
    """Status and message.

    Parameters
    ----------
    steps, explained
        The looks: `explained` is NaN where neighbours were not looked at.
    n_steps, learning_rate, n_cells
        Of the fit.
    usual
        Steps that these cells get by default.
    collapsed
        The latent state ignores the cells.
    unlearned
        Cells that were held out are described worse at the end than at the first look.
    """
    training = training_share(n_steps, learning_rate, usual)
    less = _less_than_usual(n_steps, learning_rate, usual) if training < ALMOST else ""
    if not np.isfinite(explained[-1]):
        few = f"no batch has the {MIN_CELLS_PER_BATCH} cells that neighbours are looked for among"
        return "not_judged", f"Whether the fit has converged was not judged: {less or few}."
    looked = np.isfinite(explained)
    steps, explained = steps[looked], explained[looked]
    last, best = explained[-1], int(explained.argmax())
    before = explained[-3:-1].mean() if len(explained) > 2 else 0.0
    numbers = f"Neighbours in the embedding explain {last:.0%} of what neighbours in PCA explain of counts held back"
    high = ""
    if learning_rate > 2 * DEFAULT_RATE:
        high = f"the learning rate {learning_rate:g} is higher than the default {DEFAULT_RATE:g}"
    if collapsed:
        return "worse_than_pca", f"The embedding is worse than PCA{': ' * bool(high)}{high}. {numbers}."
    if last < (FALLEN_UNLEARNED if unlearned else FALLEN) * explained[best]:
        cycle = np.cumsum([one_cycle(step, n_steps) for step in range(n_steps)])
        shorter = max(round(n_steps * cycle[steps[best] - 1] / cycle[-1] / 10) * 10, 20)
        then = f"{numbers}; after step {steps[best]:,} it was {explained[best]:.0%}."
        if last >= max(GOOD, FALLEN_FAR * explained[best]) and not (high or unlearned):
            return "converged", f"The fit has converged, but a shorter one (n_steps={shorter}) may be better. {then}"
        other = ", or use PCA (sc.pp.pca), which is better than this embedding" if last < BELOW_PCA else ""
        if high:
            return "overfitted", f"The embedding became worse during the fit: {high}{other}. {then}"
        return "overfitted", (
            f"The fit was too long: the model overfits these {n_cells:,} cells, and the embedding became worse. "
            f"Fit again with n_steps={shorter}{other}. {then}"
        )
    if last < LOW and high:
        return "worse_than_pca", f"The embedding is worse than PCA: {high}. {numbers}."
    steep = bool(less) and last < GOOD and last - before > STEEP * last
    if steep or (last < LOW and (less or (last - before > FLAT and not unlearned))):
        slow = learning_rate < DEFAULT_RATE / 2 and n_steps >= usual
        return "still_improving", (
            f"More training will improve the embedding: raise {'learning_rate' if slow else 'n_steps'}. {numbers}; "
            + (f"{less}." if less else f"it was {before:.0%} at the looks before.")
        )
    if last < LOW:
        return "worse_than_pca", (
            f"The embedding is worse than PCA, and more training will not mend it: use PCA (sc.pp.pca). {numbers}."
        )
    if less or high:
        return "not_judged", f"Whether the fit has converged was not judged: {less or high}. {numbers}."
    return "converged", f"The fit has converged. {numbers}."


def _less_than_usual(n_steps: int, learning_rate: float, usual: int) -> str:
    """Of a fit that trains less, in words."""
    if n_steps < usual:
        return f"{n_steps:,} steps are fewer than the {usual:,} that these data get by default"
    return f"the learning rate {learning_rate:g} is lower than the default {DEFAULT_RATE:g}"
