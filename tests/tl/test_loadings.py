"""The embedding in coordinates of log expression, and its loadings in varm."""

import numpy as np
import pytest

import sc_vaenb


@pytest.fixture(scope="module")
def fitted():
    """Four types in two batches; the model reads three of four genes."""
    adata = sc_vaenb.datasets.simulate(600, 200, n_types=4, n_batches=2, mean_depth=1500, rng=3)
    adata.var["read"] = np.arange(200) % 4 > 0
    sc_vaenb.tl.cvae(adata, "batch", layer=None, mask_var="read", n_latent=8, n_steps=150, device="cpu")
    return adata


def test_genes_that_the_model_does_not_read_have_no_loadings(fitted):
    loadings, read = fitted.varm["vae_loadings"], fitted.var["read"].to_numpy()
    assert loadings.shape == (200, 8)
    assert loadings.dtype == np.float32
    assert (loadings[~read] == 0).all()
    assert (np.abs(loadings[read]).max(1) > 0).all()


def test_embedding_times_loadings_is_the_log_expression(fitted):
    decoded = sc_vaenb.tl.normalized(fitted, copy=True, device="cpu").layers["normalized"]
    read = fitted.var["read"].to_numpy()
    truth = np.log1p(np.asarray(decoded)[:, read])
    truth -= truth.mean(0)
    rebuilt = fitted.obsm["X_vae"] @ fitted.varm["vae_loadings"][read].T
    total, own_batch = np.square(truth).sum(), fitted.obs["batch"].cat.codes.to_numpy()
    for batch in (0, 1):  # each cell is decoded in its own batch
        cells = own_batch == batch
        rebuilt[cells] += (truth[cells] - rebuilt[cells]).mean(0)
    assert np.square(truth - rebuilt).sum() < 0.15 * total


def test_markers_lead_the_dimensions_that_tell_types_apart(fitted):
    embedding, loadings = fitted.obsm["X_vae"], fitted.varm["vae_loadings"]
    marker = fitted.var["is_marker"].to_numpy()
    for dimension in range(3):  # of four types
        top = np.argsort(-np.abs(loadings[:, dimension]))[:15]
        assert marker[top].mean() > 0.8
    assert embedding[:, :3].var(0).sum() > 0.8 * embedding.var(0).sum()
    assert marker[fitted.var["read"].to_numpy()].mean() < 0.5  # so the first assertion could fail


def test_the_next_model_under_this_key_has_loadings_of_its_own(fitted, fast):
    adata = fitted.copy()
    sc_vaenb.tl.vae(adata, layer=None, mask_var=None, **fast)
    assert adata.varm["vae_loadings"].shape == (200, 4)
    assert (np.abs(adata.varm["vae_loadings"]).max(1) > 0).all()


def test_new_cells_have_the_loadings_of_their_reference(fitted):
    reference = fitted.copy()
    query = fitted[:50, ::-1].copy()
    sc_vaenb.tl.map_query(query, reference, n_steps=2, layer=None, device="cpu")
    np.testing.assert_array_equal(query.varm["vae_loadings"], fitted.varm["vae_loadings"][::-1])
    del reference.varm["vae_loadings"]
    sc_vaenb.tl.map_query(query, reference, n_steps=2, layer=None, device="cpu")
    assert "vae_loadings" not in query.varm  # those of another model
