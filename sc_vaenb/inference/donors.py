"""Compare groups of cells with donors as replicates: the log rates of each donor, and how much donors differ."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from .variance_prior import VariancePrior, fit_prior, fit_scale, moderate

MIN_DONORS = 2  # per side: one donor does not show how much donors differ
PRIOR_COUNTS = 0.5  # pseudo-counts of a prior at the mean rate of both sides, added to the counts of each side
WORKING_VARIANCE = 0.1  # assumed variance between donors, only to weight them in the rates at which logs are expanded
MIN_EXPECTED = 3.0  # expected counts per donor of the genes from which the prior and the normalisation are learned
MIN_GENES = 50  # number of genes from which the prior is learned at least, even if their counts are low
MIN_GENES_SHIFT = 10  # genes needed to learn the normalisation of a donor; with fewer it has none
N_ROUNDS_SHIFT = 3
CAUTION = 0.7  # standard errors that are added to the estimated spread of the genes' variances
MIN_RATE = 1e-12
MIN_COUNTS_VARIANCE = 1e-3  # expected counts below which the sampling variance does not grow
MIN_DF = 0.5  # degrees of freedom of a gene with almost no counts
MAX_DF = 1e6  # degrees of freedom that stand for infinitely many
DONOR_VARIANCE_RANGE = (1e-6, 10.0)  # search range for the variance of a typical gene (of natural logs)

Values = NDArray[np.float64]
DonorBatch = tuple[int, int]


@dataclass
class Moments:
    """Sums over cells: x are counts, s are size factors. One per gene except n_cells, s and s2."""

    n_cells: int
    s: float
    s2: float
    x: Values
    x2: Values
    xs: Values
    cells_expressing: Values

    def __add__(self, other: Moments) -> Moments:
        return Moments(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def residual(self) -> Values:
        """Sum of squared differences between counts and rate * s, corrected for the error of the rate."""
        rate = self.x / self.s
        squares = self.x2 - 2 * rate * self.xs + rate**2 * self.s2
        return np.maximum(squares, 0) / max(1 - self.s2 / self.s**2, 0.5)


def stratum_moments(
    matrix: csr_matrix, size_factor: NDArray[np.float32], stratum: NDArray[np.int64]
) -> dict[int, Moments]:
    """Sums over the cells of each stratum; cells with code -1 are left out."""
    codes, row = np.unique(stratum, return_inverse=True)
    s, cell = size_factor.astype(np.float64), np.arange(len(size_factor))
    squared, is_expressed = (
        csr_matrix((values, matrix.indices, matrix.indptr), matrix.shape) for values in _powers(matrix.data)
    )

    def sums(weights: Values, values: csr_matrix) -> Values:
        return (csr_matrix((weights, (row, cell)), (len(codes), len(s))) @ values).toarray()

    ones = np.ones(len(s))
    x, x2, xs, n_expressing = sums(ones, matrix), sums(ones, squared), sums(s, matrix), sums(ones, is_expressed)
    n_cells, sum_s, sum_s2 = (np.bincount(row, weights) for weights in (ones, s, s**2))
    return {
        int(code): Moments(int(n_cells[i]), sum_s[i], sum_s2[i], x[i], x2[i], xs[i], n_expressing[i])
        for i, code in enumerate(codes)
        if code >= 0
    }


def _powers(counts: NDArray[np.float32]) -> tuple[Values, Values]:
    """Counts to the power of 2 and of 0."""
    return counts.astype(np.float64) ** 2, np.ones(len(counts))


def total(parts: Iterable[Moments]) -> Moments:
    """The sums of several strata together."""
    first, *rest = parts
    for part in rest:
        first = first + part
    return first


class Unit(NamedTuple):
    """The cells of one donor on one side of the comparison, as one replicate."""

    donor: int
    side: int  # 0: group, 1: reference
    batches: tuple[int, ...]
    block: tuple[int, ...]  # the batches that also hold cells of other donors


class Plan(NamedTuple):
    """Pairs (one per batch) are compared within donors; units are compared between donors, within blocks of batches."""

    pairs: list[tuple[Unit, Unit]]
    units: list[Unit]


class DesignError(ValueError):
    """The comparison is not possible with these donors and batches; the text is "donors" or "batches"."""


def plan(group: Iterable[DonorBatch], reference: Iterable[DonorBatch]) -> Plan:
    """Decide which cells to compare with which, given the donors and batches of the cells of each side.

    A donor with cells on both sides is a pair. If some of its batches hold both sides, they are compared within the
    batch. If no other donor has cells in its batches, these count as part of the donor. Donors with cells on one side
    are compared with other donors in the same batches. If pairs are fewer than half of the donors (of the side with
    fewer donors), their error would be too large, so all donors are units.
    """
    sides = (set(group), set(reference))
    donors = [{donor for donor, _ in side} for side in sides]
    min_donors = min(map(len, donors))
    if min_donors < MIN_DONORS:
        raise DesignError("donors")
    donors_of_batch: dict[int, set[int]] = {}
    for donor, batch in sides[0] | sides[1]:
        donors_of_batch.setdefault(batch, set()).add(donor)
    shared_batches = {batch for batch, members in donors_of_batch.items() if len(members) > 1}

    def unit(donor: int, side: int, batches: set[int]) -> Unit:
        return Unit(donor, side, tuple(sorted(batches)), tuple(sorted(batches & shared_batches)))

    pairs, units = [], []
    for donor in sorted(donors[0] | donors[1]):
        batches = [{batch for other, batch in side if other == donor} for side in sides]
        with_both_sides = batches[0] & batches[1]
        if with_both_sides:
            pairs += [(unit(donor, 0, {batch}), unit(donor, 1, {batch})) for batch in sorted(with_both_sides)]
        elif all(batches) and not (batches[0] | batches[1]) & shared_batches:
            pairs.append((unit(donor, 0, batches[0]), unit(donor, 1, batches[1])))
        else:
            units += [unit(donor, side, batches[side]) for side in (0, 1) if batches[side]]
    paired_donors = sorted({pair[0].donor for pair in pairs})
    if len(paired_donors) >= max(MIN_DONORS, min_donors / 2):
        return Plan(pairs, units if _can_compare(units) else [])
    for donor, side in ((donor, side) for donor in paired_donors for side in (0, 1)):
        units.append(unit(donor, side, {batch for other, batch in sides[side] if other == donor}))
    if not _can_compare(units):
        raise DesignError("batches")
    return Plan([], units)


def _can_compare(units: Sequence[Unit]) -> bool:
    """Whether each side has enough units, and a block holds units of both sides."""
    blocks_of_side = [[unit.block for unit in units if unit.side == side] for side in (0, 1)]
    blocks = set(blocks_of_side[0]) | set(blocks_of_side[1])
    enough = min(map(len, blocks_of_side)) >= MIN_DONORS and len(units) > len(blocks) + 1
    return enough and not set(blocks_of_side[0]).isdisjoint(blocks_of_side[1])


class Comparison(NamedTuple):
    """Per gene: mean rates, log2 fold change, its error with degrees of freedom, and the variance between donors."""

    rate: Values
    reference_rate: Values
    log2_fold: Values
    sd: Values
    df: Values
    donor_sd: Values  # of log2 rates; with pairs, of log2 fold changes
    prior_df: float


def compare_donors(
    group: Mapping[DonorBatch, Moments], reference: Mapping[DonorBatch, Moments], design: Plan
) -> Comparison:
    """Compare two sides, whose cells are summed by donor and batch.

    The sampling variance of a donor's log rate comes from its counts: it is that of Poisson counts, times the
    overdispersion that the cells show. So donors with few cells or counts weigh less. Donors differ by more than that:
    the rest is the variance between donors.
    """
    units = [*(unit for pair in design.pairs for unit in pair), *design.units]
    sums = [total((group, reference)[unit.side][unit.donor, batch] for batch in unit.batches) for unit in units]
    side, row = np.array([unit.side for unit in units]), {unit: i for i, unit in enumerate(units)}
    x, size = np.array([moments.x for moments in sums]), np.array([[moments.s] for moments in sums])
    residual = np.array([moments.residual() for moments in sums])
    # Variance of the counts over their mean, by side. Counts divided by it have the variance of Poisson counts.
    overdispersion = np.array(
        [np.maximum((residual[side == i].sum(0) + 1) / (x[side == i].sum(0) + 1), 1) for i in (0, 1)]
    )
    x = x / overdispersion[side]
    for _ in range(N_ROUNDS_SHIFT):
        size = size * np.exp(_shift(x, size / overdispersion[side], side))
    effective_size = size / overdispersion[side]
    rate = _rates(x, effective_size, side)
    reported_rate = rate

    estimates = []
    if design.pairs:
        a, b = (np.array([row[pair[i]] for pair in design.pairs]) for i in (0, 1))
        size_a, size_b = effective_size[a], effective_size[b]
        # Logs are expanded around the rate ratio of Mantel & Haenszel, and around the counts of each pair
        weight = size_a * size_b / (size_a + size_b)
        ratio = ((x[a] / size_a * weight).sum(0) + PRIOR_COUNTS) / ((x[b] / size_b * weight).sum(0) + PRIOR_COUNTS)
        counts = x[a] * overdispersion[0] + x[b] * overdispersion[1]
        share = size[a] * ratio / (size[a] * ratio + size[b])
        expected = counts * share / overdispersion[0], counts * (1 - share) / overdispersion[1]
        y = np.log(ratio) + _log_ratio(x[a], expected[0]) - _log_ratio(x[b], expected[1])
        variance = _sampling_variance(expected[0]) + _sampling_variance(expected[1])
        # Join the batches of each donor
        donor = np.array([pair[0].donor for pair in design.pairs])
        is_of_donor = (np.unique(donor)[:, None] == donor).astype(np.float64)
        weight = is_of_donor @ (1 / variance)
        y = (is_of_donor @ (y / variance)) / weight
        estimates.append(_fit(y, 1 / weight, np.ones(len(y)), None))
        mean = np.sqrt(rate[0] * rate[1])
        # Free of batch effects, also where batches hold unequal shares of the two sides
        reported_rate = np.array([mean * np.sqrt(ratio), mean / np.sqrt(ratio)])
    if design.units:
        rows = np.array([row[unit] for unit in design.units])
        unit_side = side[rows]
        unit_expected = effective_size[rows] * rate[unit_side]
        y = np.log(rate)[unit_side] + _log_ratio(x[rows], unit_expected)
        blocks = sorted({unit.block for unit in design.units})
        is_in_block = np.array([[unit.block == block for block in blocks] for unit in design.units], np.float64)
        estimates.append(_fit(y, _sampling_variance(unit_expected), 1.0 - unit_side, is_in_block))
    effect, se, df = _combined(estimates)
    first = estimates[0]
    log2 = np.log(2)
    donor_sd = np.sqrt(first.donor_variance) / log2
    return Comparison(reported_rate[0], reported_rate[1], effect / log2, se / log2, df, donor_sd, first.prior.df)


def _rates(x: Values, size: Values, side: NDArray[np.int64]) -> Values:
    """Mean rate of each side. The weight of a donor is bounded, because more counts do not reduce donor differences."""
    pooled = np.maximum(x.sum(0) / size.sum(0), MIN_RATE)
    weight = 1 / (1 + WORKING_VARIANCE * size * pooled)
    x, size = weight * x, weight * size
    mean = np.maximum(x.sum(0) / size.sum(0), MIN_RATE)
    return np.array(
        [(x[side == i].sum(0) + PRIOR_COUNTS) / (size[side == i].sum(0) + PRIOR_COUNTS / mean) for i in (0, 1)]
    )


def _shift(x: Values, size: Values, side: NDArray[np.int64]) -> Values:
    """Shift of the log rates that most genes of a unit, and of a side, have in common: a correction of the size factor.

    A few genes with many counts lower the shares of all other genes (Robinson & Oshlack 2010).
    """
    rate = _rates(x, size, side)
    expected = size * rate[side]
    ratio = np.log((x + 1 / 2) / (expected + 1 / 3))  # its median is 0 for Poisson counts
    shift = np.array([_center(r[e >= MIN_EXPECTED]) for r, e in zip(ratio, expected, strict=True)])
    # Genes are chosen by the mean of both sides, else those that are high on the side with fewer counts prevail
    rich = _rich_genes(size * np.sqrt(rate[0] * rate[1]))
    side_shift = _center(np.log(rate[0] / rate[1])[rich])
    return (shift + side_shift * (0.5 - side))[:, None]


def _center(values: Values) -> float:
    """The median, shrunk towards zero according to its error (James & Stein)."""
    if len(values) < MIN_GENES_SHIFT:
        return 0.0
    median = float(np.median(values))
    variance = (1.25 * 1.48 * np.median(np.abs(values - median))) ** 2 / len(values)
    return median * max(0.0, 1 - float(variance) / max(median**2, MIN_RATE))


def _log_ratio(x: Values, expected: Values) -> Values:
    """log(x + 1/2) minus its expectation for Poisson counts (to within 0.03): unbiased also for low counts."""
    return np.log(x + 0.5) - np.log(expected + 0.5 * np.exp(-expected))


def _sampling_variance(expected: Values) -> Values:
    return 1 / np.maximum(expected, MIN_COUNTS_VARIANCE)


def _rich_genes(expected: Values) -> NDArray[np.bool_]:
    """Genes with enough counts in three quarters of the donors, or else the genes with most counts."""
    counts = np.quantile(expected, 0.25, axis=0)
    return counts >= min(MIN_EXPECTED, np.sort(counts)[-min(MIN_GENES, len(counts))])


class _Estimate(NamedTuple):
    effect: Values
    se: Values
    df: Values
    typical_error: Values  # squared standard error if the donor variance were that of a typical gene
    donor_variance: Values
    prior: VariancePrior


def _fit(y: Values, sampling: Values, contrast: Values, block: Values | None) -> _Estimate:
    """Slope of y (units x genes) on the contrast within blocks. The variance is the sampling variance plus the donors'.

    The total variance is moderated over genes. The donor variance is the total without the sampling variance.
    """
    n_coefficients = 1 if block is None else 1 + block.shape[1]
    # units without counts do not inform the variance
    df = np.maximum(np.minimum(1, 1 / sampling).sum(0) - n_coefficients, MIN_DF)

    def solve(donor_variance: Values | float) -> tuple[Values, Values, Values, Values]:
        weight = 1 / (donor_variance + sampling)
        a, b = (_within(values, weight, block) for values in (np.broadcast_to(contrast[:, None], y.shape), y))
        information = (weight * a**2).sum(0)
        effect = (weight * a * b).sum(0) / information
        s2 = (weight * (b - effect * a) ** 2).sum(0) / df
        return effect, 1 / information, s2, len(y) / weight.sum(0)

    rich = _rich_genes(1 / sampling)
    # The half of the rich genes with least sampling variance shows best how much genes differ
    richest = rich & (sampling.mean(0) <= np.median(sampling.mean(0)[rich]))

    def prior_of(s2: Values) -> VariancePrior:
        prior_df = fit_prior(s2[richest], df[richest], CAUTION).df
        return VariancePrior(prior_df, fit_scale(s2[rich], df[rich], prior_df))

    low, high = DONOR_VARIANCE_RANGE
    for _ in range(20):  # bisection: the weights use the variance of a typical gene
        typical = np.sqrt(low * high)
        low, high = (typical, high) if prior_of(solve(typical)[2]).s2 > 1 else (low, typical)
    _, typical_error, s2, variance = solve(typical)
    prior = prior_of(s2)
    donor_variance = np.maximum(moderate(s2, df, prior) * variance - (variance - typical), 0)
    effect, error, _, _ = solve(donor_variance)
    return _Estimate(effect, np.sqrt(error), np.minimum(df + prior.df, MAX_DF), typical_error, donor_variance, prior)


def _within(values: Values, weight: Values, block: Values | None) -> Values:
    """Values minus the weighted mean of their block."""
    if block is None:
        return values
    return values - block @ ((block.T @ (weight * values)) / (block.T @ weight))


def _combined(estimates: Sequence[_Estimate]) -> tuple[Values, Values, Values]:
    """Combine the estimates within and between donors: effect, standard error and degrees of freedom.

    Weights use the donor variance of a typical gene. With the gene's own variance, an estimate whose variance is too
    small by chance would get too much weight.
    """
    weight = np.array([1 / estimate.typical_error for estimate in estimates])
    share = weight / weight.sum(0)
    effect = (share * np.array([estimate.effect for estimate in estimates])).sum(0)
    variance = np.array([(part * estimate.se) ** 2 for part, estimate in zip(share, estimates, strict=True)])
    # Satterthwaite (1946)
    df = variance.sum(0) ** 2 / (variance**2 / np.array([estimate.df for estimate in estimates])).sum(0)
    return effect, np.sqrt(variance.sum(0)), df
