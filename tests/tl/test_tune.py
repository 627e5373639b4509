"""`tl.tune`: the search can be told, goes on, is the same again, and keeps the defaults unless it has reason not to."""

import builtins

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import sc_vaenb
from sc_vaenb.tl._tune import _verdict
from sc_vaenb.tl._tune_fit import agreement, clusters_per_batch
from sc_vaenb.tl._tune_space import default_space, in_words, read_space, start_config

SPACE = {"n_steps": [5], "hidden": [(8,)], "n_latent": [3, 2], "beta": (0.1, 2.0)}
DEFAULTS = sc_vaenb.tl.cvae.__kwdefaults__


def tuned(adata, batch_key="batch", **options):
    sc_vaenb.tl.tune(adata, batch_key, device="cpu", **{"n_trials": 3, "n_seeds": 0, "space": SPACE, **options})
    return adata.uns[options.get("key_added", "tune")]


@pytest.fixture(scope="module")
def searched(simulated):
    adata = simulated.copy()
    tuned(adata, n_seeds=1)
    return adata


def same(one, other):
    pd.testing.assert_frame_equal(one.drop(columns="seconds"), other.drop(columns="seconds"))


def test_the_first_trial_is_the_default_and_only_the_record_is_written(searched, simulated, unchanged):
    record = searched.uns["tune"]
    table = record["trials"]
    assert table[["n_steps", "hidden", "n_latent", "beta"]].iloc[0].tolist() == [5, "(8,)", 3, 0.5]
    assert table["default"].tolist() == [True, False, False]
    assert table["chosen"].sum() == 1
    assert table["beta"].between(0.1, 2).all()
    assert table["beta"].nunique() == 3
    np.testing.assert_allclose(table["score"], 0.6 * table["kept"] + 0.4 * table["mixed"])
    assert (table["log_likelihood"] < 0).all()
    assert record["recommended"] in record["verdict"]
    assert set(record["seeds"]["seed"]) <= {1}
    assert "n_steps=5, hidden=(8,)" in record["recommended"]
    del searched.uns["tune"]
    with unchanged(simulated):
        assert searched.obsm.keys() == simulated.obsm.keys()
        assert searched.uns.keys() == simulated.uns.keys()
    searched.uns["tune"] = record


def test_a_trial_has_the_scores_of_the_fit_that_it_names(searched, simulated):
    row = searched.uns["tune"]["trials"].iloc[1]
    options = {"n_steps": 5, "hidden": (8,), "n_latent": int(row["n_latent"]), "beta": float(row["beta"])}
    fitted = sc_vaenb.tl.cvae(simulated, "batch", device="cpu", copy=True, **options)
    found = sc_vaenb.metrics.score(fitted.obsm["X_vae"], batch=fitted.obs["batch"], metrics=["ilisi"])
    assert row["mixed"] == pytest.approx(found["ilisi"], abs=1e-6)


@pytest.mark.slow
def test_a_search_in_two_calls_is_that_in_one(searched, adata, tmp_path, log):
    storage = str(tmp_path / "tune.log")
    tuned(adata, n_trials=1, storage=storage)
    record = tuned(adata, storage=storage, n_seeds=1)
    assert f"1 trials are in {storage}: continuing from there" in log.getvalue()
    same(record["trials"], searched.uns["tune"]["trials"])
    same(record["seeds"], searched.uns["tune"]["seeds"])
    other = adata[:-1].copy()  # other data are another search, also in the same storage
    assert len(tuned(other, n_trials=1, storage=storage)["trials"]) == 1


@pytest.mark.slow
def test_an_interrupted_trial_is_not_counted(adata, tmp_path, monkeypatch, unchanged):
    storage, whole = f"sqlite:///{tmp_path / 'tune.db'}", sc_vaenb.tl._tune_study.fit_and_score
    calls = []

    def interrupted(*args):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return whole(*args)

    monkeypatch.setattr("sc_vaenb.tl._tune_study.fit_and_score", interrupted)
    with unchanged(adata), pytest.raises(KeyboardInterrupt):
        tuned(adata, n_trials=2, storage=storage)
    table = tuned(adata, n_trials=2, storage=storage)["trials"]
    assert len(calls) == 3
    assert len(table) == 2
    assert calls[1][1] == calls[2][1]


