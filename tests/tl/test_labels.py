"""`labels_key`: labels of some cells go in, predictions for all come out."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score

import sc_vaenb
from sc_vaenb.fit.classify import calibration_error
from sc_vaenb.inference.transfer import nearest, vote

OPTIONS = {"layer": None, "n_latent": 8, "hidden": (32,), "n_steps": 300, "device": "cpu"}


def hidden(types, share, seed=0, nothing=np.nan):
    """The labels with all but a share of them, and one of each, made unknown."""
    rng = np.random.default_rng(seed)
    labels = types.astype(object).to_numpy(copy=True)
    kept = [rng.choice(np.flatnonzero(labels == name)) for name in types.cat.categories]
    labels[np.setdiff1d(rng.permutation(len(labels))[round(share * len(labels)) :], kept)] = nothing
    return labels


@pytest.fixture(scope="module")
def few():
    """Five types in two batches, 5 % of the labels known, embedded with and without them."""
    adata = sc_vaenb.datasets.simulate(800, 200, n_types=5, batch_strength=0.3, mean_depth=300, rng=1)
    adata.obs["known"] = hidden(adata.obs["cell_type"], 0.05)
    sc_vaenb.tl.cvae(adata, "batch", labels_key="known", **OPTIONS)
    sc_vaenb.tl.cvae(adata, "batch", key_added="plain", **OPTIONS)
    return adata


@pytest.fixture(scope="module")
def half():
    """The same types in a model without batches, with half of the labels known."""
    adata = sc_vaenb.datasets.simulate(1200, 60, n_types=5, n_batches=1, mean_depth=60, rng=2)
    adata.obs["known"] = hidden(adata.obs["cell_type"], 0.6)
    sc_vaenb.tl.vae(adata, labels_key="known", **OPTIONS)
    return adata


@pytest.fixture
def labelled(adata, fast):
    """300 cells, a third of the labels known, a fast fit with them."""
    adata.obs["known"] = hidden(adata.obs["cell_type"], 0.3)
    sc_vaenb.tl.cvae(adata, "batch", labels_key="known", **fast)
    return adata


def predictions(adata, name="vae"):
    parts = (
        adata.obs[f"{name}_label"],
        adata.obs[f"{name}_label_probability"],
        adata.obsm[f"{name}_label_probabilities"],
    )
    return tuple(part.to_numpy() for part in parts)


# what is predicted


@pytest.mark.slow
def test_few_labels_say_as_much_as_their_neighbours_do(few):
    unknown = few.obs["known"].isna().to_numpy()
    truth = few.obs["cell_type"].to_numpy(str)
    names, codes = np.unique(truth[~unknown], return_inverse=True)
    distance, at = nearest(few.obsm["X_plain"][unknown], few.obsm["X_plain"][~unknown], 15)
    neighbours = accuracy_score(truth[unknown], names[vote(distance, codes[at])[0]])
    found = accuracy_score(truth[unknown], few.obs["vae_label"].to_numpy(str)[unknown])
    assert found > 0.8  # chance 0.2
    assert found > neighbours - 0.02


def test_probabilities_are_those_of_the_labels(few):
    label, probability, table = predictions(few)
    assert few.obsm["vae_label_probabilities"].columns.tolist() == sorted(set(few.obs["known"].dropna()))
    np.testing.assert_allclose(table.sum(1), 1, rtol=1e-5)
    np.testing.assert_array_equal(few.obsm["vae_label_probabilities"].idxmax(axis=1), label)
    np.testing.assert_array_equal(table.max(1), probability)


def test_probabilities_come_true(half):
    unknown = half.obs["known"].isna().to_numpy()
    truth = half.obs["cell_type"].cat.codes.to_numpy(np.int64)
    table = half.obsm["vae_label_probabilities"].to_numpy()
    told = half.uns["vae"]["labels"]
    right = (table.argmax(1) == truth)[unknown].mean()
    assert 0.5 < right < 0.97  # hard enough to be wrong about
    assert calibration_error(table[unknown], truth[unknown]) < 0.12
    assert 45 <= told["n_held_back"] <= 75
    assert told["accuracy"] == pytest.approx(right, abs=0.12)
    assert 0 <= told["calibration_error"] < 0.2


def test_of_few_labels_none_judge(few):
    told = few.uns["vae"]["labels"]
    assert told["n_known"] == few.obs["known"].notna().sum()
    assert (told["n_held_back"], told["temperature"]) == (0, 1)
    assert not {"accuracy", "calibration_error"} & set(told)


def test_the_history_knows_what_the_labels_cost(few):
    cost = few.uns["vae"]["history"]["train_labels"]
    assert 0 < cost[-1] < 0.5 * cost[0]
    assert "train_labels" not in few.uns["plain"]["history"]


# how labels may look


@pytest.mark.slow
@pytest.mark.parametrize("nothing", [np.nan, None, "unknown", pd.Categorical])
def test_no_label_looks_many_ways(labelled, fast, nothing):
    other = labelled.copy()
    known = labelled.obs["known"]
    if nothing is pd.Categorical:
        other.obs["known"] = pd.Categorical(known, categories=["ghost", "unknown", *sorted(set(known.dropna()))])
    else:
        other.obs["known"] = known.astype(object).where(known.notna(), nothing)
    sc_vaenb.tl.cvae(other, "batch", labels_key="known", **fast)
    for mine, theirs in zip(predictions(labelled), predictions(other), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    np.testing.assert_array_equal(labelled.obsm["X_vae"], other.obsm["X_vae"])


def test_another_word_for_no_label_and_numbers_as_labels(adata, fast):
    codes = adata.obs["cell_type"].cat.codes.to_numpy().astype(int)
    codes[::3] = -7
    adata.obs["known"] = codes
    sc_vaenb.tl.vae(adata, labels_key="known", unlabeled="-7", key_added="mine", **fast)
    assert adata.obs["mine_label"].cat.categories.tolist() == ["0", "1", "2"]
    assert adata.uns["mine"]["labels"]["n_known"] == 200


def test_a_label_of_one_cell_and_two_labels(adata, fast):
    adata.obs["known"] = ["rare/one", "common"] + ["unknown"] * 148 + ["common"] * 150
    sc_vaenb.tl.vae(adata, labels_key="known", **fast)
    label, _, table = predictions(adata)
    assert (label == "common").mean() > 0.9
    assert adata.obsm["vae_label_probabilities"].columns.tolist() == ["common", "rare|one"]
    np.testing.assert_allclose(table.sum(1), 1, rtol=1e-5)


def test_without_labels_there_are_no_traces_of_them(fitted):
    assert "labels" not in fitted.uns["vae"]
    assert not [name for name in [*fitted.obs, *fitted.obsm] if "label" in name]
    assert not [name for name in fitted.uns["vae"]["model"]["weights"] if name.startswith("penalties")]


# what else works on such a model


def test_a_later_fit_without_labels_leaves_no_predictions(labelled, fast):
    assert {"vae_label", "vae_label_probability"} < set(labelled.obs)
    sc_vaenb.tl.cvae(labelled, "batch", **fast)
    assert not [name for name in [*labelled.obs, *labelled.obsm] if name.startswith("vae_label")]


def test_a_file_keeps_predictions_and_cells_without_labels_get_them(labelled, tmp_path):
    labelled.write_h5ad(tmp_path / "cells.h5ad")
    again = ad.read_h5ad(tmp_path / "cells.h5ad")
    for mine, theirs in zip(predictions(labelled), predictions(again), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert again.uns["vae"]["labels"]["names"].tolist() == labelled.uns["vae"]["labels"]["names"].tolist()
    del again.obs["known"], again.obs["vae_label"], again.obsm["vae_label_probabilities"]
    sc_vaenb.tl.embed(again, key_added="again", device="cpu")
    assert (predictions(again, "again")[0] == predictions(labelled)[0]).all()
    np.testing.assert_allclose(predictions(again, "again")[2], predictions(labelled)[2], atol=1e-5)
    sc_vaenb.tl.normalized(again, device="cpu")
    assert np.isfinite(again.layers["normalized"]).all()


def test_an_exported_model_predicts(labelled, tmp_path):
    sc_vaenb.tl.export_model(labelled, tmp_path / "model.safetensors")
    fresh = ad.AnnData(labelled.X.copy(), obs=labelled.obs[["batch"]].copy(), var=labelled.var[[]].copy())
    sc_vaenb.tl.import_model(fresh, tmp_path / "model.safetensors")
    sc_vaenb.tl.embed(fresh, device="cpu")
    np.testing.assert_allclose(predictions(fresh)[2], predictions(labelled)[2], atol=1e-5)


@pytest.mark.slow
def test_a_mapped_query_is_predicted_by_embedding_it(labelled, adata):
    labelled = labelled[:, ::-1].copy()
    query = sc_vaenb.datasets.simulate(300, 100, n_types=3, n_batches=2, mean_depth=500, rng=0)[:80].copy()
    query.obs["batch"] = "new"
    sc_vaenb.tl.map_query(query, labelled, label_key="cell_type", n_steps=5, device="cpu")
    sc_vaenb.tl.embed(query, device="cpu")
    agree = query.obs["vae_label"].astype(str) == query.obs["cell_type_predicted"].astype(str)
    assert agree.mean() > 0.8


# refusals


def table(n, **columns):
    return {name: (values * n)[:n] for name, values in columns.items()}


@pytest.mark.parametrize(
    ("key", "error", "text"),
    [
        ("nothing", KeyError, r"labels_key='nothing' is not in adata.obs. Its columns are"),
        ("batch", ValueError, r"labels_key='batch' is a batch_key: the embedding would keep the batches"),
        ("empty", ValueError, r"obs\['empty'\] holds no label \(cells without one are NaN or 'unknown'\)"),
        ("words", ValueError, r"obs\['words'\] holds no label \(cells without one are NaN or 'unknown'\)"),
        ("one", ValueError, r"obs\['one'\] holds only one label \('B'\): there is nothing to tell it from"),
        ("numbers", ValueError, r"obs\['numbers'\] holds numbers with fractions, not labels"),
        ("mixed", ValueError, r"obs\['mixed'\] holds values of one name and different types \(first: '1'\)"),
    ],
)
def test_labels_that_cannot_be(adata, fast, refused, key, error, text):
    columns = table(
        300,
        empty=[np.nan],
        words=["unknown"],
        one=["B", "unknown", None],
        numbers=[0.5, 1.0, np.nan],
        mixed=["1", 1, "a"],
    )
    for name, values in columns.items():
        adata.obs[name] = pd.Series(values, index=adata.obs_names, dtype=float if name == "numbers" else object)
    with refused(adata, error, text):
        sc_vaenb.tl.cvae(adata, "batch", labels_key=key, **fast)


def test_a_word_for_no_label_that_is_no_word(adata, fast, refused):
    with refused(adata, TypeError, r"unlabeled=None is not possible. Give the text that stands for no label."):
        sc_vaenb.tl.vae(adata, labels_key="cell_type", unlabeled=None, **fast)


def test_a_query_gets_the_labels_of_the_reference_in_place_of_its_own(labelled, adata, fast):
    query = labelled[::3].copy()
    query.obs["own"] = np.where(np.arange(query.n_obs) % 2, "odd", "even")
    sc_vaenb.tl.vae(query, labels_key="own", prior="mog", **fast)
    sc_vaenb.tl.map_query(query, labelled, batch_key="batch", n_steps=5)
    assert set(query.obs["vae_label"].cat.categories) == set(labelled.obs["vae_label"].cat.categories)
    assert "vae_component" not in query.obs
    mapped = query.obs["vae_label"].copy()
    sc_vaenb.tl.embed(query)
    assert (query.obs["vae_label"] == mapped).all()


def test_an_imported_model_leaves_no_predictions_of_another(labelled, fast, tmp_path):
    other = sc_vaenb.tl.vae(labelled, copy=True, **fast)
    sc_vaenb.tl.export_model(other, tmp_path / "other.safetensors")
    sc_vaenb.tl.import_model(labelled, tmp_path / "other.safetensors")
    assert "vae_label" not in labelled.obs
