import numpy as np
import pytest

from sc_vaenb.metrics import same_batch_share


def test_perfectly_mixed_meets_expectation(two_types):
    embedding, labels, batch = two_types
    mixing = same_batch_share(embedding, batch, labels)
    assert mixing.expected == pytest.approx(74 / 149)
    assert abs(mixing.excess) < 0.03


def test_apart(two_types):
    embedding, labels, batch = two_types
    mixing = same_batch_share(embedding + np.where(batch == "x", 50.0, 0.0)[:, None], batch, labels)
    assert mixing.share == 1
    assert mixing.excess == pytest.approx(1)


def test_labels_that_differ_in_batches_are_not_called_unmixed(two_types):
    embedding, labels, _ = two_types
    rng = np.random.default_rng(0)
    skewed = np.where(rng.random(300) < np.where(labels == "T", 0.9, 0.1), "x", "y")
    within, overall = same_batch_share(embedding, skewed, labels), same_batch_share(embedding, skewed)
    assert abs(within.excess) < 0.1
    assert overall.excess > 0.5


def test_by_hand():
    # k = (9 - 1) // 4 = 2 nearest of 9 cells on a line; batches aab aab aab
    x = np.arange(9.0)[:, None] ** 1.1
    batch = np.array(list("aabaabaab"))
    distances = np.abs(x - x.T)
    nearest = np.argsort(distances, axis=1)[:, 1:3]
    assert same_batch_share(x, batch).share == pytest.approx(np.mean(batch[nearest] == batch[:, None]))
    assert same_batch_share(x, batch, k=1).share == pytest.approx(np.mean(batch[nearest[:, 0]] == batch))


def test_labels_in_one_batch_are_left_out(two_types):
    embedding, labels, batch = two_types
    only_t = same_batch_share(embedding[labels == "T"], batch[labels == "T"])
    assert same_batch_share(embedding, np.where(labels == "B", "x", batch), labels) == only_t
    assert np.isnan(same_batch_share(embedding, labels, labels).share)


def test_errors(two_types):
    with pytest.raises(ValueError, match="batch has 1 distinct value"):
        same_batch_share(two_types[0], ["x"] * 300)
