"""Every likelihood against scipy, summed over the cells of a real minibatch."""

import math

import numpy as np
import pytest
import torch
from scipy import sparse, stats

from sc_vaenb.data.counts import Counts
from sc_vaenb.model import compiled, nb_compiled, nb_kernel
from sc_vaenb.model.distributions import negative_binomial
from sc_vaenb.model.likelihood import INVERSE_LINKS, LIKELIHOODS, LINKS, gene_moments
from sc_vaenb.model.nb_compiled import TABLE_SIZE
from sc_vaenb.model.nb_kernel import negative_binomial_cells


def nb(x, mu, theta, log=True):
    return (stats.nbinom.logpmf if log else stats.nbinom.pmf)(x, theta, theta / (theta + mu))


@pytest.fixture(params=["compiled", "in torch"])
def kernel(request, monkeypatch):
    """The kernel as a CPU and as any other device computes it."""
    if request.param == "in torch":
        monkeypatch.setattr(nb_kernel, "_Compiled", nb_kernel._InTorch)


@pytest.fixture
def raw(batch):
    return 2 * torch.randn(batch.n_cells, 2 * batch.n_genes, generator=torch.Generator().manual_seed(1))


def numbers(name, batch, raw, dispersions=1):
    """A likelihood with random parameters, and everything scipy needs, in float64."""
    likelihood = LIKELIHOODS[name](batch.n_genes, dispersions, "exp")
    generator = torch.Generator().manual_seed(2)
    for parameter in likelihood.parameters():
        parameter.data.normal_(generator=generator)
    offset = batch.size_factor.log().unsqueeze(1)
    x = batch.dense(batch.count).double().numpy()
    mu = np.exp((raw[:, : batch.n_genes] + offset).double().numpy())
    return likelihood, offset, x, mu


@pytest.mark.parametrize("dispersions", [1, 3])
def test_negative_binomial(batch, raw, dispersions):
    likelihood, offset, x, mu = numbers("nb", batch, raw, dispersions)
    theta = np.exp(likelihood.log_theta.detach().double().numpy())
    theta = theta if dispersions == 1 else theta[batch.batch_index]
    found = likelihood.log_prob(raw[:, : batch.n_genes], offset, batch).detach().numpy()
    np.testing.assert_allclose(found, nb(x, mu, theta).sum(1), rtol=1e-5)


def test_zero_inflated_negative_binomial(batch, raw):
    likelihood, offset, x, mu = numbers("zinb", batch, raw)
    theta = np.exp(likelihood.log_theta.detach().double().numpy())
    extra = 1 / (1 + np.exp(-raw[:, batch.n_genes :].double().numpy()))
    at_zero = np.log(extra + (1 - extra) * nb(0, mu, theta, log=False))
    expected = np.where(x == 0, at_zero, np.log1p(-extra) + nb(x, mu, theta)).sum(1)
    np.testing.assert_allclose(likelihood.log_prob(raw, offset, batch).detach().numpy(), expected, rtol=1e-5)


def test_zero_inflation_of_zero_is_the_negative_binomial(batch, raw):
    zinb, offset, *_ = numbers("zinb", batch, raw)
    raw[:, batch.n_genes :] = -40.0
    expected = negative_binomial_cells(raw[:, : batch.n_genes], offset, zinb.log_theta, batch)
    torch.testing.assert_close(zinb.log_prob(raw, offset, batch), expected, rtol=1e-5, atol=1e-3)


def test_poisson(batch, raw):
    likelihood, offset, x, mu = numbers("poisson", batch, raw)
    found = likelihood.log_prob(raw[:, : batch.n_genes], offset, batch).numpy()
    np.testing.assert_allclose(found, stats.poisson.logpmf(x, mu).sum(1), rtol=1e-5)


