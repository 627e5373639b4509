"""`tl.factors`: shares, loadings, genes and associations of the dimensions, checked against what they stand for."""

import anndata as ad
import numpy as np
import pytest
from scipy.stats import spearmanr

import sc_vaenb


def described(adata, **options):
    sc_vaenb.tl.factors(adata, device="cpu", **options)
    return adata.uns["vae_factors"]


@pytest.fixture
def linear(adata, fast):
    sc_vaenb.tl.cvae(adata, "batch", decoder_hidden=(), **(fast | {"n_steps": 150}))
    return adata


def test_a_linear_decoder_gives_its_weights(linear):
    record = described(linear)
    weight = linear.uns["vae"]["model"]["weights"]["decoder.first.weight"]
    loadings = record["loadings"][["z0", "z1", "z2", "z3"]]
    constant = loadings.to_numpy() - weight
    np.testing.assert_allclose(constant, np.tile(constant[:1], (100, 1)), atol=1e-5)  # softmax
    assert list(loadings.index) == list(linear.var_names)
    assert record["params"]["loadings"] == "weights"


def test_dimensions_are_ordered_and_everything_follows(fitted, unchanged):
    with unchanged(fitted):
        result = sc_vaenb.tl.factors(fitted, device="cpu", copy=True)
    record = result.uns["vae_factors"]
    about = record["dimensions"]
    assert (about["variance"][about["active"]].diff().dropna() <= 0).all()
    assert ((about["variance"] >= 0) & (about["variance"] <= 1)).all()
    assert (about["active"] == (about["kl"] > 0.01)).all()
    assert list(record["loadings"]) == list(about.index) == list(record["association"])[1:]
    assert sorted(about.index) == ["z0", "z1", "z2", "z3"]
    assert record["params"]["loadings"] == "mean_jacobian"
    columns = [int(name[1:]) for name in about.index]
    state = result.obsm["X_vae_factors"][:, columns]
    np.testing.assert_allclose(about["sd"], state.std(0), rtol=1e-5)
    np.testing.assert_allclose(record["sweep"]["z"][:, 0], np.quantile(state, 0.01, axis=0), atol=1e-6)
    assert set(result.uns) == {"truth", "vae", "vae_factors"}


def test_without_an_alignment_the_embedding_has_the_same_states_in_other_coordinates(linear, fast):
    sc_vaenb.tl.vae(linear, **fast)
    described(linear)
    mapped = linear.uns["vae"]["model"]["weights"]
    states = linear.obsm["X_vae_factors"] - mapped["embedding_map.center"]
    np.testing.assert_allclose(states @ mapped["embedding_map.matrix"], linear.obsm["X_vae"], atol=1e-5)


def test_the_genes_that_are_named_rise_and_fall(fitted):
    record = described(fitted, n_top=3)
    lines = record["sweep"]["log1p"]
    assert (lines[:, :3, -1] > lines[:, :3, 0]).all()
    assert (lines[:, 3:, -1] < lines[:, 3:, 0]).all()
    for row, genes in zip(record["dimensions"].itertuples(), record["sweep"]["genes"], strict=True):
        assert (row.up, row.down) == (", ".join(genes[:3]), ", ".join(genes[3:]))


def test_associations_are_those_of_the_states(fitted):
    number = np.random.default_rng(0).normal(size=300)
    number[:50] = np.nan
    fitted.obs["number"], fitted.obs["flag"] = number, np.arange(300) % 3 == 0
    fitted.obs["name"], fitted.obs["same"] = [f"cell {i}" for i in range(300)], 1.0
    record = described(fitted)
    table = record["association"]
    assert set(table.index) == {
        "batch",
        "cell_type",
        "depth_factor",
        "number",
        "flag",
    }  # not unique names, or constants
    assert table.loc["number", "measure"] == "spearman"
    assert (table.loc[["batch", "cell_type", "flag"], "measure"] == "eta2").all()
    for dimension in range(4):
        state = fitted.obsm["X_vae_factors"][:, dimension]
        expected = spearmanr(state[50:], number[50:]).statistic
        assert table.loc["number", f"z{dimension}"] == pytest.approx(expected, abs=1e-6)
        means = fitted.obs.assign(z=state.astype(float)).groupby("cell_type", observed=True)["z"].transform("mean")
        assert table.loc["cell_type", f"z{dimension}"] == pytest.approx(means.var() / state.var(ddof=1), abs=1e-4)
    assert list(described(fitted, covariates="cell_type")["association"].index) == ["cell_type"]


def test_it_survives_a_file(fitted, tmp_path):
    fitted.obs["a b"] = np.arange(300.0)
    record = described(fitted)
    fitted.write_h5ad(tmp_path / "a.h5ad")
    again = ad.read_h5ad(tmp_path / "a.h5ad").uns["vae_factors"]
    for part in ("dimensions", "loadings", "association"):
        assert again[part].astype(object).values.tolist() == record[part].astype(object).values.tolist()
        assert list(again[part].index) == list(record[part].index)
        assert list(again[part]) == list(record[part])
    np.testing.assert_array_equal(again["sweep"]["log1p"], record["sweep"]["log1p"])
    assert again["sweep"]["genes"].tolist() == record["sweep"]["genes"].tolist()


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"key": "no"}, KeyError, r"uns\['no'\] holds no model fitted by sc_vaenb; uns has \['vae'\]"),
        ({"covariates": "no"}, KeyError, r"covariates='no' is not in adata\.obs"),
        (
            {"covariates": ["batch", "one"]},
            ValueError,
            r"obs\['one'\] holds 1 different values .* Choose another column",
        ),
        ({"covariates": "wrong"}, ValueError, r"obs\['wrong'\] holds 0 different values"),
        ({"n_top": 0}, ValueError, r"n_top=0 is not possible"),
        ({"max_cells": 1}, ValueError, r"max_cells=1 is not possible"),
        ({"rng": 0.5}, ValueError, r"rng=0\.5 is not possible"),
        ({"device": "no"}, ValueError, r"device='no' is not available here"),
    ],
)
def test_what_cannot_be_is_refused(fitted, refused, options, error, text):
    fitted.obs["one"], fitted.obs["wrong"] = 1, np.arange(300.0)
    fitted.obs.loc["cell_3", "wrong"] = np.inf
    with refused(fitted, error, text):
        sc_vaenb.tl.factors(fitted, **options)
