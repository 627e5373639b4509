"""Mean rates: the counts set the decoder right, batches are compared with themselves, errors are as large as stated."""

import numpy as np
import pytest
import torch

import sc_vaenb
from sc_vaenb._record import FittedModel
from sc_vaenb.inference import posterior as decode
from sc_vaenb.inference.differential import StratumSums, difference, overdispersion, stratum_sums
from sc_vaenb.tl._counts import read_counts

CPU = torch.device("cpu")


def poisson_sums(rng, rate, decoded, n=200):
    """Of `n` cells with these true rates, by a decoder that gives others."""
    x = rng.poisson(rate, (n, len(rate)))
    mu = np.broadcast_to(decoded, x.shape)
    return StratumSums(n, *(v.sum(0).astype(float) for v in (mu, mu**2, mu, x, (x - mu) ** 2, x, x > 0)))


def test_a_wrong_decoder_is_set_right_and_errors_are_as_stated():
    rng, rate = np.random.default_rng(0), np.repeat([0.05, 0.5, 5.0, 50.0], 500)
    wrong = rate * rng.lognormal(0, 0.5, len(rate))
    group, rest = poisson_sums(rng, 2 * rate, wrong), poisson_sums(rng, rate, rate)
    found = difference({0: group}, {0: rest}, np.ones(len(rate)))
    z = ((found.log2_fold - 1) / found.sd).reshape(4, 500)
    assert (np.abs(z.mean(1)) < 0.25).all()
    assert (np.abs(z.std(1) - 1) < 0.15).all()
    np.testing.assert_allclose(np.log2(found.rate / found.reference_rate), found.log2_fold)


def test_batches_are_compared_with_themselves():
    """Ten times the expression in one batch, where most of one group is: without batches, a difference by itself."""
    rng, rate = np.random.default_rng(0), np.full(300, 3.0)
    group = {0: poisson_sums(rng, rate, rate, 300), 1: poisson_sums(rng, 10 * rate, 10 * rate, 30)}
    rest = {0: poisson_sums(rng, rate, rate, 30), 1: poisson_sums(rng, 10 * rate, 10 * rate, 300)}
    alone = {2: poisson_sums(rng, 100 * rate, 100 * rate)}
    for here in (group, group | alone):
        found = difference(here, rest, np.ones(300))
        assert abs(found.log2_fold.mean()) < 0.03
        assert (found.log2_fold / found.sd).std() == pytest.approx(1, abs=0.15)


def test_a_gene_without_counts_is_left_undecided():
    rng = np.random.default_rng(0)
    none = np.array([0.0, 1e-9])
    found = difference({0: poisson_sums(rng, none, none)}, {0: poisson_sums(rng, none, none)}, np.ones(2))
    np.testing.assert_allclose(found.log2_fold, 0, atol=1e-3)
    assert (found.sd > 1).all()


def test_what_the_model_has_no_room_for_widens_the_errors(simulated, fast):
    """A Poisson model of negative-binomial counts: the residuals say so."""
    found = {}
    for likelihood in ("poisson", "nb"):
        adata = sc_vaenb.tl.cvae(simulated, "batch", likelihood=likelihood, copy=True, **fast)
        stored = FittedModel.from_uns(adata, "vae")
        sums = stratum_sums(stored.model, read_counts(adata, "vae", stored), np.zeros(300, np.int64), 1, CPU, 0)
        found[likelihood] = overdispersion(list(sums.values()))
    assert min(values.min() for values in found.values()) >= 1
    assert np.median(found["poisson"]) > 1.5 > np.median(found["nb"])
    mean = np.asarray(simulated.X.mean(0)).ravel()
    assert np.corrcoef(np.log(mean), np.log(found["poisson"]))[0, 1] > 0.7  # the more counts, the more it shows


def test_sums_are_those_of_the_cells_whatever_the_blocks(fitted, monkeypatch):
    stored = FittedModel.from_uns(fitted, "vae")
    counts = read_counts(fitted, "vae", stored)
    stratum = fitted.obs["cell_type"].cat.codes.to_numpy().astype(np.int64)
    stratum[:20] = -1
    whole = stratum_sums(stored.model, counts, stratum, 2, CPU, 0)
    monkeypatch.setattr(decode, "CELLS_DECODED_AT_ONCE", 16)
    pieces = stratum_sums(stored.model, counts, stratum, 2, CPU, 0)
    assert list(whole) == list(pieces) == [0, 1, 2]
    for code, sums in whole.items():
        x = fitted.X[stratum == code].toarray()
        assert sums.n == len(x)
        np.testing.assert_allclose(sums.count, x.sum(0), rtol=1e-6)
        np.testing.assert_array_equal(sums.cells_expressing, (x > 0).sum(0))
        assert np.median(np.abs(np.log(sums.rate / pieces[code].rate))) < 0.02  # other samples of the same posterior
