import numpy as np
import pytest
import torch

from sc_vaenb.fit.embedding_map import _drawn_batches, fit_map
from sc_vaenb.model.config import ModelConfig
from sc_vaenb.model.vae import CountVAE

CPU, N_GENES, N_LATENT = torch.device("cpu"), 40, 4


@pytest.fixture
def model():
    """A linear decoder: the first two dimensions change the expression strongly, the third weakly, the last never."""
    config = ModelConfig(N_GENES, 3, n_latent=N_LATENT, hidden=(8,), decoder_hidden=(), embedding_map=True)
    model = CountVAE(config)
    weight = np.random.default_rng(0).normal(0, [0.4, 0.2, 0.02, 0.0], (N_GENES, N_LATENT))
    with torch.no_grad():
        model.decoder.output.weight.copy_(torch.from_numpy(weight))
    return model.eval()


@pytest.fixture
def latent():
    return np.random.default_rng(1).normal(0.5, 1, (3000, N_LATENT)).astype(np.float32)


def mapped(model, z):
    with torch.no_grad():
        return model.to_embedding(torch.from_numpy(z)).numpy()


def decoded(model, z, batch):
    with torch.no_grad():
        log_mean = model.log_mean(torch.from_numpy(z), torch.ones(len(z)), torch.full((len(z),), batch))
        return torch.log1p(1e4 * torch.softmax(log_mean, 1)).numpy()


def fitted(model, latent, seed=0):
    batch = np.arange(len(latent)) % 3
    return fit_map(model, latent, batch, np.zeros(3, np.int64), CPU, seed)


def test_it_changes_nothing_before_it_is_fitted(model, latent):
    np.testing.assert_array_equal(mapped(model, latent), latent)


def test_it_is_one_to_one(model, latent):
    fitted(model, latent)
    embedding = mapped(model, latent)
    assert np.abs(embedding - latent).max() > 0.1
    with torch.no_grad():
        back = model.embedding_map.inverse(torch.from_numpy(embedding)).numpy()
    np.testing.assert_allclose(back, latent, atol=1e-5)


def test_half_of_the_distance_is_expression_and_half_the_latent_states(model, latent):
    loadings = fitted(model, latent)
    embedding = mapped(model, latent)
    variance = embedding.var(0).sum()
    expression = np.einsum("gd,de,ge->", loadings, np.cov(embedding.T, bias=True), loadings)
    assert expression == pytest.approx(variance / 2, rel=0.02)
    rest = np.square(np.linalg.norm(embedding[:50, None] - embedding[None, :50], axis=2))
    rest -= np.square(np.linalg.norm(embedding[:50, None] @ loadings.T - embedding[None, :50] @ loadings.T, axis=2))
    latent_distance = np.square(np.linalg.norm(latent[:50, None] - latent[None, :50], axis=2))
    off = ~np.eye(50, dtype=bool)
    ratio = rest[off] / latent_distance[off]
    assert ratio.std() < 0.02 * ratio.mean()  # what is not expression is the latent distance, in one unit


def test_dimensions_are_ordered_and_centred_and_have_a_sign(model, latent):
    loadings = fitted(model, latent)
    embedding = mapped(model, latent)
    np.testing.assert_allclose(embedding.mean(0), 0, atol=1e-4)
    assert (np.diff(embedding.var(0)) < 1e-4).all()
    assert (np.take_along_axis(loadings, np.abs(loadings).argmax(0)[None], 0) > 0).all()


def test_loadings_rebuild_the_log_expression(model, latent):
    loadings = fitted(model, latent)
    truth = np.mean([decoded(model, latent, batch) for batch in range(3)], 0)
    rebuilt = mapped(model, latent) @ loadings.T + truth.mean(0)
    unexplained = np.square(truth - rebuilt).sum() / np.square(truth - truth.mean(0)).sum()
    assert unexplained < 0.05
    assert np.square(truth - truth.mean(0)).sum() > 100  # there is something to explain


def test_same_seed_same_map(model, latent):
    first = fitted(model, latent)
    matrix = model.embedding_map.matrix.clone()
    np.testing.assert_array_equal(first, fitted(model, latent))
    torch.testing.assert_close(model.embedding_map.matrix, matrix, rtol=0, atol=0)


def test_a_latent_space_without_cells_apart_stays_as_it_is(model):
    same = np.full((100, N_LATENT), 0.3, np.float32)
    loadings = fitted(model, same)
    assert np.isfinite(loadings).all()
    np.testing.assert_array_equal(mapped(model, same), same)


def test_cells_are_decoded_in_batches_of_their_group():
    group = np.array([0, 1, 0, 2])
    batch = np.repeat(np.arange(4), 200)
    drawn = _drawn_batches(batch, group, np.random.default_rng(0))
    np.testing.assert_array_equal(group[drawn], group[batch])
    assert set(drawn[batch == 0]) == {0, 2}
    assert set(drawn[batch == 1]) == {1}
