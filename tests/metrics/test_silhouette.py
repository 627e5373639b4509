import numpy as np
import pytest
from scipy.spatial.distance import cdist
from sklearn.metrics import silhouette_samples as sklearn_samples

from sc_vaenb.metrics import bras, silhouette_label, silhouette_samples
from sc_vaenb.metrics import silhouette as module


def test_by_hand():
    # cell 0: a = 1, b = mean(10, 12) = 11; cell 3: a = 2, b = mean(12, 11) = 11.5
    widths = silhouette_samples([[0.0], [1.0], [10.0], [12.0]], ["p", "p", "q", "q"])
    np.testing.assert_allclose(widths, [10 / 11, 9 / 10, 7.5 / 9.5, 9.5 / 11.5])


def test_agrees_with_sklearn_for_any_block(case_and_stored, monkeypatch):
    case, stored = case_and_stored
    whole = silhouette_samples(case["embedding"], case["labels"])
    np.testing.assert_allclose(whole[:20], stored["silhouette_samples"], atol=1e-10)
    np.testing.assert_allclose(whole, sklearn_samples(case["embedding"], case["labels"]), atol=1e-10)
    monkeypatch.setattr(module, "_BLOCK", 5_000)
    np.testing.assert_allclose(silhouette_samples(case["embedding"], case["labels"]), whole, atol=1e-12)


def test_labels_of_one_cell_and_coinciding_cells_get_zero():
    widths = silhouette_samples([[0.0], [0.1], [5.0]], ["a", "a", "alone"])
    assert widths[2] == 0
    np.testing.assert_array_equal(silhouette_samples(np.zeros((6, 2)), [0, 0, 0, 1, 1, 1]), np.zeros(6))


def test_silhouette_label_agrees(case_and_stored):
    case, stored = case_and_stored
    expected = stored["scib_metrics"]["silhouette_label"]
    np.testing.assert_allclose(silhouette_label(case["embedding"], case["labels"]), expected, atol=1e-10)


def test_silhouette_label_from_one_to_half(two_types):
    embedding, labels, batch = two_types
    assert silhouette_label(embedding, labels) > 0.95
    assert silhouette_label(embedding, batch) == pytest.approx(0.5, abs=0.01)


def test_bras_agrees_with_scib_metrics(case_and_stored):
    case, stored = case_and_stored
    found = bras(case["embedding"], case["labels"], case["batch"])
    np.testing.assert_allclose(found, stored["scib_metrics"]["bras"], atol=1e-10)


def test_bras_agrees_with_all_pairs_of_cells():
    rng = np.random.default_rng(0)
    x, batch = rng.standard_normal((50, 4)) + 0.5, rng.choice(["a", "b", "c"], 50)
    distances = cdist(x, x, "cosine")
    scores = []
    for cell in range(50):
        own = batch == batch[cell]
        a = distances[cell, own].sum() / (own.sum() - 1)
        b = distances[cell, ~own].mean()
        scores.append(1 - abs(b - a) / max(a, b))
    np.testing.assert_allclose(bras(x, np.zeros(50, dtype=int), batch), np.mean(scores), atol=1e-12)


def test_bras_from_zero_to_one(two_types):
    embedding, labels, batch = two_types
    assert bras(embedding, labels, batch) > 0.9  # not 1: batches of 75 cells differ by chance
    rng = np.random.default_rng(0)
    apart = np.where((batch == "x")[:, None], [10.0, 0.0], [-10.0, 0.0]) + 0.1 * rng.standard_normal((300, 2))
    assert bras(apart, labels, batch) < 0.01


def test_bras_leaves_out_labels_without_a_choice(two_types):
    embedding, labels, batch = two_types
    both = bras(embedding[labels == "T"], labels[labels == "T"], batch[labels == "T"])
    only_one = np.where(labels == "B", "x", batch)  # B is now in one batch
    assert bras(embedding, labels, only_one) == pytest.approx(both)
    assert np.isnan(bras(embedding, batch, batch))


def test_bras_takes_cells_without_direction():
    x = np.zeros((8, 2))
    assert bras(x, ["l"] * 8, [0, 1] * 4) == 1.0
    x[:4] = [1.0, 0.0]
    assert bras(x[:4], ["l"] * 4, [0, 1] * 2) == 1.0


def test_errors():
    with pytest.raises(ValueError, match=r"labels has 1 distinct value \('a'\) but at least 2 are needed"):
        silhouette_label(np.zeros((3, 2)), ["a"] * 3)
    with pytest.raises(ValueError, match=r"batch has 1 distinct value \('x'\)"):
        bras(np.zeros((3, 2)), ["a", "b", "a"], ["x"] * 3)
