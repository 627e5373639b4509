import numpy as np
import pytest
import torch
from scipy import sparse

from sc_vaenb.data.counts import Counts
from sc_vaenb.model.config import ModelConfig
from sc_vaenb.model.peaks import LEFT_OUT_WEIGHT, is_measured, product, split, weight_of_genes
from sc_vaenb.model.vae import CountVAE

CPU = torch.device("cpu")
CONFIG = ModelConfig(n_genes=20, n_peaks=50, n_latent=3, hidden=(8,), decoder_hidden=(8,), penalties={"peaks": 1.0})


@pytest.fixture
def counts():
    rng = np.random.default_rng(0)
    peaks = rng.poisson(0.5, (30, 50))
    peaks[:5] = 0  # not measured
    return Counts(
        sparse.csr_matrix(rng.poisson(2.0, (30, 20)) + 1, dtype=np.float32),
        np.ones(30, np.float32),
        np.zeros(30, np.int64),
        peaks=sparse.csr_matrix(peaks, dtype=np.float32),
    )


@pytest.fixture
def batch(counts):
    result = counts.minibatch(np.arange(30), CPU)
    result.generator = torch.Generator().manual_seed(0)
    return result


@pytest.fixture
def model(batch):
    model = CountVAE(CONFIG)
    model.initialise(batch)
    return model


def test_counts_are_split_into_halves(batch):
    halves = split(batch)
    kept = is_measured(halves.peaks)[batch.peaks.row] > 0  # the peaks of some cells are left out
    seen, explained = halves.peaks.count[kept], halves.peaks_to_explain.count[kept]
    np.testing.assert_array_equal(seen + explained, batch.peaks.count[kept])
    assert 0.4 < float(seen.sum() / (seen + explained).sum()) < 0.6
    assert batch.peaks_to_explain is None  # the cells themselves did not change


def test_the_product_of_normals_is_that_of_their_densities():
    normal = torch.distributions.Normal
    genes, peaks = [(torch.tensor([[m]]), torch.tensor([[v]])) for m, v in ((1.0, -1.0), (-2.0, 0.5))]
    mean, log_var = product(genes, peaks, torch.ones(1), torch.ones(1))
    x = torch.linspace(-8, 8, 20_001)
    log_density = sum(normal(m, s).log_prob(x) for m, s in ((0, 1), (1.0, np.exp(-0.5)), (-2.0, np.exp(0.25))))
    density = torch.softmax(log_density, 0)
    expected = (density * x).sum()
    assert mean.item() == pytest.approx(expected.item(), abs=1e-4)
    assert log_var.exp().item() == pytest.approx((density * (x - expected) ** 2).sum().item(), abs=1e-4)


def test_cells_without_peaks_have_the_posterior_of_their_genes(model, batch):
    model.eval()
    with torch.no_grad():
        whole = model.encode(batch)
        batch.peaks = None
        genes = model.encode(batch)
    for a, b in zip(whole, genes, strict=True):
        torch.testing.assert_close(a[:5], b[:5])
        assert not torch.isclose(a[5:], b[5:]).all(1).any()


def test_cells_without_genes_have_the_posterior_of_their_peaks(model, counts, batch):
    model.eval()
    blank = counts.without(genes=True, peaks=False).minibatch(np.arange(5, 30), CPU)
    with torch.no_grad():
        both, mean, log_var = model.encode(batch)[0][5:], *model.encode(blank)
        peak_mean, peak_log_var = model.peaks.encode(blank, [])
    torch.testing.assert_close(mean, peak_mean / (1 + peak_log_var.exp()))
    torch.testing.assert_close(log_var, -(1 + (-peak_log_var).exp()).log())
    assert not torch.isclose(mean, both).all(1).any()
    blank.generator = torch.Generator().manual_seed(0)
    assert model.loss(blank).reconstruction.item() == 0


def test_gradients_of_the_penalty_are_those_of_autograd(model, batch):
    batch = split(batch)
    z = torch.randn(30, 3, generator=torch.Generator().manual_seed(1), requires_grad=True)
    state = type("State", (), {"batch": batch, "z": z, "side": []})
    wanted = [z, model.peaks.decoder.first.weight, model.peaks.decoder.first.bias]
    found = torch.autograd.grad(3 * model.peaks(state), wanted)
    log_share = torch.log_softmax(model.peaks.logits(z, []), 1)
    value = -2 * (batch.peaks_to_explain.dense(batch.peaks_to_explain.count) * log_share).sum() / 30
    for a, b in zip(found, torch.autograd.grad(3 * value, wanted), strict=True):
        torch.testing.assert_close(a, b)


def test_the_penalty_is_the_multinomial_likelihood_of_the_other_half(model, batch):
    batch = split(batch)
    z = torch.randn(30, 3, generator=torch.Generator().manual_seed(1))
    state = type("State", (), {"batch": batch, "z": z, "side": []})
    with torch.no_grad():
        found = model.peaks(state)
        log_share = torch.log_softmax(model.peaks.decoder(z, []), 1)
        expected = -2 * (batch.peaks_to_explain.dense(batch.peaks_to_explain.count) * log_share).sum() / 30
    torch.testing.assert_close(found, expected)


def test_it_begins_with_the_share_of_each_peak(model, counts):
    share = torch.softmax(model.peaks.decoder.output.bias, 0).detach().numpy()
    total = np.ravel(counts.peaks.sum(0)) + 0.5
    np.testing.assert_allclose(share, total / total.sum(), rtol=1e-5)
    assert model.peaks.depth.item() == pytest.approx(counts.peaks.sum() / 25)


def test_a_step_leaves_out_either_modality_but_never_both(batch):
    halves = split(batch)
    genes, peaks = is_measured(halves), is_measured(halves.peaks)
    assert (genes[:5] == 1).all()  # these have no peaks
    assert {(1.0, 0.0), (0.0, 1.0), (1.0, 1.0)} == set(zip(genes[5:].tolist(), peaks[5:].tolist(), strict=True))
    weight = weight_of_genes(batch, halves)
    np.testing.assert_allclose(weight, np.where(genes == 1, 1, LEFT_OUT_WEIGHT))
    explained, left_out = halves.peaks_to_explain.count, peaks[batch.peaks.row] == 0
    assert 0 < float(explained[left_out].max()) < 1
    assert (is_measured(batch) == 1).all()  # the cells themselves did not change


def test_cells_with_peaks_alone_keep_them(counts):
    blank = counts.without(genes=True, peaks=False).minibatch(np.arange(5, 30), CPU)
    blank.generator = torch.Generator().manual_seed(0)
    assert (is_measured(split(blank).peaks) == 1).all()


def test_gradients_reach_both_encoders_and_both_decoders(model, batch):
    model.loss(batch).loss.backward()
    for part in (model.encoder, model.decoder, model.peaks.encoder, model.peaks.decoder):
        assert float(part.first.weight.grad.abs().sum()) > 0