def test_a_fit_that_breaks_down_is_left_out_and_one_of_the_defaults_ends_it(adata, monkeypatch, log, refused):
    scores = iter([{"score": 0.5, "kept": 0.5, "seconds": 1.0}, {"error": "the loss is nan"}, {"error": "no"}])
    monkeypatch.setattr("sc_vaenb.tl._tune_study.fit_and_score", lambda *args: next(scores))
    table = tuned(adata, None, n_trials=2)["trials"]
    assert table["score"].isna().tolist() == [False, True]
    assert adata.uns["tune"]["verdict"].startswith("Keep the defaults: of 2 trials none scores higher (0.500)")
    assert "broke down and is left out: the loss is nan" in log.getvalue()
    del adata.uns["tune"]
    with refused(adata, RuntimeError, r"the fit with \{'n_steps': 5, .* broke down: no\. Look for extreme counts"):
        tuned(adata, None, n_trials=1)


@pytest.mark.slow
def test_without_batches_vae_is_tuned_and_a_file_keeps_the_search(adata, tmp_path):
    adata.layers["raw"] = adata.layers.pop("counts")
    record = tuned(adata, None, layer="raw", n_trials=2, space=SPACE | {"dropout": (0, 0.2)})
    assert "mixed" not in record["trials"]
    assert record["recommended"].startswith("sc_vaenb.tl.vae(adata, n_steps=5")
    assert record["recommended"].endswith("layer='raw')")
    adata.write_h5ad(tmp_path / "a.h5ad")
    read = ad.read_h5ad(tmp_path / "a.h5ad").uns["tune"]
    for name in ("trials", "seeds"):
        pd.testing.assert_frame_equal(read[name], record[name], check_dtype=False, check_index_type=False)
    assert read["verdict"] == record["verdict"]
    assert read["params"] == record["params"]


def test_the_default_space_is_around_the_defaults():
    space = default_space(batches=True)
    assert in_words(start_config(space, DEFAULTS), DEFAULTS) == ""
    assert {"normal", "conditional"} <= set(space["prior"])


@pytest.mark.parametrize("batch_key", ["batch", None])
def test_every_value_of_the_default_space_can_be_fitted(adata, batch_key):
    function = sc_vaenb.tl.vae if batch_key is None else sc_vaenb.tl.cvae
    space = default_space(batch_key is not None)
    lists = {name: values for name, values in space.items() if isinstance(values, list)}
    assert read_space(adata, function, lists, {"batch_key": batch_key}) == lists


def table_of(*scores):
    return pd.DataFrame({"score": scores})


@pytest.mark.parametrize(
    ("scores", "theirs", "ours", "chosen", "text"),
    [
        ((0.6, 0.5), [], [], 0, r"Keep the defaults: of 2 trials none scores higher \(0\.600\)"),
        ((0.6, 0.7), [], [], 1, r"Trial 1 \(beta=2\) scores 0\.700, the defaults 0\.600\. With a single seed"),
        ((0.6, 0.7), [0.6, 0.5], [0.7, 0.6], 1, r"2 other seeds 0\.650 against 0\.550 on average, higher with each"),
        ((0.6, 0.7), [0.6, 0.5], [0.9, 0.4], 0, r"Keep the defaults\. .* higher with 1 of 2: its lead is chance"),
        ((0.6, 0.7), [0.6], [np.nan], 0, r"Keep the defaults"),
    ],
)
def test_the_best_trial_must_win_again(scores, theirs, ours, chosen, text):
    again = [[{"score": s} for s in part] for part in (theirs, ours)]
    found, verdict = _verdict(table_of(*scores), int(np.argmax(scores)), again, {"beta": 2}, {"beta": 0.5})
    assert found == chosen
    assert pd.Series([verdict]).str.contains(text).all(), verdict


def test_agreement_falls_where_clusters_of_a_batch_are_merged_and_does_not_mind_those_of_another():
    codes = np.repeat([0, 1], 40)
    own = np.array([np.r_[np.repeat([0, 1], 20), np.repeat([0, 1], 20)], np.r_[np.repeat([0, 1], 20), [-1] * 40]])
    apart, joined = np.r_[own[0][:40], own[0][40:]], np.zeros(80, int)
    assert agreement(own, [joined, apart], codes) == pytest.approx(1)  # the best of the joint clusterings
    assert agreement(own, [np.r_[own[0][:40], own[0][40:] + 5]], codes) == pytest.approx(1)  # batches apart
    assert agreement(own, [joined], codes) == pytest.approx(0)
    half = np.r_[own[0][:40], np.zeros(40, int)]
    assert agreement(own[:1], [half], codes) == pytest.approx(0.5)
    assert agreement(own[1:], [half], codes) == pytest.approx(1)  # the second batch has no clusters of its own


# refusals


