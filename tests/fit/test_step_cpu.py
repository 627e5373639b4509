"""The gradients written out against those of autograd."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import sparse

from sc_vaenb.data.counts import Counts
from sc_vaenb.fit.loop import CLIP, Step, fit
from sc_vaenb.fit.state import FitConfig
from sc_vaenb.fit.step_cpu import ExplicitStep, step_on_cpu
from sc_vaenb.model.config import ModelConfig
from sc_vaenb.model.vae import CountVAE

CPU = torch.device("cpu")
OPTIONS = FitConfig(n_steps=30, weight_decay=0.1, batch_size=40)
PLAIN = ModelConfig(n_genes=30, n_latent=4, hidden=(12,), decoder_hidden=(10,))
CONDITIONAL = replace(PLAIN, n_batches=3)
CONFIGS = {
    "unconditional": PLAIN,
    "conditional": CONDITIONAL,
    "encode_batch": replace(CONDITIONAL, encode_batch=True),
    "batches that share a code": replace(CONDITIONAL, batch_code=(0, 1, 1)),
    "embedded": replace(CONDITIONAL, batch_width=2),
    "embedded, encode_batch, covariates": replace(
        CONDITIONAL, batch_width=2, batch_code=(0, 1, 1), encode_batch=True, n_covariates=2
    ),
    "covariates": replace(CONDITIONAL, n_covariates=2),
    "size factor as covariate": replace(CONDITIONAL, size_factor_as="covariate"),
    "gene-batch": replace(CONDITIONAL, dispersion="gene-batch"),
    "two hidden layers": replace(CONDITIONAL, hidden=(12, 8), decoder_hidden=(8, 12)),
    "linear decoder": replace(CONDITIONAL, decoder_hidden=()),
    "no hidden layer": replace(PLAIN, hidden=(), decoder_hidden=()),
}


@pytest.fixture(scope="module")
def counts():
    rng = np.random.default_rng(0)
    dense = rng.negative_binomial(0.4, 0.05, size=(90, 30)).astype(np.float32)
    dense[0, 0] = 5000
    size = dense.sum(1) + 1
    side_inputs = {"covariates": rng.normal(size=(90, 2)).astype(np.float32)}
    return Counts(sparse.csr_matrix(dense), (size / size.mean()).astype(np.float32), np.arange(90) % 3, side_inputs)


def model_of(config, counts):
    model = CountVAE(config)
    model.initialise(counts.minibatch(np.arange(90), CPU))
    with torch.no_grad():  # out of bounds here and there, where no gradient must pass
        model.likelihood.log_theta[0, :2] = torch.tensor([-12.0, 20.0])
        model.encoder.output.bias[config.n_latent :][:2] = torch.tensor([-15.0, 9.0])
    return model


@pytest.mark.parametrize("name", CONFIGS)
def test_gradients_and_terms_are_those_of_autograd(name, counts):
    model, cells = model_of(CONFIGS[name], counts), np.random.default_rng(1).permutation(90)[:40]
    steps = (
        step_on_cpu(model, counts, OPTIONS, 40, torch.Generator().manual_seed(1)),
        Step(copy.deepcopy(model), counts, OPTIONS, 40, torch.Generator().manual_seed(1)),
    )
    assert type(steps[0]) is ExplicitStep
    found = [step.gradients(cells, 0.7, 1.0) for step in steps]
    for step_cpu, expected in zip(*found, strict=True):
        torch.testing.assert_close(step_cpu, expected)
    for (parameter, step_cpu), expected in zip(model.named_parameters(), steps[1].model.parameters(), strict=True):
        scale = expected.grad.abs().max().item()
        assert scale > 0, parameter
        torch.testing.assert_close(step_cpu.grad, expected.grad, rtol=1e-4, atol=1e-5 * scale, msg=parameter)


@pytest.mark.parametrize(
    ("config", "options"),
    [
        ({"likelihood": "zinb"}, {}),
        ({"link": "exp"}, {}),
        ({"norm": "batch"}, {}),
        ({"activation": "relu"}, {}),
        ({"prior": "conditional"}, {}),
        ({"dropout": 0.1}, {}),
        ({"penalties": {"mmd": 1.0}}, {}),
        ({}, {"free_bits": 0.1}),
    ],
)
def test_every_other_model_is_left_to_autograd(config, options, counts):
    model = CountVAE(replace(CONDITIONAL, **config))
    assert type(step_on_cpu(model, counts, replace(OPTIONS, **options), 40, torch.Generator().manual_seed(0))) is Step


def test_a_fit_ends_where_autograd_leads_it(counts):
    fits = [fit(CONDITIONAL, counts, OPTIONS, CPU, seed=0, make_step=make)[:2] for make in (step_on_cpu, Step)]
    losses = [history.column("validation_loss") for _, history in fits]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)
    assert losses[0][-1] < losses[0][0]
    for (name, a), b in zip(fits[0][0].state_dict().items(), fits[1][0].state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3, msg=name)


def test_large_gradients_are_cut_to_the_bound(counts):
    step = step_on_cpu(model_of(CONDITIONAL, counts), counts, OPTIONS, 40, torch.Generator().manual_seed(0))
    step.all_gradients.fill_(1.0)
    step.clip()
    assert all((parameter.grad == 1).all() for parameter in step.model.parameters())
    step.all_gradients.fill_(CLIP)
    step.clip()
    norms = [parameter.grad.norm() for parameter in step.model.parameters()]
    torch.testing.assert_close(torch.stack(norms).norm(), torch.tensor(CLIP))


def test_a_loss_that_is_no_number_stays_none(counts):
    model = model_of(CONDITIONAL, counts)
    with torch.no_grad():
        model.decoder.output.bias[3] = torch.nan
    assert (
        step_on_cpu(model, counts, OPTIONS, 40, torch.Generator().manual_seed(0))
        .gradients(np.arange(40), 1.0, 1.0)
        .loss.isnan()
    )
