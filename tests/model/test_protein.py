"""Proteins: the mixture against scipy, where it starts, and that what was not measured has no part in anything."""

import itertools

import numpy as np
import pytest
import torch
from scipy import special, stats

from sc_vaenb.model.config import ModelConfig
from sc_vaenb.model.protein import MIN_CELLS_TWO_LEVELS, Levels, mixture, two_levels
from sc_vaenb.model.vae import CountVAE

X = [0, 1, 3, 17, 250, 12_345, 1_000_000]
BACKGROUND = [1e-3, 0.5, 20, 1e4]
RATIO = [1.01, 30, 1e4]  # of the foreground's mean to the background's
LOG_ODDS = [-40, -3, 0, 3, 40]
THETA = [0.05, 1, 30, 5e3]


@pytest.fixture(scope="module")
def grid():
    x, background, ratio, odds, low, high = map(
        np.array, zip(*itertools.product(X, BACKGROUND, RATIO, LOG_ODDS, THETA, THETA), strict=True)
    )
    values = (x, np.log(background), np.log(background * ratio), odds, np.log(low), np.log(high))
    return [torch.tensor(value, dtype=torch.float32) for value in values]


def mixed(x, background, foreground, odds, low, high):
    """One protein per combination: `mixture` has one theta per protein."""
    levels = Levels(background[None], foreground[None], odds[None])
    return mixture(x[None], levels, torch.stack([low, high]))[0]


def by_scipy(x, background, foreground, odds, low, high):
    parts = [
        stats.nbinom.logpmf(x, np.exp(t), special.expit(t - mu)) for mu, t in ((background, low), (foreground, high))
    ]
    return np.logaddexp(special.log_expit(-odds) + parts[0], special.log_expit(odds) + parts[1])


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_the_mixture_agrees_with_scipy_over_the_extremes(grid, kind):
    found = mixed(*(value.to(kind) for value in grid)).double().numpy()
    expected = by_scipy(*(value.double().numpy() for value in grid))
    sound = np.isfinite(expected)  # scipy's own limits: theta / (theta + mu) rounds to 0 or 1
    assert sound.mean() > 0.99
    error = np.abs(found - expected)[sound] / np.maximum(np.abs(expected[sound]), 1e-3)
    assert error.max() < 1e-4
    assert np.isfinite(found).all()


def test_its_gradients_are_those_of_the_plain_formula_and_finite(grid):
    def gradients(function, kind):
        leaves = [value.to(kind).clone().requires_grad_() for value in grid[1:]]
        function(grid[0].to(kind), *leaves).sum().backward()
        return torch.stack([leaf.grad for leaf in leaves]).double()

    def plain(x, background, foreground, odds, low, high):
        def nb(log_mu, log_theta):
            theta, log_sum = log_theta.exp(), torch.logaddexp(log_mu, log_theta)
            chosen = torch.lgamma(x + theta) - torch.lgamma(theta) - torch.lgamma(x + 1)
            return chosen + theta * (log_theta - log_sum) + x * (log_mu - log_sum)

        log_share = torch.nn.functional.logsigmoid
        return torch.logaddexp(log_share(-odds) + nb(background, low), log_share(odds) + nb(foreground, high))

    expected, found = gradients(plain, torch.float64), gradients(mixed, torch.float32)
    assert torch.isfinite(found).all()
    scale = expected.abs().clamp(min=1.0)
    # where two parts are equally likely, float32 cannot tell which of two large logs is the larger
    assert ((found - expected).abs() / scale).quantile(0.95) < 1e-3


