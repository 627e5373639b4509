"""From latent states to labels, once a model is fitted: its classifier fitted to the end, calibrated and judged."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from sklearn.linear_model import LogisticRegression

from .._session import shared
from ..data.counts import cells_by_code
from ..model.labels import UNKNOWN, Labels
from .align import draw_cells
from .split import split

MIN_CALIBRATION_CELLS, SHARE_HELD_BACK, MAX_CALIBRATION_CELLS = (
    50,
    0.1,
    1000,
)  # labels held back from the fit: at least, of those known, and at most
ENOUGH = 5 * MIN_CALIBRATION_CELLS  # known labels; with fewer all go into the fit
MAX_BATCHES_LEFT_OUT = 20  # batches, each of which is a regression on the labels of the others
BINS = 15  # of the calibration error
STRENGTH = 10.0  # of the regression (the inverse of its penalty): of 1 to 100 best for few labels and many


def hold_back(label: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """Cells whose labels the fit must not see, to calibrate and judge by: none where fewer than 250 are known.

    Only their labels are held back. Unlabelled cells, which are to be predicted, have their counts in the fit too.
    """
    known = np.flatnonzero(label != UNKNOWN)
    if len(known) < ENOUGH:
        return known[:0]
    return known[
        split(
            label[known],
            max(SHARE_HELD_BACK, MIN_CALIBRATION_CELLS / len(known)),
            MAX_CALIBRATION_CELLS,
            np.random.default_rng(seed),
        )[1]
    ]


def classify(
    labels: Labels,
    latent: NDArray[np.float32],
    label: NDArray[np.int64],
    calibration_cells: NDArray[np.int64],
    seed: int,
    batch: NDArray[np.int64] | None = None,
) -> dict[str, float | int]:
    """Fit the classifier to latent states as they are used (aligned), and say how good it is.

    The fit of the model shapes the latent space, but leaves a classifier of states before alignment, fitted in few
    noisy steps. What is written is a logistic regression on the states, with a temperature (Guo et al. 2017) that the
    labels held back from the fit choose. Labels of one batch say less of the cells of another than of its own. So the
    labels held back are predicted a second time, those of each batch by the labels of the others. These choose the
    temperature where most cells without a label are in batches without any.

    Parameters
    ----------
    latent, label
        Of all cells (cells x dimensions; codes, -1 for none).
    calibration_cells
        Cells whose labels were held back.
    batch
        Of all cells (codes).

    Returns
    -------
    `n_known` (cells with a label), `n_held_back` (of them), `temperature` (1 without calibration cells), and with these
    their `accuracy` and `calibration_error`; with calibration cells in two batches or more also
    `accuracy_across_batches` and `calibration_error_across_batches`, predicted from other batches, and
    `across_batches`, whether (1) or not (0) the temperature is for such predictions.
    """
    known = np.flatnonzero(label != UNKNOWN)
    scores: dict[str, float | int] = {"n_known": len(known), "n_held_back": len(calibration_cells), "temperature": 1.0}
    n_labels, rng = len(labels.classifier.bias), np.random.default_rng(seed)
    if len(calibration_cells):
        fitted = np.setdiff1d(known, calibration_cells)
        weight, bias = _regression(latent, label, fitted, n_labels, rng)
        logits = latent[calibration_cells] @ weight.T + bias
        scores["temperature"] = temperature(logits, label[calibration_cells])
        across = _across(latent, label, fitted, calibration_cells, batch, n_labels, rng) if batch is not None else None
        if across is not None and batch is not None:
            cells, found = across
            elsewhere = ~np.isin(batch[label == UNKNOWN], batch[known])
            scores["across_batches"] = int(elsewhere.size > 0 and elsewhere.mean() > 0.5)
            divisor = temperature(found, label[cells])
            if scores["across_batches"]:
                scores["temperature"] = divisor
            predicted = softmax(found / divisor, 1)
            scores["accuracy_across_batches"] = float((predicted.argmax(1) == label[cells]).mean())
            scores["calibration_error_across_batches"] = calibration_error(predicted, label[cells])
        probabilities = softmax(logits / scores["temperature"], 1)
        scores["accuracy"] = float((probabilities.argmax(1) == label[calibration_cells]).mean())
        scores["calibration_error"] = calibration_error(probabilities, label[calibration_cells])
    weight, bias = _regression(latent, label, known, n_labels, rng)
    with torch.no_grad():
        labels.classifier.weight.copy_(torch.from_numpy(weight / scores["temperature"]))
        labels.classifier.bias.copy_(torch.from_numpy(bias / scores["temperature"]))
    return scores


def _across(
    latent: NDArray[np.float32],
    label: NDArray[np.int64],
    fitted: NDArray[np.int64],
    calibration_cells: NDArray[np.int64],
    batch: NDArray[np.int64],
    n_labels: int,
    rng: np.random.Generator,
) -> tuple[NDArray[np.int64], NDArray[np.float64]] | None:
    """Judges whose label other batches have too, and their logits from these; None if they are too few."""
    cells, logits = [], []
    for group in cells_by_code(batch[calibration_cells])[:MAX_BATCHES_LEFT_OUT]:
        own = calibration_cells[group]
        others = fitted[batch[fitted] != batch[own[0]]]
        own = own[np.isin(label[own], label[others])]
        if len(own) and len(np.unique(label[others])) > 1:
            weight, bias = _regression(latent, label, others, n_labels, rng)
            cells.append(own)
            logits.append(latent[own] @ weight.T + bias)
    if sum(map(len, cells)) < MIN_CALIBRATION_CELLS // 2:
        return None
    return np.concatenate(cells), np.concatenate(logits)


def _regression(
    latent: NDArray[np.float32],
    label: NDArray[np.int64],
    cells: NDArray[np.int64],
    n_labels: int,
    rng: np.random.Generator,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weights (labels x dimensions) and biases of a logistic regression on some cells."""
    chosen = cells[draw_cells(label[cells], rng)]
    with shared():  # it sets the threads of BLAS
        found = LogisticRegression(C=STRENGTH, max_iter=1000).fit(latent[chosen].astype(np.float64), label[chosen])
    weight, bias = found.coef_, found.intercept_
    if len(found.classes_) == 2:  # one row, for the second label against the first
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    full = np.zeros((n_labels, latent.shape[1])), np.full(n_labels, -30.0)  # labels that these cells lack
    full[0][found.classes_], full[1][found.classes_] = weight, bias
    return full


def temperature(logits: NDArray[np.floating], label: NDArray[np.int64]) -> float:
    """What logits must be divided by, so that their probabilities fit the labels best."""

    def loss(log_temperature: float) -> float:
        return -log_softmax(logits / np.exp(log_temperature), 1)[np.arange(len(label)), label].mean()

    return float(np.exp(minimize_scalar(loss, bounds=(-3, 3), method="bounded").x))


def calibration_error(probabilities: NDArray[np.floating], label: NDArray[np.int64]) -> float:
    """Mean distance of what is promised from what comes true, over cells in bins of their highest probability."""
    promised, right = probabilities.max(1), probabilities.argmax(1) == label
    in_bin = np.minimum((promised * BINS).astype(int), BINS - 1)
    gaps = np.bincount(in_bin, right.astype(float) - promised, BINS)
    return float(np.abs(gaps).sum() / len(label))
