"""Compare groups of cells with donors as replicates: log rates of each donor's cells, and how far donors differ."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from .variance_prior import VariancePrior, fit_prior, fit_scale, moderate

MIN_DONORS = 2  # of each side: one donor does not show how donors differ
PRIOR_COUNTS = 0.5  # weight of the mean rate of both sides beside the counts of one side, in counts
WORKING_VARIANCE = 0.1  # of donors, only for the weights of the rates around which logarithms are taken
MIN_EXPECTED = 3.0  # counts of a donor, for genes from which the prior and normalisation are learned
MIN_GENES = 50  # that the prior is learned from, whatever their counts
MIN_GENES_SHIFT = 10  # that the normalisation of a donor is learned from; it has none with fewer
N_ROUNDS_SHIFT = 3
CAUTION = 0.7  # standard errors by which genes are taken to differ more in variance than they seem to
MIN_RATE = 1e-12
MIN_COUNTS_VARIANCE = 1e-3  # expected counts below which the sampling variance grows no more
MIN_DF = 0.5  # of a gene with hardly any counts
MAX_DF = 1e6  # degrees of freedom that stand for infinitely many
DONOR_VARIANCE_RANGE = (1e-6, 10.0)  # natural logarithms, where the variance of a typical gene is looked for

Values = NDArray[np.float64]
DonorBatch = tuple[int, int]


@dataclass
class Moments:
    """Sums over cells, one per gene except n_cells, s and s2; x are counts, s are size factors."""

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
    """The sums of each stratum; cells of code -1 are left out."""
    codes, row = np.unique(stratum, return_inverse=True)
    s, cell = size_factor.astype(np.float64), np.arange(len(size_factor))
    squared, expressing = (csr_matrix((v, matrix.indices, matrix.indptr), matrix.shape) for v in _powers(matrix.data))

    def sums(weights: Values, values: csr_matrix) -> Values:
        return (csr_matrix((weights, (row, cell)), (len(codes), len(s))) @ values).toarray()

    one = np.ones(len(s))
    x, x2, xs, n_expressing = sums(one, matrix), sums(one, squared), sums(s, matrix), sums(one, expressing)
    n, total, total2 = (np.bincount(row, weights) for weights in (one, s, s**2))
    return {
        int(code): Moments(int(n[i]), total[i], total2[i], x[i], x2[i], xs[i], n_expressing[i])
        for i, code in enumerate(codes)
        if code >= 0
    }


def _powers(counts: NDArray[np.float32]) -> tuple[Values, Values]:
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
    block: tuple[int, ...]  # those of the batches that hold cells of other donors too


class Plan(NamedTuple):
    """Pairs (one for each batch) are compared within the donor, units between donors, within blocks of batches."""

    pairs: list[tuple[Unit, Unit]]
    units: list[Unit]


class DesignError(ValueError):
    """These donors and batches cannot answer the question; the text is one of "donors" and "batches"."""


def plan(group: Iterable[DonorBatch], reference: Iterable[DonorBatch]) -> Plan:
    """Decide which cells to compare with which, given the donors and batches of the cells of each side.

    A donor with cells of both sides is a pair: its batches that hold both are compared within themselves. Batches of
    one donor alone are part of the donor. Donors with cells of one side are compared with others of their batches. If
    fewer than half of the donors (of the side that has fewer) are pairs, all are units: the error is then too large.
    """
    sides = (set(group), set(reference))
    donors = [{donor for donor, _ in side} for side in sides]
    fewest = min(map(len, donors))
    if fewest < MIN_DONORS:
        raise DesignError("donors")
    donors_of_batch: dict[int, set[int]] = {}
    for donor, batch in sides[0] | sides[1]:
        donors_of_batch.setdefault(batch, set()).add(donor)
    shared = {batch for batch, members in donors_of_batch.items() if len(members) > 1}

    def unit(donor: int, side: int, batches: set[int]) -> Unit:
        return Unit(donor, side, tuple(sorted(batches)), tuple(sorted(batches & shared)))

    pairs, units = [], []
    for donor in sorted(donors[0] | donors[1]):
        batches = [{batch for d, batch in side if d == donor} for side in sides]
        both = batches[0] & batches[1]
        if both:
            pairs += [(unit(donor, 0, {batch}), unit(donor, 1, {batch})) for batch in sorted(both)]
        elif all(batches) and not (batches[0] | batches[1]) & shared:
            pairs.append((unit(donor, 0, batches[0]), unit(donor, 1, batches[1])))
        else:
            units += [unit(donor, side, batches[side]) for side in (0, 1) if batches[side]]
    paired = sorted({pair[0].donor for pair in pairs})
    if len(paired) >= max(MIN_DONORS, fewest / 2):
        return Plan(pairs, units if _can_compare(units) else [])
    for donor, side in ((donor, side) for donor in paired for side in (0, 1)):
        units.append(unit(donor, side, {batch for d, batch in sides[side] if d == donor}))
    if not _can_compare(units):
        raise DesignError("batches")
    return Plan([], units)


def _can_compare(units: Sequence[Unit]) -> bool:
    sides = [[one.block for one in units if one.side == side] for side in (0, 1)]
    blocks = set(sides[0]) | set(sides[1])
    enough = min(map(len, sides)) >= MIN_DONORS and len(units) > len(blocks) + 1
    return enough and not set(sides[0]).isdisjoint(sides[1])


class Comparison(NamedTuple):
    """Per gene: mean rates, log2 fold change, its error with degrees of freedom, and the variance between donors."""

    rate: Values
    reference_rate: Values
    log2_fold: Values
    sd: Values
    df: Values
    donor_sd: Values  # of log2 rates; of pairs, that of log2 fold changes
    prior_df: float


def compare_donors(
    group: Mapping[DonorBatch, Moments], reference: Mapping[DonorBatch, Moments], design: Plan
) -> Comparison:
    """Compare two sides, whose cells are summed by donor and batch.

    The sampling variance of a donor's log rate is that of counts around the rate (its cells tell how much wider than
    Poisson), so donors with few cells or counts weigh less. What donors differ beyond that is their variance.
    """
    used = [*(one for pair in design.pairs for one in pair), *design.units]
    parts = [total((group, reference)[one.side][one.donor, batch] for batch in one.batches) for one in used]
    side, where = np.array([one.side for one in used]), {one: i for i, one in enumerate(used)}
    x, size = np.array([part.x for part in parts]), np.array([[part.s] for part in parts])
    residual = np.array([part.residual() for part in parts])
    # Variance of the counts over their mean, by side; division by it makes of counts what they are worth
    excess = np.array([np.maximum((residual[side == i].sum(0) + 1) / (x[side == i].sum(0) + 1), 1) for i in (0, 1)])
    x = x / excess[side]
    for _ in range(N_ROUNDS_SHIFT):
        size = size * np.exp(_shift(x, size / excess[side], side))
    effective = size / excess[side]
    rate = _rates(x, effective, side)
    shown = rate

    estimates = []
    if design.pairs:
        a, b = (np.array([where[pair[i]] for pair in design.pairs]) for i in (0, 1))
        size_a, size_b = effective[a], effective[b]
        # Where the log is taken around: the ratio of rates of Mantel & Haenszel, and each pair's own counts
        between = size_a * size_b / (size_a + size_b)
        ratio = ((x[a] / size_a * between).sum(0) + PRIOR_COUNTS) / ((x[b] / size_b * between).sum(0) + PRIOR_COUNTS)
        counts = x[a] * excess[0] + x[b] * excess[1]
        share = size[a] * ratio / (size[a] * ratio + size[b])
        expected = counts * share / excess[0], counts * (1 - share) / excess[1]
        y = np.log(ratio) + _log_ratio(x[a], expected[0]) - _log_ratio(x[b], expected[1])
        variance = _sampling_variance(expected[0]) + _sampling_variance(expected[1])
        # The batches of a donor as one
        donor = np.array([pair[0].donor for pair in design.pairs])
        member = (np.unique(donor)[:, None] == donor).astype(np.float64)
        weight = member @ (1 / variance)
        y = (member @ (y / variance)) / weight
        estimates.append(_fit(y, 1 / weight, np.ones(len(y)), None))
        mean = np.sqrt(rate[0] * rate[1])
        shown = np.array([mean * np.sqrt(ratio), mean / np.sqrt(ratio)])  # free of what batches have of each side
    if design.units:
        own = np.array([where[one] for one in design.units])
        at = side[own]
        expected_own = effective[own] * rate[at]
        y = np.log(rate)[at] + _log_ratio(x[own], expected_own)
        blocks = sorted({one.block for one in design.units})
        block = np.array([[one.block == block for block in blocks] for one in design.units], np.float64)
        estimates.append(_fit(y, _sampling_variance(expected_own), 1.0 - at, block))
    effect, se, df = _combined(estimates)
    first = estimates[0]
    log2 = np.log(2)
    return Comparison(
        shown[0], shown[1], effect / log2, se / log2, df, np.sqrt(first.donor_variance) / log2, first.prior.df
    )


def _rates(x: Values, size: Values, side: NDArray[np.int64]) -> Values:
    """Mean rate of each side. A donor's weight stops growing where its deviation outweighs the error of its counts."""
    pooled = np.maximum(x.sum(0) / size.sum(0), MIN_RATE)
    weight = 1 / (1 + WORKING_VARIANCE * size * pooled)
    x, size = weight * x, weight * size
    mean = np.maximum(x.sum(0) / size.sum(0), MIN_RATE)
    return np.array(
        [(x[side == i].sum(0) + PRIOR_COUNTS) / (size[side == i].sum(0) + PRIOR_COUNTS / mean) for i in (0, 1)]
    )