@pytest.mark.parametrize(
    ("space", "text"),
    [
        ({"n_latents": [3]}, r"space has \['n_latents'\], which cannot be searched\. tl\.cvae has \['covariate_keys'"),
        ({"time_key": ["time"]}, r"space has \['time_key'\], which cannot be searched"),
        ({"controls": ["control"]}, r"space has \['controls'\], which cannot be searched"),
        ({"rng": [0, 1]}, r"space has \['rng'\], which cannot be searched"),
        ({"beta": (2.0, 0.1)}, r"space\['beta'\]=\(2\.0, 0\.1\) is not possible\. Give a list of values, or a pair"),
        ({"beta": (0.1, 1, 2)}, r"space\['beta'\]=\(0\.1, 1, 2\) is not possible"),
        ({"beta": []}, r"space\['beta'\]=\[\] is not possible"),
        ({"beta": (-1.0, 2.0)}, r"space\['beta'\]: beta=-1\.0 is not possible\. Give a number at least 0"),
        ({"n_latent": (2.5, 10)}, r"space\['n_latent'\]: n_latent=2\.5 is not possible\. Give a whole number"),
        ({"hidden": (64, 128)}, r"space\['hidden'\]=\(64, 128\) is a range, but hidden is no number"),
        ({"prior": ["normal", "flow"]}, r"space\['prior'\]: prior='flow' is not known\. Choose one of"),
        ({"validation_fraction": [0.1, 0.2]}, r"space\['validation_fraction'\] has 2 values, between which scores"),
        ({"likelihood": ["nb", "gaussian"]}, r"space\['likelihood'\] has 'gaussian' beside others"),
    ],
)
def test_spaces_that_cannot_be_searched_are_refused(adata, refused, space, text):
    with refused(adata, ValueError, text):
        tuned(adata, space=space)


@pytest.mark.parametrize(
    ("argument", "error", "text"),
    [
        ({"n_trials": 0}, ValueError, r"n_trials=0 is not possible\. Give a whole number at least 1"),
        ({"n_seeds": -1}, ValueError, r"n_seeds=-1 is not possible\. Give a whole number at least 0"),
        ({"n_jobs": 0}, ValueError, r"n_jobs=0 is not possible"),
        ({"storage": 3}, TypeError, r"storage=3 is not possible\. Give the name of a file, or a URL"),
        ({"space": {}}, TypeError, r"space=\{\} is not possible\. Give a dict such as"),
        ({"key_added": "a/b"}, ValueError, r"key_added='a/b' is not possible"),
        ({"batch_key": "no"}, KeyError, r"batch_key='no' is not in adata\.obs"),
        ({"layer": "no"}, KeyError, r"layer='no' is not in adata\.layers"),
    ],
)
def test_arguments_that_cannot_be_are_refused(adata, refused, argument, error, text):
    with refused(adata, error, text):
        tuned(adata, **argument)


def test_too_few_cells_are_refused(simulated, refused):
    with refused(few := simulated[:40].copy(), ValueError, "no batch has two clusters of its own among the 40 cells"):
        tuned(few)


def test_without_optuna_the_command_to_install_it_is_named(adata, refused, monkeypatch):
    whole = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "optuna":
            raise ImportError(name)
        return whole(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with refused(adata, ImportError, r"tl\.tune needs optuna.*Run: pip install 'sc_vaenb\[tune\]'"):
        tuned(adata)


@pytest.mark.slow
def test_covariates_are_of_every_trial(adata, refused):
    adata.obs["kit"] = np.where(np.arange(adata.n_obs) % 2, "v2", "v3")
    record = tuned(adata, n_trials=2, space={**SPACE, "covariate_keys": [("kit",)]})
    assert "covariate_keys=('kit',)" in record["recommended"]
    assert np.isfinite(record["trials"]["score"]).all()
    with refused(adata, KeyError, r"covariate_keys='day' is not in adata\.obs"):
        tuned(adata, space={"covariate_keys": [("day",)]})


def test_processes_of_torchrun_are_refused(adata, refused, monkeypatch):
    for name, value in (
        ("RANK", "0"),
        ("WORLD_SIZE", "2"),
        ("LOCAL_RANK", "0"),
        ("MASTER_ADDR", "a"),
        ("MASTER_PORT", "1"),
    ):
        monkeypatch.setenv(name, value)
    with refused(adata, RuntimeError, r"tl\.tune cannot run in one of several processes of torchrun"):
        tuned(adata)


def test_a_batch_of_cells_that_are_alike_has_no_clusters():
    counts = sparse.csr_matrix(np.tile([1.0, 3.0, 0.0, 4.0], (80, 1)).astype(np.float32))
    assert (clusters_per_batch(counts, np.arange(80) % 2, 0) == -1).all()
