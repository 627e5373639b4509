"""`tl.importance`: it names the genes that were simulated to matter, and says of what it is made."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

import sc_vaenb


@pytest.fixture(scope="module")
def _learned(simulated):
    return sc_vaenb.tl.cvae(simulated, "batch", copy=True, n_latent=6, hidden=(32,), n_steps=250, device="cpu")


@pytest.fixture
def learned(_learned):
    return _learned.copy()


def found(adata, *args, **options):
    sc_vaenb.tl.importance(adata, *args, device="cpu", **options)
    return adata.uns[options.get("key_added", "vae_importance")]


def aurocs(adata, values):
    marker_of = adata.var["marker_of"].astype(object)
    return [roc_auc_score(marker_of == name, values[name]) for name in values]


def test_simulated_markers_are_found_and_not_those_of_shuffled_groups(learned):
    right = found(learned, groupby="cell_type")
    assert min(aurocs(learned, right["values"])) > 0.8
    learned.obs["cell_type"] = np.random.default_rng(0).permutation(learned.obs["cell_type"])
    assert np.mean(aurocs(learned, found(learned, groupby="cell_type")["values"])) < 0.7


def test_attributions_add_up_and_markers_are_higher_in_their_group(learned):
    record = found(learned, groupby="cell_type", max_cells=40)
    groups = record["groups"]
    np.testing.assert_allclose(groups["attributed"], groups["state"], rtol=1e-2)
    np.testing.assert_allclose(record["values"].sum(), groups["attributed"])
    assert (groups["n_used"] == 40).all()
    assert groups["n_cells"].to_dict() == learned.obs["cell_type"].value_counts().to_dict()
    for name in groups.index:
        assert record["change"].loc[(learned.var["marker_of"] == name).to_numpy(), name].mean() > 0


def test_dimensions_are_chosen_by_number_or_name(learned, unchanged):
    every = found(learned)["values"]
    assert list(every) == [f"z{i}" for i in range(6)]
    assert list(every.index) == list(learned.var_names)
    with unchanged(learned):
        some = sc_vaenb.tl.importance(learned, of=[4, "z1"], device="cpu", copy=True).uns["vae_importance"]
    assert some["params"]["method"] == "mean_jacobian"
    pd.testing.assert_frame_equal(some["values"], every[["z4", "z1"]], atol=1e-6)


def test_the_draw_follows_the_seed(learned):
    first, again, other = (found(learned, of=0, max_cells=20, rng=rng)["values"].to_numpy() for rng in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-6


def test_cells_without_a_group_belong_to_none_and_names_survive_a_file(learned, tmp_path):
    names = learned.obs["cell_type"].cat.rename_categories({"type_0": "CD4/CD8"}).astype(object)
    names[:30] = np.nan
    learned.obs["group"] = names
    record = found(learned, groupby="group", of="CD4/CD8", key_added="why")
    assert record["groups"].index.tolist() == ["CD4|CD8"]
    assert record["groups"]["n_cells"].tolist() == [(names == "CD4/CD8").sum()]
    assert list(record["values"]) == ["CD4|CD8"]
    learned.write_h5ad(tmp_path / "a.h5ad")
    again = ad.read_h5ad(tmp_path / "a.h5ad").uns["why"]
    for part in ("values", "change", "groups"):
        np.testing.assert_array_equal(again[part].to_numpy(), record[part].to_numpy())
        assert again[part].index.tolist() == record[part].index.tolist()
        assert list(again[part]) == list(record[part])
    assert again["params"]["groupby"] == "group"


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"key": "no"}, KeyError, r"uns\['no'\] holds no model fitted by sc_vaenb; uns has \['vae'\]"),
        ({"of": "z9"}, ValueError, r"of='z9' is not possible: dimensions holds \['z0', .*Name some of these"),
        ({"of": [1, 1]}, ValueError, r"of=\[1, 1\] is not possible"),
        ({"of": []}, ValueError, r"of=\[\] is not possible"),
        ({"groupby": "no"}, KeyError, r"groupby='no' is not in adata\.obs"),
        (
            {"groupby": "cell_type", "of": "B"},
            ValueError,
            r"of='B' is not possible: obs\['cell_type'\] holds \['type_0'",
        ),
        ({"groupby": "one"}, ValueError, r"obs\['one'\] holds the groups \['a'\]: two or more .* as groupby"),
        ({"max_cells": 0}, ValueError, r"max_cells=0 is not possible\. Give a whole number at least 1"),
        ({"rng": -1}, ValueError, r"rng=-1 is not possible"),
        ({"key_added": "vae"}, ValueError, "key_added='vae' names a model in uns, which would be lost"),
        ({"key_added": "a/b"}, ValueError, r"key_added='a/b' is not possible\. Give a name without '/'"),
        ({"device": "no"}, ValueError, r"device='no' is not available here"),
    ],
)
def test_what_cannot_be_is_refused(fitted, refused, options, error, text):
    fitted.obs["one"] = "a"
    with refused(fitted, error, text):
        sc_vaenb.tl.importance(fitted, **options)


def test_missing_genes_and_damaged_models_are_refused(fitted, refused):
    part = fitted[:, 2:].copy()
    with refused(part, ValueError, r"2 of the 100 genes of the model in uns\['vae'\] are not in var_names"):
        sc_vaenb.tl.importance(part)
    del fitted.uns["vae"]["model"]["weights"]["encoder.first.bias"]
    with refused(fitted, ValueError, r"the model in uns\['vae'\] is damaged"):
        sc_vaenb.tl.importance(fitted)
