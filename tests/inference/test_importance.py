"""Derivatives and attributions: against finite differences, against weights, and against what they must add up to."""

import numpy as np
import pytest
import torch

import sc_vaenb
from sc_vaenb._record import FittedModel
from sc_vaenb.inference.importance import (
    integrated_gradients,
    log1p_rate,
    mean_jacobian,
    states,
    sweep,
    variance_explained,
)
from sc_vaenb.tl._counts import read_counts

CPU = torch.device("cpu")


@pytest.fixture
def fit(simulated, fast):
    def fitted(**options):
        adata = sc_vaenb.tl.cvae(simulated, "batch", copy=True, **(fast | options))
        stored = FittedModel.from_uns(adata, "vae")
        return stored.model, read_counts(adata, "vae", stored)

    return fitted


def rate(model, z, batch_index):
    with torch.no_grad():
        return log1p_rate(model, torch.from_numpy(z), torch.from_numpy(batch_index)).double().expm1().log().numpy()


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [{}, {"link": "softplus", "activation": "relu"}, {"link": "exp", "likelihood": "zinb"}], ids=str
)
def test_slopes_are_those_of_finite_differences(fit, options):
    model, counts = fit(**options)
    latent = states(model, counts, CPU)[0]
    slopes = mean_jacobian(model, latent, counts.batch_index, [2, 0], CPU)
    for column, dimension in enumerate([2, 0]):
        step = np.zeros(4, np.float32)
        step[dimension] = 1e-2
        up, down = (rate(model, latent + sign * step, counts.batch_index) for sign in (1, -1))
        np.testing.assert_allclose(slopes[:, column], (up - down).mean(0) / 2e-2, rtol=1e-2, atol=2e-3)
    assert np.abs(slopes).max() > 0.02


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"link": "exp"}, {"link": "softmax"}, {"likelihood": "gaussian"}], ids=str)
def test_slopes_of_a_linear_decoder_are_its_weights(fit, options):
    model, counts = fit(decoder_hidden=(), **options)
    latent = states(model, counts, CPU)[0]
    slopes = mean_jacobian(model, latent, counts.batch_index, range(4), CPU)
    constant = slopes - model.decoder.first.weight.detach().numpy()
    if options == {"link": "softmax"}:  # less the mean weight, weighted by each gene's share of the counts
        share = np.exp(rate(model, latent, counts.batch_index))
        share /= share.sum(1, keepdims=True)
        expected = -share.mean(0) @ model.decoder.first.weight.detach().numpy()
    else:
        expected = np.zeros(4)
    np.testing.assert_allclose(constant, np.tile(expected, (100, 1)), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"encode_batch": False, "norm": "batch", "activation": "relu"}], ids=str)
def test_attributions_add_up_to_the_way_of_the_state(fit, options):
    model, counts = fit(**options)
    mean_cell = states(model, counts, CPU)[2]
    cells = np.arange(3, 300, 4)
    direction = np.array([1.0, -2.0, 0.5, 0.0], np.float32)
    found = integrated_gradients(model, counts, cells, mean_cell, direction, CPU)
    size = np.abs(found.attribution).sum()
    assert size > 0.05
    assert (
        abs(found.attribution.sum() - found.difference) < (1e-4 if model.config.activation == "gelu" else 0.02) * size
    )
    dense = np.log1p(counts.matrix.toarray() / counts.size_factor[:, None])
    np.testing.assert_allclose(found.change, dense[cells].mean(0) - dense.mean(0), atol=1e-4)
    opposite = integrated_gradients(model, counts, cells, mean_cell, -direction, CPU)
    np.testing.assert_allclose(opposite.attribution, -found.attribution, atol=1e-6)


def test_a_gene_that_the_encoder_does_not_read_gets_nothing(fit):
    model, counts = fit()
    with torch.no_grad():
        model.encoder.first.weight[:, 7] = 0
    mean_cell = states(model, counts, CPU)[2]
    found = integrated_gradients(model, counts, np.arange(50), mean_cell, np.ones(4, np.float32), CPU)
    assert found.attribution[7] == 0
    assert found.change[7] != 0


def test_the_variance_of_a_linear_model_is_shared_out(fit):
    model = fit(likelihood="gaussian", decoder_hidden=())[0]
    latent = np.random.default_rng(0).normal(size=(400, 4)).astype(np.float32)
    latent = np.linalg.qr(latent - latent.mean(0))[0].astype(np.float32) * (1, 2, 3, 4)
    latent = latent.astype(np.float32)
    weight = model.decoder.first.weight.detach().numpy()
    expected = np.square(weight).sum(0) * latent.var(0)
    np.testing.assert_allclose(variance_explained(model, latent, 0, CPU), expected / expected.sum(), atol=1e-4)


def test_a_sweep_moves_one_dimension_alone(fit):
    model, counts = fit()
    latent = states(model, counts, CPU)[0]
    values, decoded = sweep(model, latent, 1, 1, CPU)
    np.testing.assert_allclose(values[[0, -1]], np.quantile(latent[:, 1], [0.01, 0.99]), atol=1e-6)
    z = latent.mean(0)
    z[1] = values[4]
    np.testing.assert_allclose(np.log1p(np.exp(rate(model, z[None], np.ones(1, int))[0])), decoded[4], atol=1e-4)
