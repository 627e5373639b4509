"""Groups of cells: does the expression of a whole group differ from that of its label?

Single cells can be too noisy to show that a type is new. So all cells of a batch with one predicted label are also
compared with this label as a group, by the squared difference of their expression. It is estimated as the product of
the differences of two halves of the group: their noise is independent (Walther et al. 2016). The squared difference is
then divided by the largest one among the batches of the reference, or by a share of the squared distance to the
closest other label, if that is larger.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from .transfer import MIN_CELLS_PER_LABEL, Reference

MIN_CELLS_IN_GROUP = 12  # cells of a batch with one predicted label, to compare them as a group
MIN_REFERENCE_BATCHES = 3  # batches of the reference with a known difference, to compare a group with them
LARGE_RATIO = 1.5  # a group differs if its ratio is larger than this, times the usual ratio in its batch
MIN_USUAL_RATIO = 0.75  # the usual ratio is the median over the labels of the batch, and at least this
MIN_DISTANCE_SHARE = 0.25  # the divisor is at least this share of the squared distance to the closest label
MIN_TYPES = 3  # types in a batch, to distinguish its batch effect from a new type


class GroupComparison:
    """Squared differences between groups of cells and the labels of a reference.

    Attributes
    ----------
    profiles
        Expression of each label in each batch (batches x labels x genes), NaN where a batch has too few of its cells.
        None if the counts of the reference are not known.
    """

    def __init__(self, reference: Reference, seed: int) -> None:
        self.reference, self.seed = reference, seed
        self.in_several_batches = reference.n_batches() > 1
        label, batch = reference.label[reference.sample], reference.batch[reference.sample]
        self.profiles: NDArray[np.float32] | None = None
        if reference.counts is not None:
            shape = (batch.max() + 1, reference.n_labels, reference.counts.shape[1])
            self.profiles = np.full(shape, np.nan, np.float32)
            for batch_cells in reference.parts():
                for code in range(reference.n_labels):
                    cells = batch_cells[label[batch_cells] == code]
                    if len(cells) >= MIN_CELLS_PER_LABEL:
                        self.profiles[batch[batch_cells[0]], code] = root_share(reference.counts[cells].sum(0))
        self.squared_distance_to_closest = self._squared_distance_to_closest()
        self.reference_differences: dict[int, NDArray[np.float64]] = {}  # of each batch, one per label
        for batch_cells in reference.parts():
            labels = label[batch_cells]
            labels = np.where(self.in_several_batches[labels], labels, -1)
            code = int(batch[batch_cells[0]])
            self.reference_differences[code] = self.differences(batch_cells, None, labels, code)

    def profile(self, label: int, excluded_batch: int | None) -> NDArray[np.float32]:
        """Expression of a label: the mean over the batches that have it, without `excluded_batch`. NaN if none has it.

        A label that only one batch has keeps this batch.
        """
        assert self.profiles is not None
        has_label = np.isfinite(self.profiles[:, label, 0])
        if excluded_batch is not None and self.in_several_batches[label]:
            has_label[excluded_batch] = False
        profiles = self.profiles[has_label, label]
        return profiles.mean(0) if len(profiles) else np.full(self.profiles.shape[2], np.nan, np.float32)

    def differences(
        self,
        cells: NDArray[np.int64],
        counts: sparse.csr_matrix | None,
        predicted: NDArray[np.int64],
        batch: int | None,
    ) -> NDArray[np.float64]:
        """Squared difference of the cells of each predicted label, as a group, from this label.

        The batch effect (the median over the labels) is subtracted first. NaN where it cannot be computed.

        Parameters
        ----------
        cells
            Cells of one batch, as rows of `counts`.
        counts
            None for the counts of the reference's sample.
        predicted
            One label per cell; cells with -1 are left out.
        batch
            The batch of these cells in the reference, None for a batch of the query.
        """
        squared = np.full(self.reference.n_labels, np.nan)
        counts = self.reference.counts if counts is None else counts
        if counts is None or self.profiles is None:
            return squared
        rng, halves = np.random.default_rng(self.seed), {}
        for label in np.unique(predicted[predicted >= 0]):
            group = rng.permutation(cells[predicted == label])
            expected = self.profile(label, batch)
            if len(group) >= MIN_CELLS_IN_GROUP and np.isfinite(expected).all():
                halves[label] = [root_share(counts[group[i::2]].sum(0)) - expected for i in (0, 1)]
        if not halves or (batch is None and len(halves) < MIN_TYPES):
            return squared
        batch_effect = np.median([(first + second) / 2 for first, second in halves.values()], axis=0)
        for label, (first, second) in halves.items():
            squared[label] = float((first - batch_effect) @ (second - batch_effect))
        return squared

    def relative(
        self, differences: NDArray[np.float64], excluded_batch: int | None
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Ratios of these differences to the largest of any reference batch, and whether each ratio is large.

        A ratio is large only if it also stands out from those of the other labels.
        """
        by_batch = np.stack([values for code, values in self.reference_differences.items() if code != excluded_batch])
        enough_batches = np.isfinite(by_batch).sum(0) >= MIN_REFERENCE_BATCHES
        largest = np.maximum(
            np.where(np.isfinite(by_batch), by_batch, 0).max(0), MIN_DISTANCE_SHARE * self.squared_distance_to_closest
        )
        ratio = np.where(enough_batches, differences, np.nan) / largest
        usual = max(MIN_USUAL_RATIO, float(np.nanmedian(ratio))) if np.isfinite(ratio).any() else 1.0
        return ratio, ratio > LARGE_RATIO * usual

    def _squared_distance_to_closest(self) -> NDArray[np.float64]:
        """Squared distance between the expression of each label and of the closest other label; NaN if not known.

        It is at most the median over the labels: a label without relatives in the reference may still have a close
        relative that the reference lacks.
        """
        n_labels = self.reference.n_labels
        if self.profiles is None:
            return np.full(n_labels, np.nan)
        profiles = np.stack([self.profile(label, None) for label in range(n_labels)])
        squared = ((profiles[:, None] - profiles[None]) ** 2).sum(2).astype(np.float64)
        np.fill_diagonal(squared, np.inf)
        closest = np.where(np.isfinite(squared), squared, np.inf).min(1)
        is_known = np.isfinite(closest)
        if not is_known.any():
            return np.full(n_labels, np.nan)
        return np.where(is_known, np.minimum(closest, np.median(closest[is_known])), np.nan)


def root_share(counts: NDArray) -> NDArray[np.float32]:
    """Square root of each gene's share of the counts, scaled to 10,000 counts; one row of genes, or one per cell."""
    counts = np.asarray(counts, np.float32)
    return np.sqrt(1e4 * counts / np.maximum(counts.sum(-1, keepdims=True), 1)).squeeze()
