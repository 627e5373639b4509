"""Only a fit that is equal to the bit is found."""

import anndata
import numpy as np
import pandas as pd
import pytest

from sc_vaenb import tl
from sc_vaenb.tl._equal_fit import equal_fit

from ..contract.table import snapshot

SHORT = {"n_latent": 4, "hidden": (8,), "n_steps": 5, "device": "cpu"}


def found(adata, **changes):
    arguments = tl.cvae.__kwdefaults__ | SHORT | {"batch_key": "batch"} | changes
    return equal_fit(adata, tl.cvae, arguments, "vae")


@pytest.fixture(scope="module")
def _fitted(simulated):
    adata = simulated.copy()
    adata.layers["counts"] = adata.X.copy()
    tl.cvae(adata, "batch", **SHORT)
    return adata


@pytest.fixture
def fitted(_fitted):
    return _fitted.copy()


def test_it_is_found_also_in_a_file_and_under_another_key(fitted, tmp_path):
    assert found(fitted) == "vae"
    fitted.write_h5ad(tmp_path / "a.h5ad")
    again = anndata.read_h5ad(tmp_path / "a.h5ad")
    assert found(again) == "vae"
    assert found(again, n_latent=np.int64(4), hidden=[8], covariate_keys=None) == "vae"
    tl.cvae(fitted, "batch", key_added="mine", **SHORT)
    del fitted.uns["vae"]
    assert found(fitted) == "mine"


def test_what_it_equals_is_what_a_fit_gives(fitted):
    anew = fitted.copy()
    tl.cvae(anew, "batch", **SHORT)
    for slot in ("obsm", "varm", "uns"):
        assert snapshot(dict(getattr(anew, slot))) == snapshot(dict(getattr(fitted, slot)))


@pytest.mark.parametrize(
    "changes",
    [{"rng": 1}, {"n_latent": 5}, {"beta": 0.4}, {"n_steps": 6}, {"layer": None}, {"align": False}, {"batch_key": "b"}],
)
def test_other_arguments_are_another_fit(fitted, changes):
    fitted.obs["b"] = fitted.obs["batch"]
    assert found(fitted, **changes) is None


def test_another_function_is_another_fit(fitted):
    assert equal_fit(fitted, tl.vae, tl.vae.__kwdefaults__ | SHORT, "vae") is None


def one_more_count(adata):
    adata.layers["counts"].data[0] += 1


def another_batch(adata):
    adata.obs["batch"] = adata.obs["batch"].to_numpy()[::-1]


def other_names_of_batches(adata):
    adata.obs["batch"] = adata.obs["batch"].cat.rename_categories(lambda name: f"{name}!")


def other_names_of_genes(adata):
    adata.var_names = [f"{name}!" for name in adata.var_names]


def another_embedding(adata):
    adata.obsm["X_vae"][0, 0] += 1


def no_embedding(adata):
    del adata.obsm["X_vae"]


def other_loadings(adata):
    adata.varm["vae_loadings"][0, 0] += 1


def other_weights(adata):
    next(iter(adata.uns["vae"]["model"]["weights"].values()))[...] = 0


def another_version(adata):
    adata.uns["vae"]["fingerprint"]["params"] = "0" * 16


def damaged(adata):
    adata.uns["vae"]["model"]["config"] = "{"


def an_odd_fingerprint(adata):
    adata.uns["vae"]["fingerprint"] = {"params": np.zeros(3), "data": None}


def imported(adata):
    del adata.uns["vae"]["fingerprint"]


@pytest.mark.parametrize(
    "change",
    [
        one_more_count,
        another_batch,
        other_names_of_batches,
        other_names_of_genes,
        another_embedding,
        no_embedding,
        other_loadings,
        other_weights,
        another_version,
        damaged,
        an_odd_fingerprint,
        imported,
    ],
)
def test_what_has_changed_since_is_not_found(fitted, change):
    change(fitted)
    assert found(fitted) is None


def test_what_cannot_be_read_is_left_to_the_fit(fitted):
    del fitted.layers["counts"]
    assert found(fitted) is None


def test_a_fit_whose_results_are_also_in_obs_has_no_fingerprint(fitted):
    labels = pd.Series(fitted.obs["cell_type"]).astype(str)
    fitted.obs["some"] = labels.where(np.arange(fitted.n_obs) % 2 == 0, "unknown")
    tl.cvae(fitted, "batch", labels_key="some", key_added="labelled", **SHORT)
    tl.cvae(fitted, "batch", prior="mog", key_added="mixture", **SHORT)
    assert "fingerprint" in fitted.uns["vae"]
    assert "fingerprint" not in fitted.uns["labelled"]
    assert "fingerprint" not in fitted.uns["mixture"]


def test_a_mapped_query_has_no_fingerprint(fitted):
    query = fitted[:50].copy()
    tl.map_query(query, fitted, device="cpu", n_steps=2)
    assert "fingerprint" not in query.uns["vae"]
