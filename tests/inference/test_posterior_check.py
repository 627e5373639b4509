"""Replicates of the right model look like the data, those of a wrong one do not."""

import numpy as np
import pytest
import torch
from scipy import sparse, stats

from sc_vaenb.data.counts import Counts
from sc_vaenb.fit.loop import fit
from sc_vaenb.fit.split import MAX_CELLS_HELD_OUT, split
from sc_vaenb.fit.state import FitConfig
from sc_vaenb.inference import posterior as decode
from sc_vaenb.inference.posterior_check import (
    COVERAGE_LEVELS,
    Compared,
    compare_replicates,
    coverage,
    held_out_again,
    histogram,
)
from sc_vaenb.model.config import ModelConfig
from sc_vaenb.model.vae import CountVAE

CPU = torch.device("cpu")


@pytest.fixture
def generator():
    return np.random.default_rng(0)


def without_states(likelihood, n_genes=80):
    """A model whose counts do not depend on the latent state, so that its posterior is right whatever was counted."""
    model = CountVAE(ModelConfig(n_genes, n_latent=2, hidden=(8,), decoder_hidden=(8,), likelihood=likelihood)).eval()
    model.decoder.output.weight.data.zero_()
    model.decoder.output.bias.data[:n_genes] = torch.randn(n_genes, generator=torch.Generator().manual_seed(0))
    model.depth.fill_(200.0)
    return model


def drawn(model, generator, n_cells=300):
    size = generator.lognormal(0, 0.3, n_cells).astype(np.float32)
    batch_index = np.zeros(n_cells, np.int64)
    z = torch.zeros(n_cells, model.config.n_latent)
    with torch.inference_mode():
        x = model.draw(z, torch.from_numpy(size), torch.from_numpy(batch_index), torch.Generator().manual_seed(0))
    return Counts(sparse.csr_matrix(x.numpy()), size, batch_index)


def shares(check):
    """Coverage of everything that is checked."""
    draw = np.random.default_rng(1)
    pits = {name: both.pit(draw) for part in (check.genes, check.cells) for name, both in part.items()}
    pits["correlation"] = check.correlation.pit(draw)
    found = {name: coverage(histogram(pit)) for name, pit in pits.items()}
    return found | {name: coverage(counts) for name, counts in check.counts.items()}


@pytest.mark.parametrize("mean", [0.05, 1.0, 1e4])
def test_the_pit_is_uniform_where_the_data_are_one_more_replicate(generator, mean):
    counts = generator.poisson(mean, (11, 3000)).astype(float)
    pit = Compared(counts[0], counts[1:]).pit(generator)
    assert stats.kstest(pit, "uniform").pvalue > 0.01
    assert 0 < pit.min() < 0.01
    assert 0.99 < pit.max() < 1
    shifted = Compared(counts[0] + 2 * np.sqrt(mean), counts[1:]).pit(generator)
    assert shifted.mean() > 0.65


def test_coverage_is_the_share_within_each_central_interval(generator):
    pit = generator.beta(2, 3, 1000)
    expected = [np.mean(np.abs(pit - 0.5) < level / 200) for level in COVERAGE_LEVELS]
    np.testing.assert_allclose(coverage(histogram(pit)), expected)
    assert np.isnan(coverage(np.zeros(40))).all()


def test_statistics_are_those_of_the_cells_and_of_the_draws(generator, monkeypatch):
    monkeypatch.setattr(decode, "CELLS_DECODED_AT_ONCE", 70)  # several blocks
    model, seen = without_states("nb"), []
    counts = drawn(model, generator, 200)
    plain = model.draw
    monkeypatch.setattr(model, "draw", lambda *args: seen.append(plain(*args).numpy()) or torch.from_numpy(seen[-1]))
    check = compare_replicates(model, counts, 4, CPU, seed=0)
    replicates = [np.concatenate(seen[sample::4]) for sample in range(4)]
    for at, x in enumerate([counts.matrix.toarray(), *replicates]):

        def close(both, expected, at=at):
            np.testing.assert_allclose(both.replicates[at - 1] if at else both.data, expected, rtol=1e-4, atol=1e-5)

        close(check.genes["mean"], x.mean(0))
        close(check.genes["variance"], x.var(0, ddof=1))
        close(check.genes["zeros"], (x == 0).mean(0))
        close(check.cells["depth"], x.sum(1))
        close(check.cells["detected"], (x > 0).sum(1))
        values = np.log1p(x / counts.size_factor[:, None])
        close(check.correlation, np.corrcoef(values.T)[*check.pairs])
    variances = np.log1p(counts.matrix.toarray() / counts.size_factor[:, None]).var(0)
    assert set(np.unique(check.pairs)) == set(np.argsort(-variances)[:50])
    assert check.counts["all"].sum() == 200 * 80
    assert check.counts["expressed"].sum() == (np.mean(replicates, axis=0) >= 1).sum()


@pytest.mark.parametrize("likelihood", ["nb", "zinb", "poisson"])
def test_the_true_model_is_calibrated(generator, likelihood):
    model = without_states(likelihood)
    found = shares(compare_replicates(model, drawn(model, generator), 30, CPU, seed=0))
    margins = {"all": 0.01, "expressed": 0.015, "correlation": 0.1, "depth": 0.1, "detected": 0.1}
    for name, share in found.items():
        np.testing.assert_allclose(share, np.array(COVERAGE_LEVELS) / 100, atol=margins.get(name, 0.2), err_msg=name)


def test_a_poisson_model_is_too_narrow_for_over_dispersed_counts(generator):
    truth, poisson = without_states("nb"), without_states("poisson")
    poisson.decoder.output.bias.data = truth.decoder.output.bias.data
    found = shares(compare_replicates(poisson, drawn(truth, generator), 30, CPU, seed=0))
    assert found["expressed"][2] < 0.75
    assert found["depth"][2] < 0.6
    assert found["variance"][2] < 0.2
    assert found["zeros"][2] < 0.3


def test_a_gene_silent_in_all_replicates_stays_a_number(generator):
    model = without_states("poisson")
    counts = drawn(model, generator, 60)
    model.decoder.output.bias.data[:40] = -60.0
    check = compare_replicates(model, counts, 10, CPU, seed=0)
    assert np.isfinite(check.correlation.replicates).all()
    assert check.genes["mean"].replicates[:, :40].max() == 0


def test_held_out_cells_are_told_by_what_the_fit_recorded(generator):
    counts = drawn(without_states("nb"), generator)
    config = ModelConfig(80, n_latent=3, hidden=(8,), decoder_hidden=(8,))
    options = FitConfig(n_steps=20, weight_decay=0.1)
    model, history, _ = fit(config, counts, options, CPU, seed=5)
    recorded = history.kl_per_dim[-1]
    expected = split(counts.batch_index, 0.1, MAX_CELLS_HELD_OUT, np.random.default_rng(5))[1]
    np.testing.assert_array_equal(held_out_again(model, counts, 0.1, 5, recorded, CPU), expected)
    order = generator.permutation(300)
    moved = Counts(counts.matrix[order], counts.size_factor[order], counts.batch_index)
    assert held_out_again(model, moved, 0.1, 5, recorded, CPU) is None
    assert held_out_again(model, counts, 0.1, 6, recorded, CPU) is None
    assert held_out_again(model, counts, 0.0, 5, recorded, CPU) is None
