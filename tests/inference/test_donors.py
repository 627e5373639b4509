"""Donors as replicates: which are compared with which, what a donor's counts are worth, and that errors are right."""

import numpy as np
import pytest
from scipy import sparse, stats

from sc_vaenb.inference.donors import DesignError, compare_donors, plan, stratum_moments


def keys(text):
    """(donor, batch) of each letter and digit: "a0 b0"."""
    return [(ord(part[0]) - ord("a"), int(part[1])) for part in text.split()]


def named(units):
    return [f"{chr(ord('a') + one.donor)}{one.side}" for one in units]


@pytest.mark.parametrize(
    ("group", "reference", "pairs", "units", "blocks"),
    [
        ("a0 b0", "c0 d0", [], "a0 b0 c1 d1", [(0,)] * 4),
        ("a0 b1", "c2 d3", [], "a0 b0 c1 d1", [()] * 4),  # batch = donor
        ("a0 b1", "c0 d1", [], "a0 b0 c1 d1", [(0,), (1,), (0,), (1,)]),
        ("a0 b1", "a0 b1", ["a0 a1", "b0 b1"], "", []),
        ("a0 b1", "a2 b3", ["a0 a1", "b0 b1"], "", []),  # a library for each donor and side
        ("a0 a1 b0 b1", "a0 a1 b0", ["a0 a1", "a0 a1", "b0 b1"], "", []),
        ("a0 b0 a1", "a1 b0 a2", ["a0 a1", "b0 b1"], "", []),
        ("a0 b0 c0 d0", "a0 b0 e0 f0", ["a0 a1", "b0 b1"], "c0 d0 e1 f1", [(0,)] * 4),
        ("a0 b0 c0", "a0 b0 d0", ["a0 a1", "b0 b1"], "", []),
        ("a0 b0 c0", "a0 d0 e0", [], "b0 c0 d1 e1 a0 a1", [(0,)] * 6),  # one pair of three
    ],
)
def test_designs(group, reference, pairs, units, blocks):
    found = plan(keys(group), keys(reference))
    assert [" ".join(named(pair)) for pair in found.pairs] == pairs
    assert named(found.units) == units.split()
    assert [one.block for one in found.units] == blocks


def test_pairs_keep_to_the_batches_that_hold_both_sides():
    found = plan(keys("a0 a1 b0"), keys("a1 a2 b0"))
    assert [(pair[0].batches, pair[1].batches) for pair in found.pairs] == [((1,), (1,)), ((0,), (0,))]


@pytest.mark.parametrize(
    ("group", "reference", "why"),
    [
        ("a0", "b0 c0", "donors"),
        ("a0 b0", "a0", "donors"),
        ("a0 b0", "c1 d1", "batches"),  # a batch for each side
        ("a0 b0", "a1 b1", "batches"),
    ],
)
def test_designs_that_cannot_be(group, reference, why):
    with pytest.raises(DesignError, match=why):
        plan(keys(group), keys(reference))


def test_moments_are_those_of_the_cells():
    rng = np.random.default_rng(0)
    x, s, stratum = rng.poisson(1, (50, 4)), rng.uniform(0.5, 2, 50).astype(np.float32), rng.integers(-1, 3, 50)
    found = stratum_moments(sparse.csr_matrix(x.astype(np.float32)), s, stratum)
    assert list(found) == [0, 1, 2]
    for code, m in found.items():
        cells, size = x[stratum == code], s[stratum == code].astype(float)
        assert m.n_cells == len(cells)
        np.testing.assert_allclose([m.s, m.s2], [size.sum(), (size**2).sum()])
        np.testing.assert_allclose(m.xs, cells.T @ size)
        np.testing.assert_allclose(
            [m.x, m.x2, m.cells_expressing], [cells.sum(0), (cells**2).sum(0), (cells > 0).sum(0)]
        )
        deviation = ((cells - cells.sum(0) / size.sum() * size[:, None]) ** 2).sum(0)
        np.testing.assert_allclose(m.residual(), deviation / (1 - (size**2).sum() / size.sum() ** 2))
    both = found[0] + found[1]
    np.testing.assert_allclose(both.x, x[np.isin(stratum, [0, 1])].sum(0))


def moments_of(rng, rate, n_cells, donors, batch=lambda donor: 0):
    """Poisson counts of donors (rates x genes), by (donor, batch)."""
    found = {}
    for donor, own, n in zip(donors, rate, n_cells, strict=True):
        x = sparse.csr_matrix(rng.poisson(own, (n, len(own))).astype(np.float32))
        found[donor, batch(donor)] = stratum_moments(x, np.ones(n, np.float32), np.zeros(n, np.int64))[0]
    return found


def z_scores(found, truth):
    return stats.norm.isf(stats.t.sf((found.log2_fold - truth) / found.sd, found.df))


