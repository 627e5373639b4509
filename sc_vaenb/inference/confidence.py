"""Calibrated confidence: the probability that a label is right, computed from the share of the neighbours' votes.

Each batch of the reference plays the query in turn: the cells of all other batches vote on the labels of its cells. The
known labels show how often a share of the votes is right (Platt 1999, with equal weight for each batch).

With B batches, the fit has the weight (B - 1) / B, and the uncalibrated shares have the rest, where these are lower.
The reason: with few batches, the reference without one of them is much poorer than the whole, and the fit may not hold
for the next batch. Where the fit is lower than the shares, it is taken as it is: neighbours also agree where the query
has not measured what tells the labels apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit, log_expit, logit
from scipy.stats import t

from .transfer import Reference

CLIP = 0.01  # shares lie between this and 1 - this: all votes are no proof
RIDGE = 0.5  # weight of one correct and one wrong pseudo-cell: keeps the fit finite if all labels are right
COVERAGE = 0.9  # share of new batches whose share of right labels is within the expected range
MIN_CELLS = 50  # with fewer, the confidence cannot be calibrated


class Curve(NamedTuple):
    """From a share of the votes to a probability, on the logit scale: slope (not negative), intercept, weight."""

    slope: float
    intercept: float
    weight: float

    def __call__(self, share: NDArray[np.floating]) -> NDArray[np.float64]:
        x = logit(np.clip(share, CLIP, 1 - CLIP))
        fitted = self.slope * x + self.intercept
        return expit(np.minimum(fitted, self.weight * fitted + (1 - self.weight) * x))


@dataclass(frozen=True)
class Confidence:
    """The probability that a label is right.

    Attributes
    ----------
    curve
        How it follows from the share of the votes.
    batch, n_cells, stated, right
        For each batch that played the query: its code, its number of cells, the mean probability that the other batches
        would have stated for its labels, and the share of labels that were right.
    """

    curve: Curve
    batch: NDArray[np.int64]
    n_cells: NDArray[np.int64]
    stated: NDArray[np.float64]
    right: NDArray[np.float64]

    def __call__(self, share: NDArray[np.floating]) -> NDArray[np.float32]:
        return self.curve(share).astype(np.float32)

    def expected(self, confidence: NDArray[np.floating]) -> tuple[float, float]:
        """Range of the share of right labels in a new batch, in nine of ten cases.

        Batches differ. The errors of the stated confidence in the reference batches give the variance of a normal
        distribution around the mean confidence, and a new batch is one more draw from it.
        """
        margin = t.ppf(0.5 + COVERAGE / 2, len(self.batch)) * np.sqrt(np.mean((self.right - self.stated) ** 2))
        mean = float(np.mean(confidence))
        return max(mean - margin, 0.0), min(mean + margin, 1.0)


def calibrate(reference: Reference, k: int) -> Confidence | None:
    """Calibrate on the batches of a reference; None if too few cells have a label that two batches or more have."""
    label, share = reference.votes(k)
    truth, batch = reference.label[reference.sample], reference.batch[reference.sample]
    usable = (label >= 0) & (reference.n_batches()[truth] > 1) & _in_other_batches(reference)[batch, truth]
    if usable.sum() < MIN_CELLS:
        return None
    share, right, batch = share[usable], (label == truth)[usable], batch[usable]
    codes, batch, n_cells = np.unique(batch, return_inverse=True, return_counts=True)
    curve = _fit(share, right, batch)
    stated = np.empty(len(codes))
    for i in range(len(codes)):
        in_batch = batch == i
        stated[i] = _fit(share[~in_batch], right[~in_batch], batch[~in_batch])(share[in_batch]).mean()
    return Confidence(curve, codes, n_cells, stated, np.bincount(batch, right) / n_cells)


def _in_other_batches(reference: Reference) -> NDArray[np.bool_]:
    """Whether batches other than this one have a label (batches x labels)."""
    n_cells = reference.n_cells()
    return n_cells.sum(0) > n_cells


def _fit(share: NDArray[np.floating], right: NDArray[np.bool_], batch: NDArray[np.integer]) -> Curve:
    n_cells = np.bincount(batch)
    n_batches = np.count_nonzero(n_cells)
    if n_batches < 2:
        return Curve(1.0, 0.0, 0.0)
    x, sign = logit(np.clip(share, CLIP, 1 - CLIP)), np.where(right, 1.0, -1.0)
    weight = 1 / (n_batches * n_cells[batch])

    def loss(params: NDArray[np.float64]) -> float:
        slope, intercept = params
        pseudo_cells = RIDGE / len(x) * (log_expit(slope + intercept) + log_expit(-slope - intercept))
        return -float((weight * log_expit(sign * (slope * x + intercept))).sum() + pseudo_cells)

    slope, intercept = minimize(loss, [1.0, 0.0], bounds=[(0, 5), (-10, 10)], method="L-BFGS-B").x
    return Curve(float(slope), float(intercept), (n_batches - 1) / n_batches)
