"""Novel cells: which cells of a query are of a type that the reference lacks? Conformal p-values.

Two statistics measure how much a cell differs from its predicted label: its distance to the nearest cells of this
label in the embedding, and the difference in expression between its neighbourhood (the most similar cells of its
own batch) and the label. The second statistic sees genes that the latent space does not: an encoder places a type that
it has never seen on a type that it knows.

Both statistics are compared with those of labelled cells of the reference, where each batch plays the query in turn
(conformal p-values: Bates et al. 2023, Annals of Statistics). A batch effect that all types share is subtracted: it is
the median over the predicted types of the batch, as in genomic control (Devlin & Roeder 1999).

Cells of one batch and label are also compared as a group (`groups`). `Novelty.left_out` says which labels would go
unnoticed as new because a close relative hides them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.stats import false_discovery_control
from sklearn.decomposition import TruncatedSVD
from sklearn.metrics import roc_auc_score

from .._session import shared
from .groups import MIN_CELLS_IN_GROUP, MIN_TYPES, GroupComparison, root_share
from .transfer import Reference, nearest, vote

NEIGHBORHOOD_SIZE = 15  # cells whose expression is pooled: fewer are noisy, more reach into other types
N_COMPONENTS = 15  # principal components of log expression, in which the neighbours within a batch are searched
MAX_CELLS_IN_BLOCK = 4_000  # cells among which neighbourhoods are searched: the cost is quadratic
MIN_PREDICTED = 10  # cells of a batch with one predicted type, for this type to count in the batch effect
MIN_CALIBRATION = 19  # cells: with fewer, no p-value can be below 0.05
MIN_CELLS_LEFT_OUT = 20  # cells of a label, to leave it out


class LeftOut(NamedTuple):
    """What would happen to the cells of each label if the reference lacked this label.

    Attributes
    ----------
    n_cells
        Number of cells of the label that were tried; 0 if the label has too few.
    called
        Code of the label that most of these cells would get.
    auroc
        Of the statistic, for distinguishing these cells from cells of the other labels.
    found
        Share of these cells with a p-value below 0.05, if batch effects differ between types as in the query.
    noticed
        Share of the batches with the label in which its cells would differ as a group from the label they would get.
    """

    n_cells: NDArray[np.int64]
    called: NDArray[np.int64]
    auroc: NDArray[np.float64]
    found: NDArray[np.float64]
    noticed: NDArray[np.float64]


class BatchNovelty(NamedTuple):
    """Results for the cells of one batch of a query.

    Attributes
    ----------
    p
        P-values of the cells, NaN where the label has too few cells for calibration.
    enough_types
        Whether the batch has cells of enough types to distinguish a batch effect from a new type.
    difference
        Squared difference of the cells of each label, as a group, from this label. It is divided by that of the most
        different batch of the reference. NaN with too few cells or batches. See `groups`.
    differs
        Whether this difference is large, also compared with the other labels of the batch.
    """

    p: NDArray[np.float64]
    enough_types: bool
    difference: NDArray[np.float64]
    differs: NDArray[np.bool_]


class Novelty:
    """Statistics and p-values of cells of a query, calibrated on a reference.

    Attributes
    ----------
    n_calibration
        Number of reference cells behind the p-values of each label.
    """

    def __init__(self, reference: Reference, k: int, seed: int) -> None:
        self.reference, self.k, self.seed = reference, k, seed
        self.label = reference.label[reference.sample]
        self.batch = reference.batch[reference.sample]
        self.in_several_batches = reference.n_batches() > 1  # labels that can be searched in other batches
        self.groups = GroupComparison(reference, seed)
        n_labels = reference.n_labels
        self.expression = None
        if reference.counts is not None:
            self.expression = np.empty(reference.counts.shape, np.float32)
            for cells in reference.parts():
                self.expression[cells] = pooled_expression(reference.counts[cells], seed)
        voted = reference.votes(k)[0]
        # Other batches cannot vote for a label that only one batch has. Its cells keep their label, and are compared
        # with each other.
        self.predicted = np.where(self.in_several_batches[self.label], voted, self.label)
        self.is_correct = self.predicted == self.label
        statistics = np.full((len(self.label), 1 if self.expression is None else 2), np.nan)
        self.batch_shift: dict[int, NDArray[np.float32] | float] = {}  # batch effect on expression
        for cells in reference.parts():
            batch = int(self.batch[cells[0]])
            expression = None if self.expression is None else self.expression[cells]
            statistics[cells], self.batch_shift[batch] = self._statistics(
                reference.sample_embedding[cells], expression, self.predicted[cells], batch
            )
        self.center, self.scale = np.full((2, n_labels, statistics.shape[1]), np.nan)  # labels x statistics
        for label in range(n_labels):
            values = statistics[self.is_correct & (self.label == label)]
            values = values[np.isfinite(values).all(1)]
            if len(values) >= MIN_CALIBRATION:
                low, self.center[label], high = np.quantile(values, [0.16, 0.5, 0.84], axis=0)
                self.scale[label] = (high - low) / 2 + 1e-6
        z = self._standardised(statistics, self.predicted)
        self.inflation: dict[int, tuple[NDArray, NDArray]] = {}  # of each batch: center and scale
        self.score = np.full(len(z), np.nan)
        for cells in reference.parts():
            correct_labels = np.where(self.is_correct[cells], self.predicted[cells], -1)
            center, scale = _inflation(z[cells], correct_labels)
            self.inflation[int(self.batch[cells[0]])] = center, scale
            self.score[cells] = ((z[cells] - center) / scale).max(1)
        self.calibration = [np.sort(self._calibration_scores(label)) for label in range(n_labels)]
        self.max_query_scale = np.ones(statistics.shape[1])  # over the batches of the query so far
        self.n_calibration = np.array([len(scores) for scores in self.calibration])

    def _calibration_scores(self, label: int) -> NDArray[np.float64]:
        scores = self.score[self.is_correct & (self.label == label)]
        return scores[np.isfinite(scores)]

    def __call__(
        self, embedding: NDArray[np.float32], counts: sparse.csr_matrix | None, predicted: NDArray[np.int64]
    ) -> BatchNovelty:
        """Results for the cells of one batch of a query."""
        has_counts = counts is not None and self.expression is not None
        expression = pooled_expression(counts, self.seed) if has_counts else None
        z = self._standardised(self._statistics(embedding, expression, predicted, None)[0], predicted)
        center, scale = _inflation(z, predicted)
        n_labels = self.reference.n_labels
        is_present = np.bincount(predicted[np.isfinite(z).all(1)], minlength=n_labels) >= MIN_PREDICTED
        self.max_query_scale = np.maximum(self.max_query_scale, scale)
        difference, differs = np.full(n_labels, np.nan), np.zeros(n_labels, bool)
        if has_counts:
            squared = self.groups.differences(np.arange(len(embedding)), counts, predicted, None)
            difference, differs = self.groups.relative(squared, None)
        p = self._p_values(((z - center) / scale).max(1), predicted)
        return BatchNovelty(p, bool(is_present.sum() >= MIN_TYPES), difference, differs)

    def left_out(self) -> LeftOut:
        """Leave each label out of the reference once.

        To be called after the query: batch effects of the query hide new types, and are taken into account.
        """
        n_labels, rng = self.reference.n_labels, np.random.default_rng(self.seed)
        result = LeftOut(
            np.zeros(n_labels, np.int64), np.full(n_labels, -1), *(np.full(n_labels, np.nan) for _ in range(3))
        )
        for label in range(n_labels):
            cells = rng.permutation(np.flatnonzero(self.label == label))
            others = self.is_correct & (self.label != label) & np.isfinite(self.score)
            if len(cells) < MIN_CELLS_LEFT_OUT or not others.any():
                continue
            score, query_score, called = self._scores_without(label, cells)
            p = self._p_values(query_score, called)
            result.n_cells[label], result.called[label] = len(cells), np.bincount(called).argmax()
            truth = np.repeat([True, False], [len(cells), others.sum()])
            result.auroc[label] = roc_auc_score(truth, np.concatenate([score, self.score[others]]))
            result.found[label] = (p < 0.05).mean()
            result.noticed[label] = self._noticed(label, cells, called)
        return result

    def _noticed(self, label: int, cells: NDArray[np.int64], called: NDArray[np.int64]) -> float:
        """Share of the batches in which the cells of a left-out label would differ as a group; NaN if not known."""
        noticed = []
        for batch in np.unique(self.batch[cells]):
            in_batch = self.batch[cells] == batch
            if in_batch.sum() < MIN_CELLS_IN_GROUP:
                continue
            main_label = np.bincount(called[in_batch]).argmax()  # the label that most of these cells would get
            other_cells = (self.batch == batch) & (self.label != label)
            same_call = np.flatnonzero(other_cells & (self.predicted == main_label))
            rest = np.flatnonzero(other_cells & (self.label != main_label) & self.in_several_batches[self.label])
            group = np.concatenate([cells[in_batch & (called == main_label)], same_call])
            labels = np.concatenate([np.full(len(group), main_label), self.label[rest]])
            squared = self.groups.differences(np.concatenate([group, rest]), None, labels, int(batch))
            ratio, differs = self.groups.relative(squared, int(batch))
            if np.isfinite(ratio[main_label]):
                noticed.append(differs[main_label])
        return float(np.mean(noticed)) if noticed else float("nan")

    def _scores_without(
        self, label: int, cells: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
        """Results for cells of a label if the reference lacked it.

        Returns their scores in the reference, their scores with the batch effects of the query, and the labels that
        they would get.
        """
        reference = self.reference
        score, query_score, called = np.empty(len(cells)), np.empty(len(cells)), np.empty(len(cells), np.int64)
        for batch in np.unique(self.batch[cells]):
            in_batch = self.batch[cells] == batch
            batch_cells = cells[in_batch]
            voters = np.flatnonzero((reference.batch != batch) & (reference.label != label))
            if not len(voters):
                voters = np.flatnonzero(reference.label != label)
            distance, neighbors = nearest(reference.sample_embedding[batch_cells], reference.embedding[voters], self.k)
            called[in_batch] = vote(distance, reference.label[voters][neighbors])[0]
            statistics, _ = self._statistics(
                reference.sample_embedding[batch_cells],
                None if self.expression is None else self.expression[batch_cells],
                called[in_batch],
                int(batch),
                self.batch_shift[int(batch)],
            )
            center, scale = self.inflation[int(batch)]
            z = self._standardised(statistics, called[in_batch]) - center
            score[in_batch] = (z / scale).max(1)
            query_score[in_batch] = (z / np.maximum(scale, self.max_query_scale)).max(1)
        return np.nan_to_num(score, nan=-1e3), query_score, called

    def _statistics(
        self,
        embedding: NDArray[np.float32],
        expression: NDArray[np.float32] | None,
        predicted: NDArray[np.int64],
        batch: int | None,
        shift: NDArray[np.float32] | float | None = None,
    ) -> tuple[NDArray[np.float64], NDArray[np.float32] | float]:
        """Logarithms of the statistics of cells of one batch, and the batch effect on their expression.

        `batch` is the batch of these cells in the reference, None for cells of a query. Cells of the reference are
        compared with other batches only. `shift` is the batch effect if it is known, else it is estimated.
        """
        reference, labels = self.reference, [label for label in np.unique(predicted) if label >= 0]
        statistics = np.full((len(embedding), 1 if self.expression is None else 2), np.nan)
        for label in labels:
            cells = predicted == label
            candidates, n_self = reference.label == label, 0
            if batch is not None and self.in_several_batches[label]:
                candidates = candidates & (reference.batch != batch)
            elif batch is not None:
                n_self = 1  # the nearest cell is the cell itself
            if candidates.sum() > n_self:
                distance = nearest(embedding[cells], reference.embedding[candidates], self.k + n_self)[0][:, n_self:]
                statistics[cells, 0] = np.log(distance.mean(1) + 1e-9)
        if expression is None or self.groups.profiles is None:
            distances = statistics[:, :1]
            return distances if self.expression is None else np.repeat(distances, 2, 1), 0.0
        expected = {label: self.groups.profile(label, batch) for label in labels}
        if shift is None:
            shifts = [
                _typical(expression[predicted == label], expected[label]) - expected[label]
                for label in labels
                if (predicted == label).sum() >= MIN_PREDICTED and np.isfinite(expected[label]).all()
            ]
            shift = np.median(np.stack(shifts), axis=0) if shifts else 0.0
        for label in labels:
            cells = predicted == label
            squared = ((expression[cells] - expected[label] - shift) ** 2).sum(1)
            statistics[cells, 1] = np.log(squared.astype(np.float64) + 1e-9)
        return statistics, shift

    def _standardised(self, statistics: NDArray[np.float64], predicted: NDArray[np.int64]) -> NDArray[np.float64]:
        """Statistics relative to the center and scale of the reference cells with the same label."""
        z = (statistics - self.center[predicted]) / self.scale[predicted]
        return np.where((predicted >= 0)[:, None], z, np.nan)

    def _p_values(self, score: NDArray[np.float64], predicted: NDArray[np.int64]) -> NDArray[np.float64]:
        p = np.full(len(score), np.nan)
        for label in np.unique(predicted):
            calibration, cells = self.calibration[label], (predicted == label) & np.isfinite(score)
            if len(calibration) >= MIN_CALIBRATION:
                n_larger = len(calibration) - np.searchsorted(calibration, score[cells], side="left")
                p[cells] = (1 + n_larger) / (1 + len(calibration))
        return p


def _typical(expression: NDArray[np.float32], expected: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mean of the half of the cells that are closest to the expected expression: the others may be of a new type."""
    squared = ((expression - expected) ** 2).sum(1)
    return expression[squared <= np.median(squared)].mean(0)


