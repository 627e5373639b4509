"""`batch_key` with several columns: their combinations are the batches, in every function and in files."""

from __future__ import annotations

import re

import anndata as ad
import numpy as np
import pytest

import sc_vaenb
from sc_vaenb import pp, tl

SEVERAL = ["donor", "tech"]


@pytest.fixture(scope="session")
def _two_columns(simulated):
    adata = simulated.copy()
    adata.obs["donor"] = adata.obs["batch"].astype(str)
    adata.obs["tech"] = np.where(np.arange(adata.n_obs) % 2, "10x", "drop")
    adata.obs["joined"] = adata.obs["donor"] + " | " + adata.obs["tech"]
    return adata


@pytest.fixture
def adata(_two_columns):
    """Two donors and two technologies, crossed; `joined` holds their combinations."""
    return _two_columns.copy()


@pytest.fixture
def fitted(adata, fast):
    return tl.cvae(adata, SEVERAL, copy=True, **fast)


def test_a_fit_is_that_of_the_joined_column_and_its_record_knows_the_columns(fitted, adata, fast):
    tl.cvae(adata, "joined", **fast)
    np.testing.assert_array_equal(fitted.obsm["X_vae"], adata.obsm["X_vae"])
    assert fitted.uns["vae"]["params"]["batch_key"].tolist() == SEVERAL
    assert fitted.uns["vae"]["model"]["batches"].tolist() == sorted(set(adata.obs["joined"]))


def test_a_list_of_one_column_is_that_column(adata, fast):
    tl.cvae(adata, ("donor",), **fast)
    assert adata.uns["vae"]["params"]["batch_key"] == "donor"


@pytest.mark.filterwarnings("ignore:Writing zarr v2")
@pytest.mark.parametrize("write", ["write_h5ad", "write_zarr"])
def test_a_file_keeps_the_columns(fitted, tmp_path, write):
    path = tmp_path / ("cells.zarr" if write == "write_zarr" else "cells.h5ad")
    getattr(fitted, write)(path)
    again = (ad.read_zarr if write == "write_zarr" else ad.read_h5ad)(path)
    del again.obsm["X_vae"]
    tl.embed(again)
    np.testing.assert_allclose(again.obsm["X_vae"], fitted.obsm["X_vae"], atol=1e-6)
    assert list(again.uns["vae"]["params"]["batch_key"]) == SEVERAL
    again.obs["tech"] = "new"
    with pytest.raises(ValueError, match=r"obs\[\['donor', 'tech'\]\] holds batches that the model was not fitted on"):
        tl.embed(again)


def test_a_model_file_keeps_the_columns(fitted, adata, tmp_path):
    tl.export_model(fitted, tmp_path / "model.safetensors")
    tl.import_model(adata, tmp_path / "model.safetensors")
    tl.embed(adata)
    np.testing.assert_allclose(adata.obsm["X_vae"], fitted.obsm["X_vae"], atol=1e-6)
    assert list(adata.uns["vae"]["params"]["batch_key"]) == SEVERAL


def test_a_record_whose_batches_are_no_combinations_is_refused(fitted):
    fitted.uns["vae"]["params"]["batch_key"] = np.array([*SEVERAL, "third"], dtype=object)
    with pytest.raises(ValueError, match=r"model\['batches'\] are not combinations of \['donor', 'tech', 'third'\]"):
        tl.embed(fitted)


@pytest.mark.parametrize("batch_key", [None, SEVERAL, "joined"])
def test_a_query_is_mapped_by_the_columns_of_the_reference_or_by_one_that_joins_them(adata, batch_key, fast):
    known = (adata.obs["joined"] != "batch_1 | 10x").to_numpy()
    reference = tl.cvae(adata[known].copy(), SEVERAL, copy=True, **fast)
    query = adata[~known].copy()
    tl.map_query(query, reference, batch_key=batch_key, n_steps=2, device="cpu")
    assert query.uns["vae"]["query"]["new_batches"].tolist() == ["batch_1 | 10x"]
    assert tl.embed(query, copy=True).obsm["X_vae"].shape == query.obsm["X_vae"].shape
    assert list(np.atleast_1d(query.uns["vae"]["params"]["batch_key"])) == (
        [batch_key] if batch_key == "joined" else SEVERAL
    )


def test_a_query_with_another_number_of_columns_is_refused(fitted, adata):
    adata.obs["third"] = "x"
    with pytest.raises(ValueError, match=r"names 3 columns, but the model was fitted on \['donor', 'tech'\]\. Name as"):
        tl.map_query(adata, fitted, batch_key=[*SEVERAL, "third"], device="cpu")


def test_sampled_cells_have_both_columns(fitted):
    new = tl.sample(fitted, 20, batch="batch_1 | 10x", device="cpu")
    assert set(new.obs["donor"]) == {"batch_1"}
    assert set(new.obs["tech"]) == {"10x"}