def _shift(x: Values, size: Values, side: NDArray[np.int64]) -> Values:
    """By how much the log rates of a unit, and of a side, are off in most genes alike: depth is no more than a share.

    A few genes that take many of the counts lower the shares of all others (Robinson & Oshlack 2010).
    """
    rate = _rates(x, size, side)
    expected = size * rate[side]
    ratio = np.log((x + 1 / 2) / (expected + 1 / 3))  # of Poisson counts, the median of this is 0
    shift = np.array([_center(r[e >= MIN_EXPECTED]) for r, e in zip(ratio, expected, strict=True)])
    # Genes are chosen by the mean of both sides: else more of those that are high on the side with fewer counts
    rich = _rich_genes(size * np.sqrt(rate[0] * rate[1]))
    apart = _center(np.log(rate[0] / rate[1])[rich])
    return (shift + apart * (0.5 - side))[:, None]


def _center(values: Values) -> float:
    """The median, drawn to zero by as much as its error says (James & Stein)."""
    if len(values) < MIN_GENES_SHIFT:
        return 0.0
    median = float(np.median(values))
    variance = (1.25 * 1.48 * np.median(np.abs(values - median))) ** 2 / len(values)
    return median * max(0.0, 1 - float(variance) / max(median**2, MIN_RATE))


