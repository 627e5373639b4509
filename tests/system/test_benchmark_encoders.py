"""The benchmark of encoders: its models compute what they say, and its readings of trees are right."""

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np
import pytest
import torch

import sc_vaenb
from sc_vaenb.data.counts import Counts
from sc_vaenb.model.config import ModelConfig
from sc_vaenb.model.vae import CountVAE

CONFIG = ModelConfig(n_genes=80, n_batches=2, n_latent=4, encode_batch=True)


@pytest.fixture(scope="module")
def benchmark():
    spec = spec_from_file_location("encoders", Path(__file__).parents[2] / "benchmarks" / "encoders.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def batch():
    adata = sc_vaenb.datasets.simulate(60, 80, n_types=2, rng=0)
    depth = np.asarray(adata.X.sum(1)).ravel()
    codes = adata.obs["batch"].cat.codes.to_numpy(np.int64)
    minibatch = Counts(adata.X, (depth / depth.mean()).astype(np.float32), codes).minibatch(
        slice(None), torch.device("cpu")
    )
    minibatch.generator = generator()
    return minibatch


def generator():
    return torch.Generator().manual_seed(0)


def test_a_posterior_is_moved_along_the_geodesic(benchmark):
    model = benchmark.Hyperbolic(CONFIG, generator(), radius=2.0)
    mean, v = torch.randn(2, 50, 4, generator=generator()).double()
    moved = model.moved(mean, v)
    for start, end, length in zip(mean, moved, v.norm(dim=1), strict=True):
        between = 2.0 * model.geodesics(np.stack([start, end]))[0, 1]
        assert between == pytest.approx(float(length), rel=1e-6)
    assert torch.allclose(model.moved(torch.zeros_like(v), v), v)


def test_the_volume_of_a_wrapped_normal_is_the_determinant_of_the_move(benchmark):
    model = benchmark.Hyperbolic(CONFIG, generator(), radius=2.0)
    v = torch.randn(1, 4, generator=generator()).double()
    mean = torch.randn(1, 4, generator=generator()).double()
    jacobian = torch.autograd.functional.jacobian(lambda x: model.moved(mean, x[None])[0], v[0])
    z = model.moved(mean, v)
    # in tangent coordinates at the origin: the volume at v, over that at z
    expected = model.log_volume(v.norm(dim=1)) - model.log_volume(z.norm(dim=1))
    assert float(torch.linalg.slogdet(jacobian)[1]) == pytest.approx(float(expected), rel=1e-6)


def test_the_posterior_of_a_ladder_is_the_product_of_suggestion_and_prior(benchmark):
    model = benchmark.Ladder(CONFIG, generator())
    z2, mean, log_var = (torch.randn(3, width, generator=generator()) for width in (5, 4, 4))
    posterior, log_posterior_var, prior, log_prior_var = model.fine(z2, mean, log_var)
    precision = (-log_var).exp() + (-log_prior_var).exp()
    expected = ((-log_var).exp() * mean + (-log_prior_var).exp() * prior) / precision
    assert torch.allclose(posterior, expected, atol=1e-6)
    assert torch.allclose(log_posterior_var.exp(), 1 / precision, atol=1e-6)


def test_the_tokens_of_a_cell_are_its_genes_furthest_above_their_mean(benchmark, batch):
    model = benchmark.SetVAE(CONFIG, generator(), n_tokens=5)
    model.initialise(batch)
    gene, excess, mask = model.top_genes(batch)
    values = batch.dense(batch.log_normalised())
    expected = torch.where(values > 0, values - values.mean(0), -torch.inf).topk(5)
    assert mask.all()
    assert torch.allclose(excess.sort(descending=True)[0], expected.values)
    assert torch.equal(gene.sort()[0], expected.indices.sort()[0])


def test_tokens_that_are_padding_change_nothing(benchmark, batch):
    all_genes, padded = (benchmark.SetVAE(CONFIG, generator(), n_tokens=n) for n in (80, 80))
    n_most = int(torch.bincount(batch.row).max())
    assert n_most < 80
    padded.n_tokens = n_most
    for model in (all_genes, padded):
        model.initialise(batch)
    assert torch.allclose(all_genes.encode(batch)[0], padded.encode(batch)[0], atol=1e-4)


@pytest.mark.parametrize("name", ["set transformer", "attention pooling", "ladder, z1", "hyperbolic"])
def test_gradients_reach_all_parameters(benchmark, batch, name):
    model = benchmark.VARIANTS[name].build(CONFIG, generator())
    model.initialise(batch)
    model.loss(batch).loss.backward()
    missing = [name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert not missing


def test_true_distances_have_the_highest_readings(benchmark):
    height = benchmark.joins()
    assert benchmark.tree_readings(height.astype(float)) == {"tree": pytest.approx(1), "coarse": 1, "fine": 1}
    shuffled = np.random.default_rng(0).permutation(len(height))
    readings = benchmark.tree_readings(height[np.ix_(shuffled, shuffled)].astype(float))
    assert max(readings.values()) < 0.7


@pytest.mark.slow
def test_a_model_takes_the_place_of_the_default_in_cvae_only_within_the_block(benchmark, simulated):
    def embedding(build):
        adata = simulated.copy()
        with benchmark.in_place_of_the_model(build) as models:
            sc_vaenb.tl.cvae(adata, "batch", n_steps=20, device="cpu")
        return models[0], adata.obsm["X_vae"]

    default, x = embedding(None)
    same, by_autograd = embedding(CountVAE)
    other, z1 = embedding(benchmark.Ladder)
    assert type(default) is type(same) is CountVAE
    assert np.abs(x - by_autograd).max() < 1e-2 * np.abs(x).max()
    assert isinstance(other, benchmark.Ladder)
    assert np.abs(z1 - x).max() > 0.1 * np.abs(x).max()
    assert benchmark.loop.CountVAE is CountVAE
