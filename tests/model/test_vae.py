import numpy as np
import pytest
import torch

from sc_vaenb.model.config import ModelConfig
from sc_vaenb.model.vae import CountVAE


def build(**kwargs):
    return CountVAE(ModelConfig(n_genes=40, n_latent=4, hidden=(16,), decoder_hidden=(16,), **kwargs)).eval()


@pytest.mark.parametrize("link", ["softmax", "exp", "softplus"])
@pytest.mark.parametrize("likelihood", ["nb", "zinb", "poisson"])
def test_a_new_model_starts_at_the_mean_expression(batch, link, likelihood):
    model = build(link=link, likelihood=likelihood)
    model.initialise(batch)
    model.decoder.output.weight.data.zero_()
    raw = model.decode(torch.zeros(60, 4), batch)[:, :40]
    mu = (model.likelihood.link(raw) + model.offset(batch)).exp()
    if likelihood == "zinb":
        assert (torch.sigmoid(model.decoder.output.bias[40:]) < 0.02).all()
    mean = batch.dense(batch.count / batch.size_factor[batch.row]).mean(0)
    if link == "softmax":  # shares: the cell's depth is the sum of its counts
        mean = mean / mean.sum() * batch.count.sum() / batch.size_factor.sum()
    torch.testing.assert_close(mu / batch.size_factor[:, None], mean.expand_as(mu), rtol=0.05, atol=0.02)


def test_the_size_factor_multiplies_or_is_seen_by_the_decoder(batch):
    z = torch.randn(60, 4)
    multiplied = build(link="exp")
    assert torch.equal(multiplied.offset(batch).squeeze(1), batch.size_factor.log())
    before = multiplied.decode(z, batch)
    seen = build(link="exp", size_factor_as="covariate")
    seen_before = seen.decode(z, batch)
    assert torch.count_nonzero(seen.offset(batch)) == 0
    batch.size_factor = batch.size_factor * 2
    assert torch.equal(multiplied.decode(z, batch), before)
    assert not torch.allclose(seen.decode(z, batch), seen_before)


def test_the_batch_reaches_the_decoder_always_and_the_encoder_on_request(batch):
    plain, both = (build(n_batches=3, batch_width=2, encode_batch=flag) for flag in (False, True))
    z = torch.randn(60, 4)
    seen = [(m.encode(batch)[0], m.decode(z, batch)) for m in (plain, both)]
    batch.batch_index = (batch.batch_index + 1) % 3
    moved = [(m.encode(batch)[0], m.decode(z, batch)) for m in (plain, both)]
    assert torch.equal(seen[0][0], moved[0][0])
    assert not torch.allclose(seen[1][0], moved[1][0])
    assert not any(torch.allclose(a[1], b[1]) for a, b in zip(seen, moved, strict=True))


def test_the_loss_is_reconstruction_plus_weighted_kl_with_free_bits(batch):
    model = build()

    def loss(**kwargs):
        batch.generator = torch.Generator().manual_seed(3)
        return model.loss(batch, **kwargs)

    terms = loss(beta=0.5)
    assert terms.loss.item() == pytest.approx((terms.reconstruction + 0.5 * terms.kl_per_dim.sum()).item())
    free = 1.0 + terms.kl_per_dim.max().item()
    held = loss(beta=0.5, free_bits=free)
    assert held.loss.item() == pytest.approx(held.reconstruction.item() + 0.5 * 4 * free, rel=1e-6)
    held.loss.backward()
    assert model.prior.kl(*model.encode(batch), batch.batch_index).mean(0).max() < free


def test_the_encoder_sees_the_logarithm_of_scaled_counts(batch):
    x = batch.dense(batch.count).numpy()
    np.testing.assert_allclose(
        batch.dense(batch.log_normalised()).numpy(), np.log1p(x / batch.size_factor.numpy()[:, None]), rtol=1e-6
    )
    assert torch.equal(batch.at_nonzeros(batch.dense(batch.count)), batch.count)


@pytest.mark.slow
def test_fitting_the_decoder_recovers_known_rates(batch):
    """With everything else fixed, the maximum of the likelihood is where the rates are the means."""
    model = build(link="exp", likelihood="poisson")
    model.decoder.output.weight.data.zero_()
    bias = model.decoder.output.bias
    optimizer = torch.optim.LBFGS([bias], max_iter=200, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        batch.generator = torch.Generator().manual_seed(0)
        loss = model.loss(batch, beta=0.0).loss
        loss.backward()
        return loss

    optimizer.step(closure)
    expected = batch.dense(batch.count).sum(0) / batch.size_factor.sum()
    torch.testing.assert_close(bias.exp(), expected, rtol=1e-3, atol=1e-3)


def test_a_gaussian_expects_what_its_values_stand_for(batch):
    """log1p(count / size factor), brought back: the link, and the depth that goes with it, have no say."""
    model = build(likelihood="gaussian")
    model.initialise(batch)
    with torch.no_grad():
        expected = model.log_mean(torch.zeros(60, 4), batch.size_factor, batch.batch_index).exp()
        raw = model.decode(torch.zeros(60, 4), batch)
    np.testing.assert_allclose(expected, raw.clamp(min=0).expm1() * batch.size_factor[:, None], rtol=1e-4, atol=1e-6)
