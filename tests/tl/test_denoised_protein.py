"""`tl.denoised_protein`: from where the tables are made, batch by batch, and what is refused."""

import numpy as np
import pandas as pd
import pytest
import torch

import sc_vaenb
from sc_vaenb._record import FittedModel
from sc_vaenb.tl._counts import read_counts


@pytest.fixture(scope="session")
def _measured(simulated, fast):
    """Two proteins, the second of which batch_1 lacks."""
    adata = simulated.copy()
    rng = np.random.default_rng(0)
    bound = np.where(adata.obs["cell_type"] == "type_0", 200, 0)[:, None]
    table = pd.DataFrame(rng.poisson(10 + bound + [0, 5]), index=adata.obs_names, columns=["a", "b"]).astype(float)
    table.loc[adata.obs["batch"] == "batch_1", "b"] = np.nan
    adata.obsm["protein"] = table
    sc_vaenb.tl.cvae(adata, "batch", protein_key="protein", align=False, **fast)
    return adata


@pytest.fixture
def measured(_measured):
    return _measured.copy()


def step_cpu(adata, code):
    """Both tables with every cell as in one batch."""
    stored = FittedModel.from_uns(adata, "vae")
    batch = read_counts(adata, "vae", stored).minibatch(np.arange(adata.n_obs), torch.device("cpu"))
    with torch.inference_mode():
        z = stored.model.encode(batch)[0]
        levels = stored.model.protein.decode(z, [], torch.full((len(z),), code))
        probability = torch.sigmoid(levels.log_odds)
        return (probability * (levels.foreground.exp() - levels.background.exp())).numpy(), probability.numpy()


@pytest.mark.parametrize("corrected", [False, True])
def test_cells_are_decoded_as_in_the_batches_that_measured(measured, corrected):
    result = sc_vaenb.tl.denoised_protein(measured, corrected=corrected, device="cpu", copy=True)
    assert "vae_protein" not in measured.obsm
    first, second = (step_cpu(measured, code)[0] for code in (0, 1))
    own = np.where(measured.obs["batch"] == "batch_0", first[:, 0], second[:, 0])
    found = result.obsm["vae_protein"]
    expected = (first[:, 0] + second[:, 0]) / 2 if corrected else own
    np.testing.assert_allclose(found["a"], expected, rtol=1e-4)
    np.testing.assert_allclose(found["b"], first[:, 1], rtol=1e-4)  # also of batch_1, which did not measure it
    np.testing.assert_allclose(result.obsm["vae_protein_foreground"], step_cpu(measured, 0)[1], rtol=1e-4)
    assert found.to_numpy().dtype == np.float32


def test_what_is_written_and_what_is_said(measured, log):
    before = set(measured.obsm)
    assert sc_vaenb.tl.denoised_protein(measured, device="cpu") is None
    assert set(measured.obsm) - before == {"vae_protein", "vae_protein_foreground"}
    sc_vaenb.tl.denoised_protein(measured, device="cpu")
    assert "denoising 2 proteins of 300 cells with uns['vae']" in log.getvalue()
    assert "replacing obsm['vae_protein']" in log.getvalue()


def test_what_cannot_be_is_refused(measured, fitted, refused):
    with refused(fitted, ValueError, r"The model in uns\['vae'\] knows no proteins. Fit one with protein_key"):
        sc_vaenb.tl.denoised_protein(fitted, device="cpu")
    with refused(measured, TypeError, "corrected='batch_0' is not possible. Choose True or False"):
        sc_vaenb.tl.denoised_protein(measured, corrected="batch_0", device="cpu")
    with refused(measured, KeyError, r"uns\['other'\] holds no model fitted by sc_vaenb"):
        sc_vaenb.tl.denoised_protein(measured, "other", device="cpu")
