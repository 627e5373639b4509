"""The rules behind a verdict: permutation, bootstrap, draws and seeds."""

import numpy as np
import pytest

from sc_vaenb.metrics.loss import losses, purity_per_cell
from sc_vaenb.metrics.neighbors import knn
from sc_vaenb.metrics.ranking import ALPHA, draw_cells, lead, seed_variance
from sc_vaenb.metrics.separation import batch_separation, clusters, linked_batches, shifted_batches


def cells(shift, seed=0, n=200, composition=(0.5, 0.5)):
    """Two types in two batches: embedding, labels, batch."""
    rng = np.random.default_rng(seed)
    labels, batch = np.repeat(["T", "B"], n // 2), np.empty(n, dtype="<U1")
    for label, share in zip("TB", composition, strict=True):
        batch[labels == label] = np.where(rng.random(n // 2) < share, "x", "y")
    x = rng.normal(0, 1, (n, 4)) + np.where(labels == "T", 10, 0)[:, None]
    return x + shift * (batch == "x")[:, None], labels, batch


def test_a_shift_is_found_and_composition_is_not():
    found = batch_separation(*reordered(cells(2.0)), n_permutations=99)
    assert (found.p, found.tested) == (0.01, 1.0)
    assert found.excess > 0.3
    found = batch_separation(*reordered(cells(0.0, composition=(0.9, 0.2))), n_permutations=99)
    assert found.p > 0.05
    assert abs(found.excess) < 0.1


def reordered(case):
    x, labels, batch = case
    return x, batch, labels


@pytest.mark.slow
def test_p_values_are_uniform_where_batches_are_alike():
    p = [batch_separation(*reordered(cells(0.0, seed, n=80)), n_permutations=39, rng=seed).p for seed in range(40)]
    assert 0.3 < np.mean(p) < 0.7
    assert np.mean(np.array(p) <= 0.05) <= 0.15


def test_strata_of_one_batch_are_left_out():
    x, labels, batch = cells(0.0)
    found = batch_separation(x, labels, labels)
    assert np.isnan(found.excess)
    assert np.isnan(found.p)
    assert found.tested == 0
    private = np.where(labels == "T", "x", batch)
    assert batch_separation(x, private, labels, n_permutations=9).tested == pytest.approx(0.5)


def test_batches_are_linked_by_what_they_share():
    batch = np.repeat(["a", "b", "c", "d"], 40)
    kinds = np.concatenate([np.tile([0, 1], 20), np.tile([1, 2], 20), np.tile([2, 3], 20), np.tile([7, 8], 20)])
    assert linked_batches(batch, kinds).tolist() == [0, 0, 0, 1]
    kinds[-1] = 3  # a single odd cell links nothing
    assert linked_batches(batch, kinds).tolist() == [0, 0, 0, 1]


def test_a_shift_of_a_whole_batch_is_told_from_other_types():
    rng = np.random.default_rng(0)
    places = 10 * np.eye(12)[np.arange(240) % 4]
    x, batch = places + rng.normal(0, 1, (240, 12)), np.repeat(["a", "b"], 120)
    shifted = x + 40 * np.eye(12)[11] * (batch == "b")[:, None]
    assert shifted_batches(shifted, batch).tolist() == [0, 0]
    others = np.where((batch == "b")[:, None], np.roll(x, 5, axis=1), x)  # four types of other genes
    assert shifted_batches(others, batch).tolist() == [0, 1]
    assert shifted_batches(x[::4], batch[::4]).tolist() == [0, 1]  # a single type shows nothing


def test_clusters_are_those_that_are_there():
    x, labels, _ = cells(0.0)
    found = clusters(x, resolution=0.1)
    assert {(a, b) for a, b in zip(found, labels, strict=True)} in ({(0, "T"), (1, "B")}, {(1, "T"), (0, "B")})


def test_a_rare_label_that_is_lost_is_flagged_and_noise_is_not():
    """14 cells whose purity falls from .71 to .49; a label whose cells differ as much by chance."""
    rng = np.random.default_rng(0)
    labels = np.repeat(["rare", "often", "tiny"], [14, 100, 3])
    before = np.clip(np.where(labels == "rare", 0.71, 0.9) + rng.normal(0, 0.1, 117), 0, 1)
    after = np.clip(before - np.where(labels == "rare", 0.22, 0) + rng.normal(0, 0.15, 117), 0, 1)
    often, rare = losses(before, after, labels)
    assert (often.label, often.lost) == ("often", False)
    assert (rare.label, rare.n_cells, rare.lost) == ("rare", 14, True)
    assert rare.low < rare.before - rare.after < rare.high
    one_cell = before.copy()
    one_cell[np.flatnonzero(labels == "rare")[:2]] -= 0.7  # a fall of .1 on average that hangs on two cells
    assert not losses(before, one_cell, labels)[1].lost


def test_purity_of_a_rare_label_can_be_one():
    x, labels, _ = cells(0.0)
    x[:4] += 100
    labels[:4] = "R"
    purity = purity_per_cell(knn(x, 16), labels)
    assert purity[:4].tolist() == [1] * 4
    assert np.isnan(purity_per_cell(knn(x, 16), np.where(np.arange(200) == 5, "one", labels))[5])


def test_seeds_that_agree_by_chance_make_nothing_certain():
    variance, freedom = seed_variance({"A": [0.7, 0.7], "B": [0.6, 0.6]})
    assert variance > 0
    assert freedom == 5
    assert seed_variance({"A": [0.5, 0.9]})[0] > variance


def test_a_true_tie_is_rarely_called_a_win():
    """Two methods of the same quality: cells and seeds vary, whatever the number of seeds."""
    rng = np.random.default_rng(0)
    for n_seeds in (1, 2, 3, 5):
        for sd in (0.005, 0.02):
            n_wins = 0
            for _ in range(300):
                a, b = rng.normal(0, sd, (2, n_seeds)) + rng.normal(0, 0.01, (2, 1)) / np.sqrt(2)
                drawn = rng.normal(a[0] - b[0], 0.01, 6)
                variance, freedom = seed_variance({"A": a, "B": b})
                n_wins += lead(a, b, drawn, variance, freedom).p <= ALPHA
            assert n_wins / 300 <= 0.08, (n_seeds, sd)


def test_a_clear_lead_is_one():
    variance, freedom = seed_variance({"A": [0.80], "B": [0.60]})
    assert lead([0.80], [0.60], np.full(6, 0.2), variance, freedom).p < ALPHA
    found = lead([0.7], [0.6], np.full(6, 0.1), variance, freedom, fixed=(True, True))
    assert found.se < 1e-9
    assert found.p < 1e-9
    assert lead([0.7], [0.7], np.array([]), variance, freedom).p == 1
    unknown = lead([0.7], [0.6], np.full(6, np.nan), variance, freedom)  # not defined on draws: seeds alone
    assert unknown.se == pytest.approx(0.02 * 2**0.5)


def test_draws_are_halves_with_every_stratum():
    draws = draw_cells([np.repeat(["a", "b"], 50), np.repeat(["x", "y", "x"], [90, 5, 5])], 100)
    assert len(draws) == 6
    for drawn in draws:
        assert 48 <= len(drawn) == len(set(drawn)) <= 50
        assert ((drawn >= 90) & (drawn < 95)).any()
    assert draw_cells([np.repeat("a", 30)], 30) == []
    assert draw_cells([np.arange(60)], 60) == []
