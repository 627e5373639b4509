"""Are there cells of a kind that the reference lacks? Conformal p-values, and types whose relatives would go unnoticed.

Two statistics say how much a cell is unlike the type that it was given: its distance to the nearest cells of this type
in the latent space, and how far the expression of its neighbourhood (the cells of its own batch that are most like it)
is from that of the type. The second sees genes that the latent space does not: an encoder lays a type that it has never
seen on one that it knows. Both are compared with the same of labelled cells of the reference, each batch of which plays
the query (conformal p-values: Bates et al. 2023, Annals of Statistics). What a batch does to all types alike is taken
off by the median over the types that its cells were given, as genomic control does (Devlin & Roeder 1999).

Where single cells are too noisy, all cells of a batch that were given a type are compared with the type as a group: the
squared difference of their expression from that of the type, as the product of the differences of two halves, whose
noise is independent (Walther et al. 2016), relative to the largest that any batch of the reference has.
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
from .transfer import MIN_CELLS_PER_LABEL, Reference, nearest, vote

NEIGHBORHOOD = 15  # cells whose expression is pooled: fewer are noisy, more reach into other types
N_COMPONENTS = 15  # of log expression, in which a batch's neighbours are searched
BLOCK = 4_000  # cells among which neighbourhoods are searched: the cost is quadratic
MIN_PREDICTED = 10  # cells of a batch that were given a type, for the type to count in what the batch does
MIN_CALIBRATION = 19  # cells: with fewer, no p-value can be below 0.05
MIN_LEFT_OUT = 20  # cells of a type, to leave it out
MIN_GROUP = 12  # cells of a batch that were given a type, to compare them as a group
MIN_GROUP_BATCHES = 3  # of the reference, whose differences are compared with
LARGE_DIFFERENCE = 1.5  # times the largest of any batch of the reference, and what is usual in the query
MIN_DIFFERENCE = 0.25  # of the squared distance of a type to the closest other: counts as the largest at least
USUAL_DIFFERENCE = 0.75  # what is usual is the median over the types of a query, at least this
MIN_TYPES = 3  # to tell what a batch does to all types from what is new in one


class LeftOut(NamedTuple):
    """What would have become of the cells of a label, were it not in the reference.

    Attributes
    ----------
    n_cells
        Of the label, that were tried; 0 where they were too few.
    called
        Code of the label that most of them would have got.
    auroc
        Of the statistic, for telling them from cells of the other labels.
    found
        Share of them with a p-value below 0.05, where batch effects differ between types as in the query.
    noticed
        Share of the batches that have the label in which the cells called like it would differ as a group.
    """

    n_cells: NDArray[np.int64]
    called: NDArray[np.int64]
    auroc: NDArray[np.float64]
    found: NDArray[np.float64]
    noticed: NDArray[np.float64]


class Judged(NamedTuple):
    """What is said of the cells of one batch of a query.

    Attributes
    ----------
    p
        P-values of the cells, NaN where a label has too few cells to calibrate on.
    told_apart
        Whether the batch has cells of enough types to tell a batch effect from what is new in one of them.
    difference
        Of the cells of each label, as a group: the squared difference from the label, times that of the most different
        batch of the reference (or of `MIN_DIFFERENCE`, where that is larger). NaN with too few cells or batches.
    differs
        Whether this is large, also next to the other labels of the batch.
    """

    p: NDArray[np.float64]
    told_apart: bool
    difference: NDArray[np.float64]
    differs: NDArray[np.bool_]


class Novelty:
    """Statistics and p-values of cells of a query, calibrated on a reference.

    Attributes
    ----------
    n_calibration
        Cells of the reference that each label's p-values are made from.
    """

    def __init__(self, reference: Reference, k: int, seed: int) -> None:
        self.reference, self.k, self.seed = reference, k, seed
        self.label = reference.label[reference.sample]
        self.batch = reference.batch[reference.sample]
        self.several = reference.n_batches() > 1  # labels that can be looked for in other batches
        n_labels = reference.n_labels
        self.expression = self.profile = None
        if reference.counts is not None:
            self.expression = np.empty(reference.counts.shape, np.float32)
            self.profile = np.full((self.batch.max() + 1, n_labels, reference.counts.shape[1]), np.nan, np.float32)
            for part in reference.parts():
                self.expression[part] = pooled_expression(reference.counts[part], seed)
                for label in range(n_labels):
                    cells = part[self.label[part] == label]
                    if len(cells) >= MIN_CELLS_PER_LABEL:
                        self.profile[self.batch[part[0]], label] = _root_share(reference.counts[cells].sum(0))
        voted = reference.votes(k)[0]
        # A label of one batch cannot be voted by others: its own cells stand in, and are compared with each other.
        self.predicted = np.where(self.several[self.label], voted, self.label)
        self.right = self.predicted == self.label
        raw = np.full((len(self.label), 1 if self.expression is None else 2), np.nan)
        self.shift: dict[int, NDArray[np.float32] | float] = {}
        for part in reference.parts():
            batch = int(self.batch[part[0]])
            expression = None if self.expression is None else self.expression[part]
            raw[part], self.shift[batch] = self._statistics(
                reference.state[part], expression, self.predicted[part], batch
            )
        self.middle, self.spread = np.full((2, n_labels, raw.shape[1]), np.nan)
        for label in range(n_labels):
            values = raw[self.right & (self.label == label)]
            values = values[np.isfinite(values).all(1)]
            if len(values) >= MIN_CALIBRATION:
                low, self.middle[label], high = np.quantile(values, [0.16, 0.5, 0.84], axis=0)
                self.spread[label] = (high - low) / 2 + 1e-6
        z = self._standardised(raw, self.predicted)
        self.inflation: dict[int, tuple[NDArray, NDArray]] = {}
        self.score = np.full(len(z), np.nan)
        for part in reference.parts():
            told = np.where(self.right[part], self.predicted[part], -1)
            self.inflation[int(self.batch[part[0]])] = found = _inflation(z[part], told)
            self.score[part] = ((z[part] - found[0]) / found[1]).max(1)
        self.apart = np.full(n_labels, np.nan) if self.profile is None else self._apart()
        self.groups: dict[int, NDArray[np.float64]] = {}  # squared differences (labels) of each batch
        for part in reference.parts():
            batch = int(self.batch[part[0]])
            labels = np.where(self.several[self.label[part]], self.label[part], -1)
            self.groups[batch] = self._differences(part, None, labels, batch)[0]
        self.calibration = [np.sort(self._calibration_of(label)) for label in range(n_labels)]
        self.widest = np.ones(raw.shape[1])
        self.n_calibration = np.array([len(values) for values in self.calibration])

    def _calibration_of(self, label: int) -> NDArray[np.float64]:
        values = self.score[self.right & (self.label == label)]
        return values[np.isfinite(values)]

    def __call__(
        self, state: NDArray[np.float32], counts: sparse.csr_matrix | None, predicted: NDArray[np.int64]
    ) -> Judged:
        """What is new among the cells of one batch of a query."""
        use = counts is not None and self.expression is not None
        expression = pooled_expression(counts, self.seed) if use else None
        z = self._standardised(self._statistics(state, expression, predicted, None)[0], predicted)
        middle, spread = _inflation(z, predicted)
        types = np.bincount(predicted[np.isfinite(z).all(1)], minlength=self.reference.n_labels) >= MIN_PREDICTED
        self.widest = np.maximum(self.widest, spread)
        difference, differs = np.full(self.reference.n_labels, np.nan), np.zeros(self.reference.n_labels, bool)
        if use:
            difference, differs = self._relative(
                self._differences(np.arange(len(state)), counts, predicted, None)[0], None
            )
        p = self._p_values(((z - middle) / spread).max(1), predicted)
        return Judged(p, bool(types.sum() >= MIN_TYPES), difference, differs)

    def _differences(
        self,
        cells: NDArray[np.int64],
        counts: sparse.csr_matrix | None,
        predicted: NDArray[np.int64],
        batch: int | None,
        shift: NDArray[np.float32] | None = None,
    ) -> tuple[NDArray[np.float64], NDArray[np.float32] | None]:
        """Squared differences of the cells of each label, as a group, from the label; and what the batch does to all.

        `counts` are those of the sample by default; labels of -1 are left out.
        """
        found = np.full(self.reference.n_labels, np.nan)
        counts = self.reference.counts if counts is None else counts
        if counts is None or self.profile is None:
            return found, None
        rng, halves = np.random.default_rng(self.seed), {}
        for label in np.unique(predicted[predicted >= 0]):
            mine = rng.permutation(cells[predicted == label])
            expected = self._profile_of(label, batch)
            if len(mine) >= MIN_GROUP and np.isfinite(expected).all():
                halves[label] = [_root_share(counts[mine[i::2]].sum(0)) - expected for i in (0, 1)]
        if shift is None and halves:
            shift = np.median([(first + second) / 2 for first, second in halves.values()], axis=0)
        if shift is None or (batch is None and len(halves) < MIN_TYPES):
            return found, None
        for label, (first, second) in halves.items():
            found[label] = float((first - shift) @ (second - shift))
        return found, shift

    def _relative(
        self, differences: NDArray[np.float64], batch: int | None
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Relative to the largest of the reference's batches; and which are large next to those of most labels."""
        others = np.stack([found for code, found in self.groups.items() if code != batch])
        known = np.isfinite(others).sum(0) >= MIN_GROUP_BATCHES
        largest = np.maximum(np.where(np.isfinite(others), others, 0).max(0), MIN_DIFFERENCE * self.apart)
        ratio = np.where(known, differences, np.nan) / largest
        usual = max(USUAL_DIFFERENCE, float(np.nanmedian(ratio))) if np.isfinite(ratio).any() else 1.0
        return ratio, ratio > LARGE_DIFFERENCE * usual

    def _apart(self) -> NDArray[np.float64]:
        """Squared distance of the expression of each label to that of the closest other; NaN where it is not known.

        At most the median of these: what a label without relatives in the reference lacks may be close all the same.
        """
        profiles = np.stack([self._profile_of(label, None) for label in range(self.reference.n_labels)])
        square = ((profiles[:, None] - profiles[None]) ** 2).sum(2).astype(np.float64)
        np.fill_diagonal(square, np.inf)
        closest = np.where(np.isfinite(square), square, np.inf).min(1)
        known = closest[np.isfinite(closest)]
        return (
            np.where(np.isfinite(closest), np.minimum(closest, np.median(known)), np.nan)
            if len(known)
            else np.full(len(closest), np.nan)
        )

    def left_out(self) -> LeftOut:
        """Each label left out of the reference once; after the query, whose batch effects hide what is new."""
        n_labels, rng = self.reference.n_labels, np.random.default_rng(self.seed)
        found = LeftOut(
            np.zeros(n_labels, np.int64), np.full(n_labels, -1), *(np.full(n_labels, np.nan) for _ in range(3))
        )
        for label in range(n_labels):
            cells = rng.permutation(np.flatnonzero(self.label == label))
            others = self.right & (self.label != label) & np.isfinite(self.score)
            if len(cells) < MIN_LEFT_OUT or not others.any():
                continue
            score, in_query, called = self._without(label, cells)
            p = self._p_values(in_query, called)
            found.n_cells[label], found.called[label] = len(cells), np.bincount(called).argmax()
            truth = np.repeat([True, False], [len(cells), others.sum()])
            found.auroc[label] = roc_auc_score(truth, np.concatenate([score, self.score[others]]))
            found.found[label] = (p < 0.05).mean()
            found.noticed[label] = self._noticed(label, cells, called)
        return found

    def _noticed(self, label: int, cells: NDArray[np.int64], called: NDArray[np.int64]) -> float:
        """Share of the batches in which cells of a label, under other names, would differ as a group; NaN if untold."""
        noticed = []
        for batch in np.unique(self.batch[cells]):
            here = self.batch[cells] == batch
            if here.sum() < MIN_GROUP:
                continue
            most = np.bincount(called[here]).argmax()
            same = np.flatnonzero((self.batch == batch) & (self.predicted == most) & (self.label != label))
            rest = np.flatnonzero(
                (self.batch == batch) & (self.label != label) & (self.label != most) & self.several[self.label]
            )
            group = np.concatenate([cells[here & (called == most)], same])
            labels = np.concatenate([np.full(len(group), most), self.label[rest]])
            found = self._differences(np.concatenate([group, rest]), None, labels, int(batch))[0]
            ratio, differs = self._relative(found, int(batch))
            if np.isfinite(ratio[most]):
                noticed.append(differs[most])
        return float(np.mean(noticed)) if noticed else float("nan")

    def _without(
        self, label: int, cells: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
        """Of cells of a label that the reference is taken to lack: scores there and in the query, and labels."""
        reference = self.reference
        score, in_query, called = np.empty(len(cells)), np.empty(len(cells)), np.empty(len(cells), np.int64)
        for batch in np.unique(self.batch[cells]):
            here = self.batch[cells] == batch
            part = cells[here]
            out = np.flatnonzero((reference.batch != batch) & (reference.label != label))
            if not len(out):
                out = np.flatnonzero(reference.label != label)
            distance, at = nearest(reference.state[part], reference.embedding[out], self.k)
            called[here] = vote(distance, reference.label[out][at])[0]
            expression = None if self.expression is None else self.expression[part]
            raw = self._statistics(reference.state[part], expression, called[here], int(batch), self.shift[int(batch)])
            middle, spread = self.inflation[int(batch)]
            z = self._standardised(raw[0], called[here]) - middle
            score[here], in_query[here] = (z / spread).max(1), (z / np.maximum(spread, self.widest)).max(1)
        return np.nan_to_num(score, nan=-1e3), in_query, called

    def _statistics(
        self,
        state: NDArray[np.float32],
        expression: NDArray[np.float32] | None,
        predicted: NDArray[np.int64],
        batch: int | None,
        shift: NDArray[np.float32] | float | None = None,
    ) -> tuple[NDArray[np.float64], NDArray[np.float32] | float]:
        """Logs of the statistics of cells of one batch, which is not compared with itself; and what the batch does."""
        reference, types = self.reference, [label for label in np.unique(predicted) if label >= 0]
        found = np.full((len(state), 1 if self.expression is None else 2), np.nan)
        for label in types:
            cells = predicted == label
            near, itself = reference.label == label, 0
            if batch is not None and self.several[label]:
                near = near & (reference.batch != batch)
            elif batch is not None:
                itself = 1
            if near.sum() > itself:
                distance = nearest(state[cells], reference.embedding[near], self.k + itself)[0][:, itself:]
                found[cells, 0] = np.log(distance.mean(1) + 1e-9)
        if expression is None or self.profile is None:
            return found[:, :1] if self.expression is None else np.repeat(found[:, :1], 2, 1), 0.0
        expected = {label: self._profile_of(label, batch) for label in types}
        if shift is None:
            moves = [
                _typical(expression[predicted == label], expected[label]) - expected[label]
                for label in types
                if (predicted == label).sum() >= MIN_PREDICTED and np.isfinite(expected[label]).all()
            ]
            shift = np.median(np.stack(moves), axis=0) if moves else 0.0
        for label in types:
            cells = predicted == label
            square = ((expression[cells] - expected[label] - shift) ** 2).sum(1)
            found[cells, 1] = np.log(square.astype(np.float64) + 1e-9)
        return found, shift

    def _profile_of(self, label: int, batch: int | None) -> NDArray[np.float32]:
        """Expression of a label, the mean of the batches that have it, but for one; NaN where none has."""
        assert self.profile is not None
        there = np.isfinite(self.profile[:, label, 0])
        if batch is not None and self.several[label]:
            there[batch] = False
        profile = self.profile[there, label]
        return profile.mean(0) if len(profile) else np.full(self.profile.shape[2], np.nan, np.float32)

    def _standardised(self, raw: NDArray[np.float64], predicted: NDArray[np.int64]) -> NDArray[np.float64]:
        """Statistics on the scale of those that cells of the label have in the reference."""
        z = (raw - self.middle[predicted]) / self.spread[predicted]
        return np.where((predicted >= 0)[:, None], z, np.nan)

    def _p_values(self, score: NDArray[np.float64], predicted: NDArray[np.int64]) -> NDArray[np.float64]:
        p = np.full(len(score), np.nan)
        for label in np.unique(predicted):
            known, cells = self.calibration[label], (predicted == label) & np.isfinite(score)
            if len(known) >= MIN_CALIBRATION:
                larger = len(known) - np.searchsorted(known, score[cells], side="left")
                p[cells] = (1 + larger) / (1 + len(known))
        return p


def _typical(expression: NDArray[np.float32], expected: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mean of the half of the cells that are closest to what is expected: the others may be of a new type."""
    square = ((expression - expected) ** 2).sum(1)
    return expression[square <= np.median(square)].mean(0)


def _inflation(z: NDArray[np.float64], predicted: NDArray[np.int64]) -> tuple[NDArray, NDArray]:
    """What a batch does to the statistics of all types: the median of the types' medians, and how much these differ.

    The second is there because no batch effect is the same for all types: a type must stand out among the others.
    """
    groups = [z[predicted == label] for label in np.unique(predicted[predicted >= 0])]
    medians = [np.median(g, axis=0) for g in groups if len(g) >= MIN_PREDICTED and np.isfinite(g).all()]
    if not medians:
        return np.zeros(z.shape[1]), np.ones(z.shape[1])
    middle = np.median(medians, axis=0)
    deviation = 1.4826 * np.median(np.abs(np.stack(medians) - middle), axis=0)
    return middle, np.sqrt(1 + deviation**2)


def pooled_expression(counts: sparse.csr_matrix, seed: int) -> NDArray[np.float32]:
    """Square roots of the genes' shares in each cell's neighbourhood, of the cells of one batch (cells x genes).

    Neighbours are those in the principal components of log expression. The squared distance of two such rows is twice
    the squared Hellinger distance; sampling noise is the same for genes of all levels.
    """
    out = np.empty(counts.shape, np.float32)
    order = np.random.default_rng(seed).permutation(counts.shape[0])
    n_blocks = -(-counts.shape[0] // BLOCK)
    for cells in np.array_split(order, n_blocks):
        cells = np.sort(cells)
        block = counts[cells]
        components = _components(block, seed)
        _, at = nearest(components, components, NEIGHBORHOOD)
        rows = np.repeat(np.arange(len(cells)), at.shape[1])
        near = sparse.csr_matrix((np.ones(at.size, np.float32), (rows, at.ravel())), shape=(len(cells), len(cells)))
        out[cells] = _root_share((near @ block).toarray())
    return out


def _components(counts: sparse.csr_matrix, seed: int) -> NDArray[np.float32]:
    logged, depth = counts.astype(np.float32), np.asarray(counts.sum(1)).ravel()
    scale = np.maximum(depth, 1) / max(float(np.median(depth)), 1)
    logged.data = np.log1p(logged.data / np.repeat(scale, np.diff(logged.indptr)).astype(np.float32))
    n = min(N_COMPONENTS + 1, min(counts.shape) - 1)  # the first is the mean
    if n < 1:
        return logged.toarray()
    with shared():  # it sets the threads of BLAS
        return TruncatedSVD(n, n_iter=3, random_state=seed % 2**32).fit_transform(logged).astype(np.float32)


def _root_share(counts: NDArray) -> NDArray[np.float32]:
    counts = np.asarray(counts, np.float32)
    return np.sqrt(1e4 * counts / np.maximum(counts.sum(-1, keepdims=True), 1)).squeeze()


def discoveries(p: NDArray[np.float64], rate: float) -> NDArray[np.bool_]:
    """Which p-values are small enough for a false discovery rate (Benjamini & Hochberg 1995); NaN never is."""
    known = np.isfinite(p)
    found = np.zeros(len(p), bool)
    found[known] = false_discovery_control(p[known]) <= rate
    return found
