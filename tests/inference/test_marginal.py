"""The bounds of log p(x) against the integral itself; refits that do not see the cells they are judged by."""

import numpy as np
import pytest
import torch
from scipy import sparse, special, stats

from sc_vaenb.data.counts import Counts
from sc_vaenb.fit.history import Verdict
from sc_vaenb.fit.state import FitConfig
from sc_vaenb.inference import marginal
from sc_vaenb.inference.marginal import log_likelihood, log_prior, refit
from sc_vaenb.model.config import ModelConfig
from sc_vaenb.model.vae import CountVAE

CPU = torch.device("cpu")


@pytest.fixture
def counts():
    dense = np.random.default_rng(0).negative_binomial(1, 0.4, (40, 6)).astype(np.float32) + np.eye(40, 6, dtype="f4")
    dense[dense.sum(1) == 0, 0] = 1
    return Counts(sparse.csr_matrix(dense), (dense.sum(1) / 10).astype(np.float32), np.arange(40) % 2)


def build(**options):
    model = CountVAE(ModelConfig(6, n_latent=1, hidden=(8,), decoder_hidden=(8,), **options)).eval()
    model.depth.fill_(10.0)
    return model


@pytest.mark.slow
@pytest.mark.parametrize("likelihood", ["nb", "zinb", "poisson"])
@pytest.mark.parametrize("prior", ["normal", "conditional"])
def test_the_bound_comes_close_to_the_integral(counts, likelihood, prior):
    model = build(likelihood=likelihood, prior=prior, n_batches=2)
    if prior == "conditional":
        model.prior.mean.data[:] = torch.tensor([[0.5], [-0.5]])
        model.prior.log_var.data[:] = torch.tensor([[-0.5], [0.3]])
    batch = counts.minibatch(slice(None), CPU)
    grid = np.linspace(-6, 6, 121)
    mean, sd = np.zeros(40), np.ones(40)
    if prior == "conditional":
        mean, sd = np.where(counts.batch_index == 0, 0.5, -0.5), np.exp(np.where(counts.batch_index == 0, -0.25, 0.15))
    joint = []
    with torch.inference_mode():
        for z in grid:
            raw = model.decode(torch.full((40, 1), z, dtype=torch.float32), batch)
            seen = model.likelihood.log_prob(raw, model.offset(batch), batch).double().numpy()
            joint.append(seen + stats.norm.logpdf(z, mean, sd))
    exact = special.logsumexp(joint, axis=0) + np.log(grid[1] - grid[0])
    bound, elbo, _ = log_likelihood(model, counts, 300, CPU, seed=0)
    np.testing.assert_allclose(bound, exact, atol=0.4)
    assert bound.mean() == pytest.approx(exact.mean(), abs=0.05)
    assert (elbo < exact + 0.1).all()
    assert elbo.mean() < bound.mean()


def test_it_is_the_likelihood_itself_where_the_state_says_nothing(counts):
    model = build()
    for layer in (model.encoder.output, model.decoder.output):  # q is the prior, and the counts ignore the state
        layer.weight.data.zero_()
        layer.bias.data.zero_()
    model.likelihood.log_theta.data.fill_(np.log(2.0))
    bound, elbo, zeros = log_likelihood(model, counts, 10, CPU, seed=0)
    mu = 10 / 6 * counts.size_factor[:, None].astype(float)
    expected = stats.nbinom.logpmf(counts.matrix.toarray(), 2, 2 / (2 + mu)).sum(1)
    np.testing.assert_allclose(bound, expected, rtol=1e-4)
    np.testing.assert_allclose(elbo, expected, rtol=1e-4)
    assert zeros.mean() == pytest.approx(stats.nbinom.pmf(0, 2, 2 / (2 + mu)).mean(), abs=0.1)


def test_log_prior_is_the_density_of_the_prior():
    z = torch.linspace(-3, 3, 7)[:, None]
    plain = log_prior(build(), z, torch.zeros(7, dtype=torch.int64))
    np.testing.assert_allclose(plain, stats.norm.logpdf(z[:, 0]), atol=1e-5)
    model = build(prior="conditional", n_batches=2)
    model.prior.mean.data[1], model.prior.log_var.data[1] = 2.0, -4.0
    other = log_prior(model, z, torch.ones(7, dtype=torch.int64)).detach()
    np.testing.assert_allclose(other, stats.norm.logpdf(z[:, 0], 2, np.exp(-2)), rtol=1e-4)


def test_a_refit_does_not_see_the_cells_that_judge_it(counts, monkeypatch):
    options, held_out = FitConfig(n_steps=3, weight_decay=0.1, patience=10), np.array([3, 7, 20])
    seen = []
    plain = marginal.fit
    monkeypatch.setattr(marginal, "fit", lambda config, given, *rest: seen.append(given) or plain(config, given, *rest))
    found = refit(ModelConfig(6, n_latent=1, hidden=(8,)), counts, held_out, options, 10, CPU, 0)
    rest = np.setdiff1d(np.arange(40), held_out)
    np.testing.assert_array_equal(seen[0].matrix.toarray(), counts.matrix.toarray()[rest])
    np.testing.assert_array_equal(seen[0].size_factor, counts.size_factor[rest])
    np.testing.assert_array_equal(seen[0].batch_index, counts.batch_index[rest])
    assert [len(values) for values in found[:3]] == [3, 3, 3]
    assert found.steps == 3


def test_an_interruption_is_not_swallowed(counts, monkeypatch):
    stopped = None, None, Verdict("interrupted", False, 1, 1, 0, "")
    monkeypatch.setattr(marginal, "fit", lambda *args: stopped)
    with pytest.raises(KeyboardInterrupt):
        refit(ModelConfig(6), counts, np.array([1]), FitConfig(n_steps=3, weight_decay=0.1), 10, CPU, 0)
