"""The dials of batch removal in `tl.cvae`, from the arguments to what a model with them can do."""

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

import sc_vaenb

BATCH_PENALTIES = {"adversary": 1.0, "mmd": 10.0}


@pytest.fixture(scope="module")
def dialled(simulated, fast):
    return sc_vaenb.tl.cvae(simulated, "batch", copy=True, **fast, **BATCH_PENALTIES)


@pytest.mark.parametrize("name", BATCH_PENALTIES)
@pytest.mark.parametrize("value", [-1, np.inf, np.nan, "much", True, None])
def test_what_is_no_weight_is_refused(adata, refused, name, value):
    with refused(
        adata, ValueError, rf"^{name}=.* is not possible. Give a number at least 0.( This one is too large.)?$"
    ):
        sc_vaenb.tl.cvae(adata, "batch", **{name: value})


@pytest.mark.slow
def test_weights_of_zero_change_nothing(adata, fast):
    plain = sc_vaenb.tl.cvae(adata, "batch", copy=True, **fast)
    zeros = sc_vaenb.tl.cvae(adata, "batch", copy=True, **fast, adversary=0, mmd=np.float32(0))
    np.testing.assert_array_equal(zeros.obsm["X_vae"], plain.obsm["X_vae"])
    assert plain.uns["vae"]["history"].keys() == zeros.uns["vae"]["history"].keys()
    assert not any(name.startswith("penalties") for name in zeros.uns["vae"]["model"]["weights"])


@pytest.mark.slow
@pytest.mark.parametrize("name", BATCH_PENALTIES)
def test_each_dial_changes_the_fit_and_is_written_down(adata, fast, name):
    plain = sc_vaenb.tl.cvae(adata, "batch", copy=True, **fast)
    sc_vaenb.tl.cvae(adata, "batch", **fast, **{name: 10})
    assert np.abs(adata.obsm["X_vae"] - plain.obsm["X_vae"]).max() > 1e-3
    record = adata.uns["vae"]
    assert record["params"][name] == 10
    new = record["history"].keys() - plain.uns["vae"]["history"].keys()
    assert new == {f"train_{name}", f"validation_{name}"}
    history = record["history"]
    whole = history["validation_reconstruction"] + 0.5 * history["validation_kl"] + history[f"validation_{name}"]
    np.testing.assert_allclose(history["validation_loss"], whole, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", BATCH_PENALTIES)
def test_a_large_weight_stays_finite_with_two_batches_and_with_many(adata, fast, name):
    adata.obs["sample"] = [f"s{i % 40:02d}" for i in range(300)]
    for key in ("batch", "sample"):
        sc_vaenb.tl.cvae(adata, key, **fast, **{name: 100.0})
        assert np.isfinite(adata.obsm["X_vae"]).all()
        assert np.isfinite(adata.uns["vae"]["history"]["validation_loss"]).all()


def test_a_model_with_dials_does_what_models_do(dialled, adata, fast, tmp_path):
    sc_vaenb.tl.export_model(dialled, tmp_path / "model.safetensors")
    sc_vaenb.tl.import_model(adata, tmp_path / "model.safetensors")
    sc_vaenb.tl.embed(adata, device="cpu")
    np.testing.assert_allclose(adata.obsm["X_vae"], dialled.obsm["X_vae"], atol=1e-5)
    query = dialled[:60].copy()
    del query.uns["vae"], query.obsm["X_vae"]
    query.obs["batch"] = "new"
    sc_vaenb.tl.map_query(query, dialled, n_steps=5, device="cpu")
    assert np.isfinite(query.obsm["X_vae"]).all()
    assert not any(name.startswith("penalties") for name in query.uns["vae"]["model"]["weights"])
    sc_vaenb.tl.embed(query, device="cpu")


def test_groups_of_batches_reach_the_penalties(adata, fast, monkeypatch):
    overlap = sc_vaenb.fit.overlap.Overlap(np.eye(2), np.array([0, 1]), np.arange(2))
    monkeypatch.setattr(sc_vaenb.tl._fit, "find_overlap", lambda counts: overlap)
    sc_vaenb.tl.cvae(adata, "batch", **fast, **BATCH_PENALTIES)
    weights, history = adata.uns["vae"]["model"]["weights"], adata.uns["vae"]["history"]
    for name in BATCH_PENALTIES:
        assert weights[f"penalties.{name}.group"].tolist() == [0, 1]
        np.testing.assert_allclose(history[f"train_{name}"], 0, atol=1e-6)  # each batch is alone in its group


def same_share(adata, rep, key):
    code = adata.obs[key].cat.codes.to_numpy()
    near = NearestNeighbors(n_neighbors=15).fit(adata.obsm[rep]).kneighbors(return_distance=False)
    return (code[near] == code[:, None]).mean()


@pytest.mark.slow
def test_mmd_mixes_batches_that_were_not():
    """With a prior that lets the batches lie apart, and no alignment: what is mixed is mixed by the dial."""
    adata = sc_vaenb.datasets.simulate(400, 200, n_types=4, batch_strength=0.8, mean_depth=1500, rng=1)
    options = {"layer": None, "n_latent": 8, "hidden": (32,), "n_steps": 200, "prior": "conditional", "align": False}
    options["overlap"] = "all"  # as the effect is larger than the types are apart
    sc_vaenb.tl.cvae(adata, "batch", device="cpu", key_added="off", **options)
    sc_vaenb.tl.cvae(adata, "batch", device="cpu", key_added="on", **options, mmd=10.0)
    assert same_share(adata, "X_on", "batch") < same_share(adata, "X_off", "batch") - 0.15
    assert same_share(adata, "X_on", "cell_type") > 0.9


@pytest.mark.slow
def test_the_adversary_mixes_batches_that_were_not(latent_states):
    adata = sc_vaenb.datasets.simulate(800, 200, n_types=4, batch_strength=0.8, mean_depth=1500, rng=1)
    options = {"layer": None, "n_latent": 8, "hidden": (32,), "n_steps": 300, "prior": "conditional", "align": False}
    options["overlap"] = "all"  # as the effect is larger than the types are apart
    sc_vaenb.tl.cvae(adata, "batch", device="cpu", key_added="off", **options)
    sc_vaenb.tl.cvae(adata, "batch", device="cpu", key_added="on", **options, adversary=10.0)
    for key in ("off", "on"):
        adata.obsm[key] = latent_states(adata, key)  # the adversary sees these
    assert same_share(adata, "on", "batch") < same_share(adata, "off", "batch") - 0.05
    assert same_share(adata, "X_on", "cell_type") > 0.9
