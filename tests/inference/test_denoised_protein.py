"""Which batches a protein is decoded in."""

import numpy as np

from sc_vaenb.inference.denoised_protein import as_measured


def test_a_protein_is_the_mean_over_the_batches_that_measured_it_of_the_own_group_if_any_did():
    measured = np.array([[True, True, False], [True, False, False], [True, False, True]])
    weight = as_measured(measured, np.array([0, 0, 1]))
    np.testing.assert_allclose(weight[0], [[0.5, 1, 0], [0.5, 0, 0], [0, 0, 1]])
    np.testing.assert_allclose(weight[1], weight[0])
    np.testing.assert_allclose(weight[2], [[0, 1, 0], [0, 0, 0], [1, 0, 1]])