def _inflation(z: NDArray[np.float64], predicted: NDArray[np.int64]) -> tuple[NDArray, NDArray]:
    """Center and scale of a batch's statistics: the median of the types' medians, and how much these medians differ.

    The scale is needed because no batch effect is the same for all types: a new type must stand out from the others.
    """
    groups = [z[predicted == label] for label in np.unique(predicted[predicted >= 0])]
    medians = [np.median(g, axis=0) for g in groups if len(g) >= MIN_PREDICTED and np.isfinite(g).all()]
    if not medians:
        return np.zeros(z.shape[1]), np.ones(z.shape[1])
    center = np.median(medians, axis=0)
    deviation = 1.4826 * np.median(np.abs(np.stack(medians) - center), axis=0)
    return center, np.sqrt(1 + deviation**2)


def pooled_expression(counts: sparse.csr_matrix, seed: int) -> NDArray[np.float32]:
    """Square roots of the genes' shares in the neighbourhood of each cell, for the cells of one batch (cells x genes).

    Neighbours are searched in the principal components of log expression. The squared distance of two rows is
    proportional to their squared Hellinger distance; sampling noise is the same for genes of all expression levels.
    """
    pooled = np.empty(counts.shape, np.float32)
    order = np.random.default_rng(seed).permutation(counts.shape[0])
    n_blocks = -(-counts.shape[0] // MAX_CELLS_IN_BLOCK)
    for cells in np.array_split(order, n_blocks):
        cells = np.sort(cells)
        block = counts[cells]
        components = _components(block, seed)
        _, neighbors = nearest(components, components, NEIGHBORHOOD_SIZE)
        rows = np.repeat(np.arange(len(cells)), neighbors.shape[1])
        ones = np.ones(neighbors.size, np.float32)
        adjacency = sparse.csr_matrix((ones, (rows, neighbors.ravel())), shape=(len(cells), len(cells)))
        pooled[cells] = root_share((adjacency @ block).toarray())
    return pooled


def _components(counts: sparse.csr_matrix, seed: int) -> NDArray[np.float32]:
    logged, depth = counts.astype(np.float32), np.asarray(counts.sum(1)).ravel()
    scale = np.maximum(depth, 1) / max(float(np.median(depth)), 1)
    logged.data = np.log1p(logged.data / np.repeat(scale, np.diff(logged.indptr)).astype(np.float32))
    n = min(N_COMPONENTS + 1, min(counts.shape) - 1)  # the first is the mean
    if n < 1:
        return logged.toarray()
    with shared():  # TruncatedSVD sets the BLAS threads
        return TruncatedSVD(n, n_iter=3, random_state=seed % 2**32).fit_transform(logged).astype(np.float32)


def discoveries(p: NDArray[np.float64], rate: float) -> NDArray[np.bool_]:
    """Whether each p-value is significant at this false discovery rate (Benjamini & Hochberg 1995); NaN is not."""
    is_known = np.isfinite(p)
    significant = np.zeros(len(p), bool)
    significant[is_known] = false_discovery_control(p[is_known]) <= rate
    return significant
