"""Dispersions after a fit: those of the cells, while the networks stay."""

import numpy as np
import pytest
import torch
from scipy import sparse

import sc_vaenb
from sc_vaenb.data.counts import Counts
from sc_vaenb.fit.device import generator
from sc_vaenb.fit.loop import MIN_CELLS_FOR_DISPERSION, refit_dispersion
from sc_vaenb.model.config import ModelConfig
from sc_vaenb.model.vae import CountVAE

CPU = torch.device("cpu")


def counts_of(adata):
    matrix = sparse.csr_matrix(adata.X)
    size = np.asarray(matrix.sum(1)).ravel()
    return Counts(matrix, (size / size.mean()).astype(np.float32), np.zeros(adata.n_obs, np.int64))


def model_of(counts, **config):
    """A model that knows the means: there is one kind of cell, and the decoder gives its profile."""
    model = CountVAE(ModelConfig(counts.matrix.shape[1], n_latent=2, hidden=(4,), decoder_hidden=(), **config))
    model.initialise(counts.minibatch(slice(None), CPU))
    torch.nn.init.zeros_(model.decoder.output.weight)
    return model


@pytest.mark.slow
@pytest.mark.parametrize("likelihood", ["nb", "zinb"])
def test_dispersions_become_those_of_the_cells(likelihood):
    adata = sc_vaenb.datasets.simulate(1000, 60, n_types=1, n_batches=1, marker_share=0, mean_depth=600, theta=6.0)
    counts = counts_of(adata)
    model = model_of(counts, likelihood=likelihood)
    model.likelihood.log_theta.data.zero_()  # where weight decay pulls them
    before = {name: value.clone() for name, value in model.state_dict().items()}
    refit_dispersion(model, counts, CPU, generator(0, CPU))
    after = model.state_dict()
    assert [name for name in after if not torch.equal(after[name], before[name])] == ["likelihood.log_theta"]
    often = adata.X.toarray().mean(0) > 3
    error = model.likelihood.log_theta[0].detach().numpy() - np.log(adata.var["theta"].to_numpy())
    assert np.abs(np.median(error[often])) < 0.25
    assert np.median(np.abs(error[often])) < 0.4  # and was about log 6 = 1.8


@pytest.mark.parametrize(
    ("likelihood", "n_cells"), [("poisson", 300), ("gaussian", 300), ("nb", MIN_CELLS_FOR_DISPERSION - 1)]
)
def test_there_is_nothing_to_refit(likelihood, n_cells):
    counts = counts_of(sc_vaenb.datasets.simulate(n_cells, 40))
    model = model_of(counts, likelihood=likelihood)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    refit_dispersion(model, counts, CPU, generator(0, CPU))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
