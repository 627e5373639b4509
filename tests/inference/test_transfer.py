"""Votes and distances of neighbours on points laid out by hand."""

import numpy as np
import pytest

from sc_vaenb.inference.transfer import nearest, novelty, vote


def test_nearest_cells_come_near_to_far():
    distance, at = nearest(np.array([[0.0], [9.0]]), np.array([[5.0], [1.0], [7.0]]), 2)
    assert at.tolist() == [[1, 0], [2, 0]]
    np.testing.assert_allclose(distance, [[1, 5], [2, 4]])
    assert nearest(np.zeros((1, 1)), np.ones((3, 1)), 9)[1].shape == (1, 3)


def test_nearer_neighbours_outvote_more_that_are_far():
    label, uncertainty = vote(np.array([[1.0, 4.0, 4.0], [1.0, 1.0, 1.0]]), np.array([[2, 0, 0], [0, 2, 0]]))
    assert label.tolist() == [2, 0]
    weights = np.exp(-((np.array([1, 4]) / 3) ** 2))
    np.testing.assert_allclose(uncertainty, [2 * weights[1] / (weights[0] + 2 * weights[1]), 1 / 3], rtol=1e-6)


def test_cells_on_a_cell_of_the_reference_have_its_label_for_certain():
    label, uncertainty = vote(np.zeros((1, 3)), np.array([[1, 1, 1]]))
    assert label.tolist() == [1]
    assert uncertainty.tolist() == [0]


def test_novelty_is_relative_to_how_densely_the_reference_lies_there():
    dense, loose = np.arange(0, 10, 0.1), np.arange(100, 200, 10.0)
    reference = np.concatenate([dense, loose])[:, None].astype(np.float32)
    assert novelty(np.array([[5.05], [155.0]], np.float32), reference, 2) == pytest.approx([0.5, 0.5], abs=0.01)
    assert (novelty(np.array([[11.0], [300.0]], np.float32), reference, 2) > 5).all()
