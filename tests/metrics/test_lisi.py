import numpy as np
import pytest

from sc_vaenb.metrics import Neighbors, clisi, ilisi, knn, lisi
from sc_vaenb.metrics.lisi import _perplexity_weights


def test_agrees_with_scib_metrics(case_and_stored):
    case, stored = case_and_stored
    neighbors = knn(case["embedding"], 90)
    expected = stored["scib_metrics"]
    np.testing.assert_allclose(lisi(neighbors, case["batch"])[:20], stored["lisi_batch"], rtol=1e-9)
    np.testing.assert_allclose(ilisi(neighbors, case["batch"]), expected["ilisi"], atol=1e-9)
    np.testing.assert_allclose(clisi(neighbors, case["labels"]), expected["clisi"], atol=1e-9)


def test_weights_have_the_perplexity_asked_for():
    distances = np.sort(np.random.default_rng(0).uniform(0, 5, (20, 60)), axis=1)
    for scale in (1e-3, 1.0, 1e4):
        weights = _perplexity_weights(distances * scale, 20.0)
        np.testing.assert_allclose(weights.sum(axis=1), 1)
        entropy = -(weights * np.log(np.maximum(weights, 1e-300))).sum(axis=1)
        np.testing.assert_allclose(np.exp(entropy), 20, rtol=1e-4)


def test_equal_distances_count_neighbors():
    # 8 neighbours at distance 1 each: weights 1/8, of which 6 in a and 2 in b: 1 / (0.75^2 + 0.25^2) = 1.6
    indices = np.tile(np.arange(9), (9, 1))
    for cell in range(9):
        indices[cell] = [cell, *(other for other in range(9) if other != cell)]
    distances = np.tile([0.0] + [1.0] * 8, (9, 1))
    groups = np.array(["a"] * 7 + ["b"] * 2)
    expected = [1 / (0.75**2 + 0.25**2)] * 7 + [1 / ((7 / 8) ** 2 + (1 / 8) ** 2)] * 2
    np.testing.assert_allclose(lisi(Neighbors(indices, distances), groups, perplexity=3), expected)


def test_duplicates_and_far_cells_are_finite():
    rng = np.random.default_rng(0)
    x = np.concatenate([np.zeros((50, 2)), 1e5 * rng.standard_normal((50, 2))])
    values = lisi(knn(x, 30), np.tile([0, 1], 50))
    assert np.all((values >= 1) & (values <= 2 + 1e-9))


def test_from_zero_to_one(two_types):
    embedding, labels, batch = two_types
    neighbors = knn(embedding, 90)
    assert ilisi(neighbors, batch) > 0.9
    assert clisi(neighbors, labels) == pytest.approx(1)
    assert ilisi(neighbors, labels) == pytest.approx(0)
    assert clisi(neighbors, batch) < 0.1


def test_names_of_groups_do_not_matter(cases):
    case = cases["moderate"]
    neighbors = knn(case["embedding"], 90)
    renamed = np.array([{"b0": "z", "b1": "y", "b2": "x"}[name] for name in case["batch"]])
    np.testing.assert_allclose(lisi(neighbors, renamed), lisi(neighbors, case["batch"]), rtol=1e-12)


def test_errors():
    x = np.random.default_rng(0).standard_normal((20, 2))
    with pytest.raises(ValueError, match=r"neighbors has 4 columns: LISI needs at least 6"):
        ilisi(knn(x, 4), [0, 1] * 10)
    with pytest.raises(ValueError, match=r"perplexity is 12: pass a number between 1 and the number of neighbours, 9"):
        lisi(knn(x, 10), [0, 1] * 10, perplexity=12)
    with pytest.raises(ValueError, match="batch has 1 distinct value"):
        ilisi(knn(x, 10), [0] * 20)