@pytest.mark.parametrize("dispersions", [1, 3])
def test_gaussian(batch, raw, dispersions):
    likelihood, offset, x, _ = numbers("gaussian", batch, raw, dispersions)
    mean = raw[:, : batch.n_genes]
    log_variance = likelihood.log_variance.detach().double().numpy()
    sd = np.exp(0.5 * (log_variance if dispersions == 1 else log_variance[batch.batch_index]))
    y = np.log1p(x / batch.size_factor.double().numpy()[:, None])
    found = likelihood.log_prob(mean, offset, batch).detach().numpy()
    np.testing.assert_allclose(found, stats.norm.logpdf(y, mean.double().numpy(), sd).sum(1), rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("shares", [False, True])
@pytest.mark.parametrize("dispersions", [1, 3])
@pytest.mark.parametrize("cells", [slice(0, 60), slice(0, 1)], ids=["table", "no table"])
@pytest.mark.usefixtures("kernel")
def test_the_fast_kernel_is_the_plain_sum_in_value_and_gradient(counts, raw, dispersions, cells, shares):
    batch = counts.minibatch(cells, torch.device("cpu"))
    n = batch.n_cells
    assert (batch.count > TABLE_SIZE).any()
    offset = batch.size_factor.log().unsqueeze(1) + (4.0 if shares else 0.0)
    log_theta = torch.linspace(-9, 18, dispersions * 40).view(dispersions, 40)
    weight = torch.linspace(0.5, 2, n)  # a different gradient for every cell

    def value_and_gradients(per_cell):
        rate, theta = raw[:n, :40].clone().requires_grad_(), log_theta.clone().requires_grad_()
        value = per_cell(rate, theta)
        (value * weight).sum().backward()
        return value, rate.grad, theta.grad

    def plain(rate, theta):
        each = theta.expand(n, -1) if dispersions == 1 else theta[batch.batch_index]
        log_mu = (rate.log_softmax(1) if shares else rate) + offset
        return negative_binomial(batch.dense(batch.count), log_mu, each).sum(1)

    fast = value_and_gradients(
        lambda rate, theta: negative_binomial_cells(rate, offset, theta, batch, is_softmax=shares)
    )
    for found, expected in zip(fast, value_and_gradients(plain), strict=True):
        torch.testing.assert_close(found, expected, rtol=2e-4, atol=2e-3)


@pytest.mark.usefixtures("kernel")
def test_the_fast_kernel_takes_fractions(counts, raw):
    batch = counts.minibatch(slice(0, 60), torch.device("cpu"))
    batch.count = batch.count * torch.linspace(0.1, 1.3, len(batch.count))
    theta = torch.linspace(-2, 5, 40).view(1, 40)
    found = negative_binomial_cells(raw[:, :40], torch.zeros(60, 1), theta, batch)
    plain = negative_binomial(batch.dense(batch.count).double(), raw[:, :40].double(), theta.double().expand(60, -1))
    assert (batch.count < 1).any()
    torch.testing.assert_close(found.double(), plain.sum(1), rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("log_theta", [-9.2, 0.0, 18.4])
@pytest.mark.parametrize("log_mu", [-18.0, -2.0, 2.0, 13.8])
@pytest.mark.usefixtures("kernel")
def test_the_fast_kernel_is_right_for_single_counts_over_the_extremes(log_theta, log_mu):
    x = np.array([0, 1, 2, 15, 16, 17, 300, 1_000_000])
    one_gene = Counts(sparse.csr_matrix(x[:, None].astype(np.float32)), np.ones(8, np.float32), np.zeros(8, np.int64))
    batch = one_gene.minibatch(slice(None), torch.device("cpu"))
    rate, theta = torch.full((8, 1), log_mu), torch.full((1, 1), log_theta)
    found = negative_binomial_cells(rate, torch.zeros(8, 1), theta, batch).double()
    expected = negative_binomial(torch.tensor(x)[:, None].double(), rate.double(), theta.double().expand(8, 1))[:, 0]
    assert ((found - expected).abs() / expected.abs().clamp(min=1e-3)).max() < 1e-4


@pytest.mark.usefixtures("kernel")
def test_the_fast_kernel_is_finite_where_rates_underflow_or_overflow(batch):
    for scale in (-300.0, 300.0):
        rate = torch.full((60, 40), scale, requires_grad=True)
        with torch.no_grad():
            rate[:, ::2] *= -1
        theta = torch.zeros(1, 40, requires_grad=True)
        for shares in (False, True):
            value = negative_binomial_cells(rate, torch.zeros(60, 1), theta, batch, is_softmax=shares)
            gradients = torch.autograd.grad(value.sum(), [rate, theta])
            assert all(torch.isfinite(t).all() for t in (value, *gradients))


@pytest.mark.parametrize("name", LINKS)
def test_links_and_their_inverses(name):
    mean = torch.logspace(-6, 3, 40)
    raw = INVERSE_LINKS[name](mean).unsqueeze(0)
    expected = mean / mean.sum() if name == "softmax" else mean
    torch.testing.assert_close(LINKS[name](raw).exp().squeeze(0), expected, rtol=1e-4, atol=1e-10)


def test_the_softplus_link_is_finite_with_a_gradient_far_below_zero():
    raw = torch.tensor([[-80.0, -15.1, -14.9, 0.0, 80.0]], requires_grad=True)
    log_rate = LINKS["softplus"](raw)
    log_rate.sum().backward()
    assert log_rate[0].tolist() == pytest.approx([-80.0, -15.1, -14.9, np.log(np.log(2)), np.log(80)], rel=1e-5)
    assert raw.grad[0, :3].tolist() == pytest.approx([1.0, 1.0, 1.0], rel=1e-4)


def test_gene_moments_count_the_zeros(batch):
    dense = batch.dense(batch.count)
    mean, variance = gene_moments(batch, batch.count)
    torch.testing.assert_close(mean, dense.mean(0))
    torch.testing.assert_close(variance, dense.var(0, correction=0), rtol=1e-4, atol=1e-4)


def test_dispersions_start_near_the_truth():
    rng = np.random.default_rng(0)
    theta, n = np.array([0.2, 1.0, 5.0]), 20_000
    size = rng.lognormal(sigma=0.3, size=n)
    size /= size.mean()
    x = rng.negative_binomial(theta, theta / (theta + 4.0 * size[:, None]))
    counts = Counts(sparse.csr_matrix(x.astype(np.float32)), size.astype(np.float32), np.zeros(n, np.int64))
    likelihood = LIKELIHOODS["nb"](3, 1, "exp")
    bias = likelihood.initialise(counts.minibatch(slice(None), torch.device("cpu")))
    np.testing.assert_allclose(likelihood.log_theta.exp().detach().numpy()[0], theta, rtol=0.1)
    np.testing.assert_allclose(bias.exp().numpy(), 4.0, rtol=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["nb", "zinb", "poisson"])
@pytest.mark.parametrize("link", LINKS)
def test_draws_have_the_moments_of_the_distribution(name, link):
    n, raw = 40_000, torch.tensor([[0.5, 1.0, -0.5, 0.2]])
    likelihood = LIKELIHOODS[name](4, 1, link)
    if name != "poisson":
        likelihood.log_theta.data = torch.tensor([[0.0, 1.0, -1.0, 3.0]])
    extra = torch.tensor([[-1.0, 0.0, 1.0, -20.0]])
    raw = torch.cat([raw, extra], 1) if name == "zinb" else raw
    offset, codes = torch.tensor([[math.log(5.0)]]), torch.zeros(n, dtype=torch.int64)
    with torch.no_grad():
        counts = likelihood.draw(
            raw.expand(n, -1), offset.expand(n, -1), codes, torch.Generator().manual_seed(0)
        ).double()
    mu = likelihood.log_mean(raw, offset).exp()[0].double()
    theta = likelihood.log_theta.detach().exp()[0].double() if name != "poisson" else torch.full((4,), math.inf)
    kept = 1 - extra.sigmoid()[0].double() if name == "zinb" else torch.ones(4)
    variance = kept * (mu + mu**2 / theta + mu**2) - (kept * mu) ** 2
    error = (variance / n).sqrt()
    assert ((counts.mean(0) - kept * mu).abs() < 5 * error).all()
    np.testing.assert_allclose(counts.var(0), variance, rtol=0.1)
    assert (counts == counts.round()).all()


def test_a_gaussian_draws_counts_around_what_its_values_stand_for():
    likelihood = LIKELIHOODS["gaussian"](2, 1, "softmax")
    likelihood.log_variance.data = torch.tensor([[-9.0, -2.0]])
    raw = torch.tensor([[3.0, -1.0]]).expand(5000, -1)
    offset = torch.full((5000, 1), math.log(2.0))
    with torch.no_grad():
        counts = likelihood.draw(raw, offset, torch.zeros(5000, dtype=torch.int64), torch.Generator().manual_seed(0))
    assert counts[:, 0].mean().item() == pytest.approx(2 * math.expm1(3), rel=0.01)
    assert likelihood.log_mean(raw, offset)[0, 0].exp().item() == pytest.approx(2 * math.expm1(3), rel=1e-5)
    assert counts[:, 1].mean() < 0.01  # a mean below zero counts is hardly any
    assert likelihood.log_mean(raw, offset)[0, 1] == -math.inf


def test_without_a_folder_for_compiled_code_it_is_compiled_all_the_same(monkeypatch):
    def njit(cache=False, **options):
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return lambda function: ("compiled", function, options)

    monkeypatch.setattr(compiled.numba, "njit", njit)
    assert compiled.cached_njit(len) == ("compiled", len, compiled.OPTIONS)


def test_exp_and_log_are_right_to_float32():
    x = np.random.default_rng(0).uniform(-87, 88, 20_000).astype(np.float32)
    y = np.exp(np.append(x, [-87, 0, 88]).astype(np.float64)).astype(np.float32)
    found = np.array([nb_compiled._exp(value) for value in x])
    assert np.abs(found / np.exp(x.astype(np.float64)) - 1).max() < 2e-7
    assert nb_compiled._exp(np.float32(-1e30)) == nb_compiled._exp(np.float32(-87))
    logs = np.log(y.astype(np.float64))
    assert (np.abs([nb_compiled._log(value) for value in y] - logs) <= 2e-7 * np.abs(logs)).all()
    near_one = np.float32(1) + np.arange(-50, 51, dtype=np.float32) * np.float32(2**-23)
    np.testing.assert_allclose([nb_compiled._log(v) for v in near_one], np.log(near_one.astype(float)), rtol=2e-7)
