"""Classify cells by their embedding: fit the classifier of a model again, calibrate it and measure its accuracy."""

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

# Labels held back from the fit: at least, as a share of the known labels, and at most
MIN_CALIBRATION_CELLS, SHARE_HELD_BACK, MAX_CALIBRATION_CELLS = 50, 0.1, 1000
MIN_KNOWN_LABELS = 5 * MIN_CALIBRATION_CELLS  # with fewer known labels, none are held back
MAX_BATCHES_LEFT_OUT = 20  # batches predicted from the others; each needs its own regression
N_BINS = 15  # of the calibration error
INVERSE_PENALTY = 10.0  # of the regression; of values from 1 to 100 the best for few labels and for many


def hold_back(label: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """Cells whose labels the fit must not see, for calibration and accuracy; none if fewer than 250 are known.

    Only the labels of these cells are held back. Their counts are in the fit, as are those of the cells without labels
    that are to be predicted.
    """
    known = np.flatnonzero(label != UNKNOWN)
    if len(known) < MIN_KNOWN_LABELS:
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
    embedding: NDArray[np.float32],
    label: NDArray[np.int64],
    calibration_cells: NDArray[np.int64],
    seed: int,
    batch: NDArray[np.int64] | None = None,
) -> dict[str, float | int]:
    """Fit the classifier to the embedding, and measure how good it is.

    The fit of the model shapes the latent space, but its classifier is for latent states, and was fitted in
    few noisy steps. This function replaces it by a logistic regression on the embedding, with a temperature (Guo et al.
    2017) fitted to the labels held back. Labels predict cells of another batch less well than cells of their own batch.
    So the labels held back are predicted a second time: those of each batch from the labels of the other batches. These
    predictions determine the temperature if most cells without a label are in batches without any label.

    Parameters
    ----------
    embedding, label
        The aligned embedding (cells x dimensions) and label codes (-1 for none) of all cells.
    calibration_cells
        Cells whose labels were held back.
    batch
        Batch codes of all cells.

    Returns
    -------
    Always `n_known` (cells with a label), `n_held_back` (how many of them are calibration cells) and `temperature` (1
    without calibration cells). With calibration cells also their `accuracy` and `calibration_error`. If enough of them
    can be predicted from other batches also `accuracy_across_batches` and `calibration_error_across_batches` of these
    predictions, and `across_batches`: whether (1) or not (0) the temperature is for such predictions.
    """
    known = np.flatnonzero(label != UNKNOWN)
    scores: dict[str, float | int] = {"n_known": len(known), "n_held_back": len(calibration_cells), "temperature": 1.0}
    n_labels, rng = len(labels.classifier.bias), np.random.default_rng(seed)
    if len(calibration_cells):
        training_cells = np.setdiff1d(known, calibration_cells)
        weight, bias = _regression(embedding, label, training_cells, n_labels, rng)
        logits = embedding[calibration_cells] @ weight.T + bias
        scores["temperature"] = temperature(logits, label[calibration_cells])
        across = None
        if batch is not None:
            across = _logits_across_batches(embedding, label, training_cells, calibration_cells, batch, n_labels, rng)
        if across is not None and batch is not None:
            cells, logits_across = across
            in_unlabelled_batch = ~np.isin(batch[label == UNKNOWN], batch[known])
            scores["across_batches"] = int(in_unlabelled_batch.size > 0 and in_unlabelled_batch.mean() > 0.5)
            temperature_across = temperature(logits_across, label[cells])
            if scores["across_batches"]:
                scores["temperature"] = temperature_across
            predicted = softmax(logits_across / temperature_across, 1)
            scores["accuracy_across_batches"] = float((predicted.argmax(1) == label[cells]).mean())
            scores["calibration_error_across_batches"] = calibration_error(predicted, label[cells])
        probabilities = softmax(logits / scores["temperature"], 1)
        scores["accuracy"] = float((probabilities.argmax(1) == label[calibration_cells]).mean())
        scores["calibration_error"] = calibration_error(probabilities, label[calibration_cells])
    weight, bias = _regression(embedding, label, known, n_labels, rng)
    with torch.no_grad():
        labels.classifier.weight.copy_(torch.from_numpy(weight / scores["temperature"]))
        labels.classifier.bias.copy_(torch.from_numpy(bias / scores["temperature"]))
    return scores


def _logits_across_batches(
    embedding: NDArray[np.float32],
    label: NDArray[np.int64],
    training_cells: NDArray[np.int64],
    calibration_cells: NDArray[np.int64],
    batch: NDArray[np.int64],
    n_labels: int,
    rng: np.random.Generator,
) -> tuple[NDArray[np.int64], NDArray[np.float64]] | None:
    """Calibration cells whose label other batches have, too, and their logits from those; None if there are too few."""
    cells, logits = [], []
    for group in cells_by_code(batch[calibration_cells])[:MAX_BATCHES_LEFT_OUT]:
        left_out = calibration_cells[group]
        others = training_cells[batch[training_cells] != batch[left_out[0]]]
        left_out = left_out[np.isin(label[left_out], label[others])]
        if len(left_out) and len(np.unique(label[others])) > 1:
            weight, bias = _regression(embedding, label, others, n_labels, rng)
            cells.append(left_out)
            logits.append(embedding[left_out] @ weight.T + bias)
    if sum(map(len, cells)) < MIN_CALIBRATION_CELLS // 2:
        return None
    return np.concatenate(cells), np.concatenate(logits)


def _regression(
    embedding: NDArray[np.float32],
    label: NDArray[np.int64],
    cells: NDArray[np.int64],
    n_labels: int,
    rng: np.random.Generator,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weights (labels x dimensions) and biases of a logistic regression on some cells."""
    chosen = cells[draw_cells(label[cells], rng)]
    with shared():  # because it sets the threads of BLAS
        fitted = LogisticRegression(C=INVERSE_PENALTY, max_iter=1000).fit(
            embedding[chosen].astype(np.float64), label[chosen]
        )
    weight, bias = fitted.coef_, fitted.intercept_
    if len(fitted.classes_) == 2:  # there is one row only, for the second label against the first
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    # of labels not in `cells`
    all_weights, all_biases = (np.zeros((n_labels, embedding.shape[1])), np.full(n_labels, -30.0))
    all_weights[fitted.classes_], all_biases[fitted.classes_] = weight, bias
    return all_weights, all_biases


def temperature(logits: NDArray[np.floating], label: NDArray[np.int64]) -> float:
    """The divisor of logits with which their probabilities fit the labels best."""

    def loss(log_temperature: float) -> float:
        return -log_softmax(logits / np.exp(log_temperature), 1)[np.arange(len(label)), label].mean()

    return float(np.exp(minimize_scalar(loss, bounds=(-3, 3), method="bounded").x))


def calibration_error(probabilities: NDArray[np.floating], label: NDArray[np.int64]) -> float:
    """Expected calibration error: mean distance of accuracy and confidence, over cells.

    Cells are binned by the highest probability; the distance is that of the means of a bin.
    """
    confidence, correct = probabilities.max(1), probabilities.argmax(1) == label
    bins = np.minimum((confidence * N_BINS).astype(int), N_BINS - 1)
    gaps = np.bincount(bins, correct.astype(float) - confidence, N_BINS)
    return float(np.abs(gaps).sum() / len(label))