def test_two_levels_are_found_where_there_are_two():
    rng = np.random.default_rng(0)
    high = rng.random((500, 2)) < [0.3, 0.02]
    x = torch.tensor(rng.poisson(np.where(high, 400, 8)), dtype=torch.float32)
    x[::5, 0] = torch.nan
    background, bound, share = two_levels(x)
    torch.testing.assert_close(background.exp(), torch.full((2,), 8.0), rtol=0.05, atol=0)
    torch.testing.assert_close(bound.exp(), torch.full((2,), 392.0), rtol=0.05, atol=0)
    torch.testing.assert_close(share, torch.tensor(high.mean(0), dtype=torch.float32), rtol=0.1, atol=0)
    assert two_levels(x[: MIN_CELLS_TWO_LEVELS - 1]).isnan().all()
    x[MIN_CELLS_TWO_LEVELS - 1 :, 1] = torch.nan
    assert two_levels(x)[:, 1].isnan().all()
    assert two_levels(torch.full((30, 1), 5.0)).isfinite().all()  # the same for all cells


@pytest.fixture
def measured(batch):
    """The minibatch with three proteins, the last of which the third batch lacks."""
    rng = np.random.default_rng(1)
    values = rng.poisson(rng.choice([5, 300], (60, 3))).astype(np.float32)
    values[np.arange(60) % 3 == 2, 2] = np.nan
    batch.side_inputs["protein"] = torch.from_numpy(values)
    return batch


@pytest.fixture
def model(measured):
    about = {"n_latent": 4, "hidden": (16,), "decoder_hidden": (16,), "n_batches": 3, "encode_batch": True}
    model = CountVAE(ModelConfig(n_genes=40, n_proteins=3, penalties={"protein": 2.0}, **about))
    model.initialise(measured)
    return model.eval()


def loss(model, batch):
    batch.generator = torch.Generator().manual_seed(0)
    return model.loss(batch)


def test_a_batch_without_a_protein_starts_where_the_others_do(model):
    torch.testing.assert_close(model.protein.background[2, 2], model.protein.background[:2, 2].mean())
    assert (model.protein.background.exp() - 5).abs().max() < 2.01
    assert (model.protein.bound.exp() - 295).abs().max() < 30


def test_the_loss_is_the_weighted_likelihood_of_what_was_measured(model, measured):
    terms = loss(model, measured)
    mean, log_var = model.encode(measured)
    noise = torch.randn(mean.shape, generator=torch.Generator().manual_seed(0))
    levels = model.protein.decode(mean + (0.5 * log_var).exp() * noise, [], measured.batch_index)
    x = measured.side_inputs["protein"].double().numpy()
    theta = model.protein.log_theta.view(2, 1, 3)
    arguments = [a.detach().double().numpy() for a in (*levels, *theta)]
    expected = np.where(np.isnan(x), 0, by_scipy(np.nan_to_num(x), *arguments)).sum(1).mean()
    assert terms.penalties.item() == pytest.approx(-2 * expected, rel=1e-4)
    assert terms.loss.item() == pytest.approx(
        (terms.reconstruction + terms.kl_per_dim.sum() + terms.penalties.sum()).item(), rel=1e-6
    )


def test_what_was_not_measured_has_no_part_in_encoder_loss_and_gradients(model, measured):
    missing = measured.side_inputs["protein"].isnan()
    shown = model.protein.encoder_input(measured)
    assert (shown[:, :3][missing] == 0).all()
    assert torch.equal(shown[:, 3:] == 0, missing)
    measured.side_inputs["protein"][:, 2] = torch.nan
    loss(model, measured).loss.backward()
    for name in ("background_shift", "bound_shift"):
        gradient = getattr(model.protein, name).grad
        assert (gradient[:, 2] == 0).all()
        assert (gradient[:, :2] != 0).all()
    encoded = model.encode(measured)[0]
    del measured.side_inputs["protein"]
    assert loss(model, measured).penalties.item() == 0
    assert not torch.allclose(model.encode(measured)[0], encoded)


def test_the_encoder_learns_to_do_without_proteins_in_the_fit_alone(model, measured):
    assert torch.equal(model.protein.encoder_input(measured), model.protein.encoder_input(measured))
    model.train()
    measured.generator = torch.Generator().manual_seed(0)
    hidden = (model.protein.encoder_input(measured)[:, 3:] == 0).all(1)
    assert 0.05 < hidden.float().mean() < 0.6