def test_harmony_corrects_for_the_combinations(adata):
    tl.harmony(adata, SEVERAL)
    tl.harmony(adata, "joined", key_added="joined")
    np.testing.assert_array_equal(adata.obsm["X_pca_harmony"], adata.obsm["X_joined"])
    assert adata.uns["pca_harmony"]["params"]["batch_key"].tolist() == SEVERAL


def test_genes_are_chosen_within_the_combinations(adata):
    joined = pp.prepare(adata, "joined", n_top_genes=20, copy=True)
    pp.prepare(adata, SEVERAL, n_top_genes=20)
    assert adata.var["highly_variable"].equals(joined.var["highly_variable"])
    assert adata.uns["prepare"]["batch_key"] == "donor | tech"


def test_scores_are_of_the_combinations(adata, tmp_path):
    adata.obsm["X_a"] = np.random.default_rng(0).normal(size=(adata.n_obs, 4))
    joined = tl.score(adata, "X_a", batch_key="joined", label_key="cell_type", copy=True).uns["scores"]["values"]
    tl.score(adata, "X_a", batch_key=SEVERAL, label_key="cell_type")
    np.testing.assert_allclose(adata.uns["scores"]["values"]["batch"], joined["batch"])
    adata.write_h5ad(tmp_path / "cells.h5ad")
    sc_vaenb.pl.scores(ad.read_h5ad(tmp_path / "cells.h5ad"), "scores", show=False)


def test_the_design_is_of_the_combinations_and_names_the_columns(adata, tmp_path):
    joined = tl.design(adata, "joined", label_key="cell_type", copy=True).uns["design"]
    tl.design(adata, SEVERAL, label_key="cell_type")
    assert adata.uns["design"]["cells"].equals(joined["cells"])
    columns = adata.uns["design"]["columns"]
    assert columns.loc[["donor | tech", "donor", "tech"], "relation"].tolist() == ["same", "coarser", "coarser"]
    assert adata.uns["design"]["findings"]["subject"].iloc[-1] == "donor | tech"
    adata.write_h5ad(tmp_path / "cells.h5ad")


def test_advice_on_an_argument_of_one_column_names_both(adata):
    adata.obs["condition"] = np.where(adata.obs["donor"] == "batch_0", "healthy", "ill")
    tl.design(adata, SEVERAL, condition_key="condition")
    text = " ".join(adata.uns["design"]["findings"]["sentence"])
    assert "tl.differential(sample_key=<a column that joins ['donor', 'tech']>)" in text


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda a: tl.score(a, "X_a", batch_key=SEVERAL, label_key="tech"), "batch_key and label_key both name 'tech'"),
        (lambda a: tl.design(a, SEVERAL, condition_key="tech"), "batch_key and condition_key both name 'tech'"),
        (lambda a: tl.cvae(a, SEVERAL, covariate_keys=["tech"]), "covariate_keys holds 'tech', which is a batch_key"),
        (lambda a: tl.cvae(a, SEVERAL, labels_key="tech"), "labels_key='tech' is a batch_key"),
        (lambda a: tl.cvae(a, ["donor", "donor"]), "or the different names of several"),
        (lambda a: tl.cvae(a, a.obs["donor"]), "Put the values into adata.obs first, and give the name of that column"),
        (lambda a: tl.cvae(a, []), "batch_key=[] is not possible"),
    ],
)
def test_what_cannot_be_is_refused(adata, call, text):
    adata.obsm["X_a"] = np.zeros((adata.n_obs, 2))
    with pytest.raises(ValueError, match=re.escape(text)):
        call(adata)


@pytest.mark.slow
def test_a_comparison_its_figure_and_its_page_name_the_columns(adata, tmp_path):
    short = {"short": {"n_steps": 5, "hidden": (8,)}}
    tl.compare(adata, SEVERAL, label_key="cell_type", variants=short, device="cpu")
    assert adata.uns["compare"]["params"]["batch_key"].tolist() == SEVERAL
    assert adata.uns["compare"]["failed"] == {}
    adata.write_h5ad(tmp_path / "cells.h5ad")
    again = ad.read_h5ad(tmp_path / "cells.h5ad")
    axes = sc_vaenb.pl.compare(again, show=False)
    assert [ax.get_title().partition(" · ")[2] for ax in axes[0]] == ["donor", "tech", "cell_type", "leiden"]
    sc_vaenb.report.write(again, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "4 batches" in page
    assert "4 in obs[&#39;donor&#39;] and obs[&#39;tech&#39;]" in page
    made = again.uns["compare"]["made"]["made_from"].tolist()
    tl.compare(again, SEVERAL, label_key="cell_type", variants=short, device="cpu")
    assert again.uns["compare"]["made"]["made_from"].tolist() == made


@pytest.mark.slow
def test_a_search_is_over_the_combinations(adata):
    pytest.importorskip("optuna")
    tl.tune(adata, SEVERAL, n_trials=1, n_seeds=0, space={"n_steps": [2]}, device="cpu")
    assert adata.uns["tune"]["params"]["batch_key"].tolist() == SEVERAL
    assert "sc_vaenb.tl.cvae(adata, batch_key=['donor', 'tech']" in adata.uns["tune"]["recommended"]