def _log_ratio(x: Values, expected: Values) -> Values:
    """log(x + 1/2), less its expectation for Poisson counts (to within 0.03): also of few counts, right on average."""
    return np.log(x + 0.5) - np.log(expected + 0.5 * np.exp(-expected))


def _sampling_variance(expected: Values) -> Values:
    return 1 / np.maximum(expected, MIN_COUNTS_VARIANCE)


def _rich_genes(expected: Values) -> NDArray[np.bool_]:
    """Genes with enough counts in three of four donors, or those with most."""
    counts = np.quantile(expected, 0.25, axis=0)
    return counts >= min(MIN_EXPECTED, np.sort(counts)[-min(MIN_GENES, len(counts))])


class _Estimate(NamedTuple):
    effect: Values
    se: Values
    df: Values
    typical_error: Values  # squared standard error, were the donors' variance that of a typical gene
    donor_variance: Values
    prior: VariancePrior


def _fit(y: Values, sampling: Values, contrast: Values, block: Values | None) -> _Estimate:
    """Slope of y (units x genes) on the contrast within blocks; the variance is the sampling's plus the donors'.

    The variance of all together is moderated over genes; what of it is not the sampling's is the donors'.
    """
    n_coefficients = 1 if block is None else 1 + block.shape[1]
    df = np.maximum(np.minimum(1, 1 / sampling).sum(0) - n_coefficients, MIN_DF)  # no counts, no word on the variance

    def solve(donor_variance: Values | float) -> tuple[Values, Values, Values, Values]:
        weight = 1 / (donor_variance + sampling)
        a, b = (_within(values, weight, block) for values in (np.broadcast_to(contrast[:, None], y.shape), y))
        information = (weight * a**2).sum(0)
        effect = (weight * a * b).sum(0) / information
        s2 = (weight * (b - effect * a) ** 2).sum(0) / df
        return effect, 1 / information, s2, len(y) / weight.sum(0)

    rich = _rich_genes(1 / sampling)
    # How unlike genes are is seen where sampling adds least; more counts than half of the rich genes have
    richest = rich & (sampling.mean(0) <= np.median(sampling.mean(0)[rich]))

    def prior_of(s2: Values) -> VariancePrior:
        prior_df = fit_prior(s2[richest], df[richest], CAUTION).df
        return VariancePrior(prior_df, fit_scale(s2[rich], df[rich], prior_df))

    low, high = DONOR_VARIANCE_RANGE
    for _ in range(20):  # until the variance of a typical gene is that of the weights
        typical = np.sqrt(low * high)
        low, high = (typical, high) if prior_of(solve(typical)[2]).s2 > 1 else (low, typical)
    _, typical_error, s2, variance = solve(typical)
    prior = prior_of(s2)
    donor_variance = np.maximum(moderate(s2, df, prior) * variance - (variance - typical), 0)
    effect, error, _, _ = solve(donor_variance)
    return _Estimate(effect, np.sqrt(error), np.minimum(df + prior.df, MAX_DF), typical_error, donor_variance, prior)


def _within(values: Values, weight: Values, block: Values | None) -> Values:
    """Differences from the weighted mean of the block."""
    if block is None:
        return values
    return values - block @ ((block.T @ (weight * values)) / (block.T @ weight))


def _combined(estimates: Sequence[_Estimate]) -> tuple[Values, Values, Values]:
    """The estimate within and that between donors as one, with its standard error and degrees of freedom.

    Weights are those of a typical donor variance: by the gene's own, the smaller would be trusted for being smaller.
    """
    weight = np.array([1 / one.typical_error for one in estimates])
    share = weight / weight.sum(0)
    effect = (share * np.array([one.effect for one in estimates])).sum(0)
    parts = np.array([(a * one.se) ** 2 for a, one in zip(share, estimates, strict=True)])
    df = parts.sum(0) ** 2 / (parts**2 / np.array([one.df for one in estimates])).sum(0)  # Satterthwaite (1946)
    return effect, np.sqrt(parts.sum(0)), df