@pytest.mark.parametrize("donor_sd", [0.0, 0.4])
@pytest.mark.parametrize("n_cells", [[60] * 8, [5, 20, 200, 1000, 10, 30, 300, 600]])
def test_errors_are_as_large_as_stated(donor_sd, n_cells):
    rng = np.random.default_rng(0)
    base = np.exp(rng.normal(-1.5, 1, 1500))
    fold = rng.choice([-1.0, 0.0, 0.0, 0.0, 1.0], 1500)
    effect = rng.normal(0, donor_sd, (8, 1500))
    rate = base * np.exp(effect) * np.where(np.arange(8)[:, None] < 4, 2**fold, 1)
    group, reference = (
        moments_of(rng, rate[:4], n_cells[:4], range(4)),
        moments_of(rng, rate[4:], n_cells[4:], range(4, 8)),
    )
    found = compare_donors(group, reference, plan(group, reference))
    rich = base > 0.2
    z = z_scores(found, fold)[rich]
    assert abs(z.mean()) < 0.4  # the normalisation has its own error, common to all genes
    assert z.std() == pytest.approx(1, abs=0.12)
    assert np.median(found.donor_sd[rich]) * np.log(2) == pytest.approx(donor_sd, abs=0.1)
    np.testing.assert_allclose(np.log2(found.rate / found.reference_rate)[rich], fold[rich], atol=2.5)


def test_pairs_do_not_see_what_donors_have_in_common():
    rng = np.random.default_rng(0)
    base, own, response = np.exp(rng.normal(-1, 0.7, 800)), rng.normal(0, 1.5, (5, 800)), rng.normal(0, 0.2, (5, 800))
    group = moments_of(rng, 2 * base * np.exp(np.clip(own, -2, 2) + response), [100] * 5, range(5))
    reference = moments_of(rng, base * np.exp(np.clip(own, -2, 2)), [300] * 5, range(5))
    # twice the rate in all genes is normalised away, as is a donor that was sequenced deeper
    found = compare_donors(group, reference, plan(group, reference))
    z = z_scores(found, 0)
    assert np.median(found.sd) < 0.25
    assert abs(np.median(z)) < 0.15
    assert z.std() == pytest.approx(1, abs=0.15)


def test_batches_of_a_donor_are_compared_with_themselves():
    """Each donor has both batches, most of one side in one: without batches, what these differ in is a difference."""
    rng = np.random.default_rng(0)
    base, batch_effect = np.exp(rng.normal(-1, 0.7, 500)), rng.normal(0, 1, (2, 500))
    sides = []
    for n_cells in ([20, 80], [80, 20]):
        parts = [
            moments_of(rng, [base * np.exp(batch_effect[b])] * 4, [n] * 4, range(4), lambda donor, b=b: b)
            for b, n in enumerate(n_cells)
        ]
        sides.append(parts[0] | parts[1])
    found = compare_donors(*sides, plan(*sides))
    assert z_scores(found, 0).std() == pytest.approx(1, abs=0.15)
    assert np.median(np.abs(np.log2(found.rate / found.reference_rate))) < 0.25


def test_batches_of_several_donors_are_compared_with_themselves():
    rng = np.random.default_rng(0)
    base, batch_effect = np.exp(rng.normal(-1, 0.7, 500)), rng.normal(0, 1, (2, 500))
    donors = [[0, 1, 2, 3], [4, 5, 6, 7]]
    batch = {0: 0, 1: 0, 2: 0, 3: 1, 4: 0, 5: 1, 6: 1, 7: 1}  # most of a side in a batch
    sides = [
        moments_of(rng, [base * np.exp(batch_effect[batch[d]]) for d in side], [100] * 4, side, batch.get)
        for side in donors
    ]
    z = z_scores(compare_donors(*sides, plan(*sides)), 0)
    assert z.std() == pytest.approx(1, abs=0.15)


def test_pairs_and_units_together_say_more():
    rng = np.random.default_rng(0)
    base, own = np.exp(rng.normal(0, 0.7, 500)), rng.normal(0, 0.3, (9, 500))
    group = moments_of(rng, base * np.exp(own[:6]), [50] * 6, range(6))
    reference = moments_of(rng, base * np.exp(own[3:9]), [50] * 6, range(3, 9))
    both = compare_donors(group, reference, plan(group, reference))
    pairs = compare_donors(group, reference, plan(group, reference)._replace(units=[]))
    assert np.median(both.sd) < np.median(pairs.sd)
    assert z_scores(both, 0).std() == pytest.approx(1, abs=0.15)


def test_genes_absent_from_a_side_or_from_both():
    rng = np.random.default_rng(0)
    rate = np.full((8, 60), 1.0)
    rate[:4, :5] = 0
    rate[:, 5:10] = 0
    group, reference = moments_of(rng, rate[:4], [50] * 4, range(4)), moments_of(rng, rate[4:], [50] * 4, range(4, 8))
    found = compare_donors(group, reference, plan(group, reference))
    p = 2 * stats.t.sf(np.abs(found.log2_fold / found.sd), found.df)
    assert (found.log2_fold[:5] < -5).all()
    assert (p[:5] < 1e-3).all()
    assert (np.abs(found.log2_fold[5:10]) < 0.1).all()
    assert (p[5:10] > 0.9).all()
    assert np.isfinite(np.array(found[:6])).all()


def test_hardly_any_counts_say_nothing():
    rng = np.random.default_rng(0)
    rate = np.full((4, 30), 0.001)
    group, reference = moments_of(rng, rate[:2], [20] * 2, range(2)), moments_of(rng, rate[2:], [20] * 2, range(2, 4))
    found = compare_donors(group, reference, plan(group, reference))
    assert np.isfinite(np.array(found[:6])).all()
    assert (2 * stats.t.sf(np.abs(found.log2_fold / found.sd), found.df) > 0.05).all()
