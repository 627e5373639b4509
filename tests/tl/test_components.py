"""Fits with a prior of several components, through every function that reads a model."""

import anndata as ad
import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

import sc_vaenb

mixtures = pytest.mark.parametrize("prior", ["mog", "vamp"])


def mixed(adata, prior="mog", **options):
    return sc_vaenb.tl.cvae(adata, "batch", prior=prior, n_components=6, copy=True, **options)


@pytest.mark.slow
@mixtures
def test_components_are_kinds_of_cells(prior, log):
    types = sc_vaenb.datasets.simulate(1000, 200, n_types=5, n_batches=1, rng=0)
    types.layers["counts"] = types.X.copy()
    adata = sc_vaenb.tl.vae(types, prior=prior, n_latent=10, hidden=(32,), n_steps=500, device="cpu", copy=True)
    n_live = int(adata.uns["vae"]["components"]["live"].sum())
    assert 5 <= n_live <= 7
    assert adjusted_rand_score(types.obs["cell_type"], adata.obs["vae_component"]) > 0.85
    assert f"{n_live} of 30 components of the prior are used." in log.getvalue()
    assert "'vae_component', the likeliest (adata.obs)" in log.getvalue()


@mixtures
def test_what_is_written(adata, fast, prior, tmp_path):
    result = mixed(adata, prior, key_added="mix", **fast)
    member, about = result.obsm["mix_components"], result.uns["mix"]["components"]
    n_live = int(about["live"].sum())
    assert (member.shape, member.dtype) == ((300, n_live), np.float32)
    np.testing.assert_allclose(member.sum(1), 1, rtol=1e-5)
    assert result.obs["mix_component"].cat.categories.tolist() == [str(i) for i in range(n_live)]
    np.testing.assert_array_equal(result.obs["mix_component"].cat.codes, member.argmax(1))
    np.testing.assert_allclose(about["share"][:n_live], member.mean(0), rtol=1e-4)
    assert (np.diff(about["weight"][:n_live]) <= 0).all()
    assert about["live"][:n_live].all()
    assert (about["share"][n_live:] == 0).all()
    result.write_h5ad(tmp_path / "mixed.h5ad")
    again = ad.read_h5ad(tmp_path / "mixed.h5ad")
    np.testing.assert_array_equal(again.obsm["mix_components"], member)
    for name, values in about.items():
        np.testing.assert_array_equal(again.uns["mix"]["components"][name], values)
    sc_vaenb.tl.embed(again, "mix", device="cpu")
    np.testing.assert_allclose(again.obsm["X_mix"], result.obsm["X_mix"], rtol=0, atol=1e-5)


def test_a_later_fit_without_components_leaves_none(adata, fast, unchanged):
    with unchanged(adata):
        result = mixed(adata, **fast)
    sc_vaenb.tl.vae(result, **fast)
    assert "vae_component" not in result.obs
    assert list(result.obsm) == ["X_vae"]
    result.obs["vae_component"] = "mine"
    sc_vaenb.tl.vae(result, **fast)
    assert (result.obs["vae_component"] == "mine").all()


@pytest.mark.slow
@mixtures
def test_every_function_works_with_it(adata, fast, prior, tmp_path):
    result = mixed(adata, prior, **fast)
    assert sc_vaenb.tl.sample(result, 50, source="prior", device="cpu").n_obs == 50
    sc_vaenb.tl.interpolate(result, "type_0", "type_1", groupby="cell_type", device="cpu")
    sc_vaenb.tl.factors(result, device="cpu")
    assert np.isfinite(result.uns["vae_factors"]["dimensions"]["kl"]).all()
    sc_vaenb.tl.posterior_check(result, n_samples=10, device="cpu")
    sc_vaenb.tl.normalized(result, device="cpu")
    sc_vaenb.tl.export_model(result, tmp_path / "model.safetensors")
    new = adata.copy()
    sc_vaenb.tl.import_model(new, tmp_path / "model.safetensors")
    sc_vaenb.tl.embed(new, device="cpu")
    np.testing.assert_allclose(new.obsm["X_vae"], result.obsm["X_vae"], rtol=0, atol=1e-5)


@pytest.mark.slow
@mixtures
@pytest.mark.parametrize(
    "options",
    [
        {"n_components": 1},
        {"n_components": 100, "n_latent": 30},
        {"learning_rate": 0.06, "n_latent": 30},
        {"free_bits": 0.5},
        {"norm": "none"},
    ],
    ids=str,
)
def test_nothing_breaks(adata, fast, prior, options):
    few = adata[:40].copy()  # fewer than components
    sc_vaenb.tl.vae(few, prior=prior, **(fast | {"n_steps": 60} | options))
    assert np.isfinite(few.obsm["X_vae"]).all()
    assert np.isfinite(few.obsm["vae_components"]).all()
    assert np.isfinite(few.uns["vae"]["history"]["train_loss"]).all()


@mixtures
def test_cells_that_are_all_the_same(adata, fast, prior):
    same = ad.concat([adata[:1]] * 30, index_unique="-")
    sc_vaenb.tl.vae(same, prior=prior, **fast)
    member = same.obsm["vae_components"]
    np.testing.assert_allclose(member, np.tile(member[:1], (30, 1)), atol=1e-3)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"prior": "conditional"}, r"prior='conditional' is not known.* This needs batches\. Use sc_vaenb"),
        ({"prior": "gmm"}, r"prior='gmm' is not known\. Choose one of \['normal', 'mog', 'vamp'\]"),
        ({"prior": "vamp", "norm": "batch"}, r"prior='vamp' encodes its pseudo-inputs together with the cells of a"),
        ({"n_components": 0}, "n_components=0 is not possible. Give a whole number at least 1 and at most 100"),
        ({"n_components": 2.5}, "n_components=2.5 is not possible. Give a whole number"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused(adata, refused, options, text):
    with refused(adata, ValueError, text):
        sc_vaenb.tl.vae(adata, **options)
