"""From the share of the neighbours' votes to the probability that a label is right.

Each batch of a reference plays the query: its labelled cells are voted on by the cells of all other batches, and their
labels say how often which share of the votes is right (Platt 1999, with each batch of equal weight). Of B batches, the
fit has the weight (B - 1) / B, and the shares as they are have the rest: with few batches, the reference without one of
them is much poorer than the whole, and what one batch says need not hold for the next.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit, log_expit, logit
from scipy.stats import t

from .transfer import Reference

CLIP = 0.01  # of shares: all votes are no proof
RIDGE = 0.5  # of a cell that was right and one that was wrong: labels that are always right leave the fit finite
RANGE = 0.9  # of new batches whose share of right labels is within what is expected
MIN_CELLS = 50  # with fewer, shares of votes are left as they are


@dataclass(frozen=True)
class Confidence:
    """The probability that a label is right is expit(slope * logit(share) + intercept).

    Attributes
    ----------
    batch, n_cells, stated, right
        Of each batch that played the query: its code, cells, and the mean probability that the other batches would have
        stated for them, against the share of labels that were right.
    """

    slope: float
    intercept: float
    batch: NDArray[np.int64]
    n_cells: NDArray[np.int64]
    stated: NDArray[np.float64]
    right: NDArray[np.float64]

    def __call__(self, share: NDArray[np.floating]) -> NDArray[np.float32]:
        return _probability(share, self.slope, self.intercept).astype(np.float32)

    def expected(self, confidence: NDArray[np.floating]) -> tuple[float, float]:
        """Between which shares of the labels are right in a new batch, in nine of ten cases.

        Batches differ: what was stated for those of the reference missed by so much, and a new batch is one more draw
        (a normal distribution around the mean confidence, whose variance comes from these batches alone).
        """
        miss = t.ppf(0.5 + RANGE / 2, len(self.batch)) * np.sqrt(np.mean((self.right - self.stated) ** 2))
        mean = float(np.mean(confidence))
        return max(mean - miss, 0.0), min(mean + miss, 1.0)


def calibrate(reference: Reference, k: int) -> Confidence | None:
    """From the votes on the batches of a reference; None where too few labels are in two batches or more."""
    label, share = reference.votes(k)
    truth, batch = reference.label[reference.sample], reference.batch[reference.sample]
    usable = (label >= 0) & (reference.n_batches()[truth] > 1) & _elsewhere(reference)[batch, truth]
    if usable.sum() < MIN_CELLS:
        return None
    share, right, batch = share[usable], (label == truth)[usable], batch[usable]
    codes, at, size = np.unique(batch, return_inverse=True, return_counts=True)
    slope, intercept = _fit(share, right, at)
    stated = np.empty(len(codes))
    for i in range(len(codes)):
        mine = at == i
        stated[i] = _probability(share[mine], *_fit(share[~mine], right[~mine], at[~mine])).mean()
    return Confidence(slope, intercept, codes, size, stated, np.bincount(at, right) / size)


def _elsewhere(reference: Reference) -> NDArray[np.bool_]:
    """Whether other batches have a label (batches x labels)."""
    table = np.zeros((reference.batch.max() + 1, reference.n_labels), np.int64)
    np.add.at(table, (reference.batch, reference.label), 1)
    return (table.sum(0) - table) > 0


def _probability(share: NDArray[np.floating], slope: float, intercept: float) -> NDArray[np.float64]:
    return expit(slope * logit(np.clip(share, CLIP, 1 - CLIP)) + intercept)


def _fit(share: NDArray[np.floating], right: NDArray[np.bool_], batch: NDArray[np.integer]) -> tuple[float, float]:
    """Slope (not negative) and intercept, drawn towards 1 and 0."""
    size = np.bincount(batch)
    n_batches = np.count_nonzero(size)
    if n_batches < 2:
        return 1.0, 0.0
    x, sign = logit(np.clip(share, CLIP, 1 - CLIP)), np.where(right, 1.0, -1.0)
    weight = 1 / (n_batches * size[batch])

    def loss(parts: NDArray[np.float64]) -> float:
        doubt = RIDGE / len(x) * (log_expit(parts[0] + parts[1]) + log_expit(-parts[0] - parts[1]))
        return -float((weight * log_expit(sign * (parts[0] * x + parts[1]))).sum() + doubt)

    slope, intercept = minimize(loss, [1.0, 0.0], bounds=[(0, 5), (-10, 10)], method="L-BFGS-B").x
    trust = (n_batches - 1) / n_batches
    return trust * float(slope) + 1 - trust, trust * float(intercept)
