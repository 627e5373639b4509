import numpy as np
import pytest

from sc_vaenb.metrics.subsample import stratified_draw


def test_rare_strata_stay_and_the_rest_is_proportional():
    strata = np.repeat([0, 1, 2, 3], [8000, 1900, 96, 4])
    np.random.default_rng(1).shuffle(strata)
    cells = stratified_draw(strata, 1000, np.random.default_rng(0))
    counts = np.bincount(strata[cells])
    assert 990 <= len(cells) <= 1000
    assert len(np.unique(cells)) == len(cells)
    assert counts[3] == 4
    assert 10 <= counts[2] <= 25
    assert counts[0] / counts[1] == pytest.approx(8000 / 1900, rel=0.05)


def test_draws_differ_and_follow_the_generator():
    strata = np.zeros(1000, dtype=int)
    rng = np.random.default_rng(0)
    first, second = stratified_draw(strata, 100, rng), stratified_draw(strata, 100, rng)
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(stratified_draw(strata, 100, np.random.default_rng(0)), first)
    assert np.array_equal(first, np.sort(first))


def test_every_cell_is_as_likely():
    counts = np.zeros(50)
    rng = np.random.default_rng(0)
    for _ in range(400):
        counts[stratified_draw(np.zeros(50, dtype=int), 20, rng)] += 1
    np.testing.assert_allclose(counts / 400, 0.4, atol=0.1)


def test_enough_cells_are_returned_whole():
    assert stratified_draw(np.array([0, 1, 0]), 5, np.random.default_rng(0)).tolist() == [0, 1, 2]


def test_too_small_a_draw():
    with pytest.raises(ValueError, match=r"max_cells is 10 but batch and labels form 6 combinations: .* at least 12"):
        stratified_draw(np.arange(6).repeat(5), 10, np.random.default_rng(0))
