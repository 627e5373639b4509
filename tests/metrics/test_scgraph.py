import numpy as np
import pytest

from sc_vaenb.metrics import geometry


@pytest.fixture
def types():
    """Five types on a line at growing distances, each in two batches that are shifted against each other."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(5), 40)
    place = np.array([0.0, 5, 12, 21, 33])[labels]
    batch = np.tile([0, 1], 100)
    x = np.stack([place, np.zeros(200)], axis=1) + rng.normal(0, 0.1, (200, 2))
    return x, x + np.stack([np.zeros(200), 100.0 * batch], axis=1), labels, batch


def test_a_batch_effect_on_the_reference_does_not_matter(types):
    x, shifted, labels, batch = types
    assert geometry(x, shifted, labels, batch) == pytest.approx(1, abs=1e-3)


def test_types_in_another_order_are_seen(types):
    x, shifted, labels, batch = types
    moved = x.copy()
    moved[:, 0] = np.array([0.0, 33, 5, 21, 12])[labels]
    assert geometry(moved, shifted, labels, batch) < 0.6


def test_it_is_not_defined_for_few_pairs(types):
    x, shifted, labels, batch = types
    few = labels < 3
    assert np.isnan(geometry(x[few], shifted[few], labels[few], batch[few]))
    apart = np.where(labels < 2, 0, 1)  # types of one batch each: few pairs are in one batch
    assert np.isnan(geometry(x, shifted, labels, apart + (labels == 4)))
