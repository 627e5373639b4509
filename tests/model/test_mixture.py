"""Priors of several components: the bound against Monte Carlo, what is learned from cells of known kinds, extremes."""

import numpy as np
import pytest
import torch
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from sc_vaenb.inference.marginal import log_prior
from sc_vaenb.model.config import ModelConfig
from sc_vaenb.model.mixture import LIVE, Mixture, Vamp
from sc_vaenb.model.prior import PRIORS
from sc_vaenb.model.vae import CountVAE


def known(n_components=3, n_latent=4):
    """A mixture with components here and there, in float64, as after a fit."""
    generator = torch.Generator().manual_seed(1)
    prior = Mixture(n_latent, 0, n_components).double().eval()
    prior.mean.copy_(2 * torch.randn(n_components, n_latent, generator=generator))
    prior.log_var.copy_(0.5 * torch.randn(n_components, n_latent, generator=generator))
    prior.weight.copy_(torch.tensor([0.5, 0.3, 0.2])[:n_components])
    return prior


def posteriors(n_latent=4):
    mean, log_var = torch.randn(2, 9, n_latent, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return 2 * mean, log_var - 1


def distribution(prior):
    parts = Independent(Normal(prior.mean, (0.5 * prior.log_var).exp()), 1)
    return MixtureSameFamily(Categorical(prior.weight), parts)


def kinds(n, n_kinds, seed, n_latent=6):
    """Posteriors of n cells of so many kinds, whose means are 5.7 apart, and their kinds."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(n_kinds, size=n)
    mean = 4 * np.eye(n_latent)[kind] + rng.normal(0, 0.5, (n, n_latent))
    return torch.from_numpy(mean.astype(np.float32)), torch.full((n, n_latent), -2.0), kind


@pytest.mark.parametrize("apart", [1, 10])
def test_the_bound_is_above_the_kl_and_equal_where_components_are_apart(apart):
    prior, (mean, log_var) = known(), posteriors()
    prior.mean *= apart
    mean = mean if apart == 1 else prior.mean.repeat(3, 1) + 0.3 * mean
    bound = prior.kl(mean, log_var, None).sum(1)
    torch.manual_seed(0)
    q = Independent(Normal(mean, (0.5 * log_var).exp()), 1)
    z = q.sample((10_000,))
    sampled = q.log_prob(z) - distribution(prior).log_prob(z)
    error = 4 * sampled.std(0) / len(z) ** 0.5
    assert (bound > sampled.mean(0) - error).all()
    if apart == 10:
        assert (bound < sampled.mean(0) + error).all()


def test_dimensions_and_the_component_add_up():
    prior, (mean, log_var) = known(), posteriors()
    kl = torch.distributions.kl_divergence(
        Normal(mean.unsqueeze(1), (0.5 * log_var).exp().unsqueeze(1)), Normal(prior.mean, (0.5 * prior.log_var).exp())
    ).sum(2)
    torch.testing.assert_close(
        prior.kl(mean, log_var, None).sum(1), -(prior.weight * (-kl).exp()).sum(1).log(), rtol=1e-9, atol=1e-9
    )
    assert prior.kl(mean, log_var, None).shape == mean.shape


@pytest.mark.parametrize("name", ["mog", "vamp"])
def test_one_standard_component_is_the_normal_prior(name):
    prior, (mean, log_var) = PRIORS[name](4, 0, 1).double().eval(), posteriors()
    torch.testing.assert_close(
        prior.kl(mean, log_var, None), PRIORS["normal"](4, 0).kl(mean, log_var, None), rtol=1e-12, atol=1e-12
    )


def test_without_width_it_is_the_density():
    model = CountVAE(ModelConfig(6, n_latent=4, prior="mog", n_components=3)).eval()
    model.prior.load_state_dict({name: value.float() for name, value in known().state_dict().items()})
    z = posteriors()[0].float()
    torch.testing.assert_close(
        log_prior(model, z, torch.zeros(9, dtype=torch.int64)), distribution(model.prior).log_prob(z)
    )


def test_draws_have_the_moments_of_the_mixture():
    prior = known()
    z = prior.draw(torch.zeros(40_000, dtype=torch.int64), torch.Generator().manual_seed(0))
    expected = distribution(prior)
    torch.testing.assert_close(z.mean(0), expected.mean, rtol=0, atol=0.05)
    torch.testing.assert_close(z.var(0), expected.variance, rtol=0.05, atol=0)
    near = prior.assignment(z, torch.full_like(z, -30.0)).mean(0)
    torch.testing.assert_close(near, prior.weight, rtol=0, atol=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("n_kinds", [3, 6])  # a single kind is split into two or three
def test_each_kind_has_a_component_of_its_own(n_kinds):
    prior = Mixture(6, 0, 20).train()
    for step in range(500):
        mean, log_var, _ = kinds(128, n_kinds, step)
        prior.kl(mean, log_var, None)
    mean, log_var, kind = kinds(1000, n_kinds, 1000)
    member = prior.eval().assignment(mean, log_var)
    assert n_kinds <= int(prior.live().sum()) <= n_kinds + 1  # one kind may have two, which nothing tells apart
    assert (member[:, ~prior.live()] == 0).all()
    component = member.argmax(1).numpy()
    for at in np.unique(component):
        (k,) = np.unique(kind[component == at])
        np.testing.assert_allclose(prior.mean[at], mean[torch.from_numpy(kind == k)].mean(0), atol=0.5)
    normal = PRIORS["normal"](6, 0).kl(mean, log_var, None).sum(1).mean()
    assert prior.kl(mean, log_var, None).sum(1).mean() < normal - 2
    assert prior.weight.sum().item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("far", [0.0, 1e2, 1e4])
@pytest.mark.parametrize("width", [-12.0, 6.0])
@pytest.mark.parametrize("component", [-8.0, 8.0])
def test_gradients_are_finite_in_extremes(far, width, component):
    prior = Mixture(4, 0, 5).train()
    prior.log_var.fill_(component)
    mean = torch.full((7, 4), far, requires_grad=True)
    log_var = torch.full((7, 4), width, requires_grad=True)
    for _ in range(3):
        prior.kl(mean, log_var, None).sum().backward()
    for value in (mean.grad, log_var.grad, prior.mean, prior.log_var, prior.weight):
        assert torch.isfinite(value).all()
    assert prior.log_var.abs().max() <= 8


def test_what_is_evaluated_does_not_learn():
    prior = Mixture(6, 0, 5).eval()
    before = {name: value.clone() for name, value in prior.state_dict().items()}
    prior.kl(*kinds(50, 3, 0)[:2], None)
    assert all(torch.equal(value, before[name]) for name, value in prior.state_dict().items())


def test_pseudo_inputs_are_cells_and_their_gradient_reaches_the_encoder(batch):
    model = CountVAE(ModelConfig(n_genes=40, n_latent=4, hidden=(16,), prior="vamp", n_components=7))
    model.initialise(batch)
    assert isinstance(model.prior, Vamp)
    expected = torch.linspace(0, 59, 7).long()
    for found, cell in zip(model.prior.inputs.dense(model.prior.inputs.count), expected, strict=True):
        torch.testing.assert_close(found, batch.dense(batch.count)[cell])
    mean, log_var = (part.detach() for part in model.encode(batch))
    model.prior.kl(mean, log_var, batch.batch_index).sum().backward()
    assert model.encoder.first.weight.grad.abs().max() > 0
    torch.testing.assert_close(model.prior.mean, mean[expected])  # kept for when there are no inputs
    assert not any(name.startswith("prior.inputs") for name in model.state_dict())
    assert model.prior.weight.min() > LIVE
