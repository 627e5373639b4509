"""`tl.cvae`: batches go in, and their effect stays out. What it shares with `tl.vae` is tested there."""

import traceback
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score
from sklearn.neighbors import NearestNeighbors

import sc_vaenb
from sc_vaenb.fit import step_cpu
from sc_vaenb.tl import _fit, _inputs


@pytest.fixture(scope="module")
def expected(simulated, fast):
    return sc_vaenb.tl.cvae(simulated, "batch", copy=True, **fast)


@pytest.fixture(scope="module")
def integrated():
    """Five types in two batches with a strong effect, embedded with and without knowledge of the batches."""
    adata = sc_vaenb.datasets.simulate(800, 200, n_types=4, batch_strength=0.5, mean_depth=1500, rng=1)
    options = {"layer": None, "n_latent": 8, "hidden": (32,), "n_steps": 300, "device": "cpu"}
    sc_vaenb.tl.vae(adata, **options)
    sc_vaenb.tl.cvae(adata, "batch", key_added="cvae", **options)
    return adata


def embedding(adata, batch_key="batch", **options):
    sc_vaenb.tl.cvae(adata, batch_key, **options)
    return adata.obsm["X_vae"]


def same_share(adata, rep, key, k=15):
    """Share of the k nearest neighbours that agree with the cell in obs[key]."""
    code = adata.obs[key].cat.codes.to_numpy()
    near = NearestNeighbors(n_neighbors=k).fit(adata.obsm[rep]).kneighbors(return_distance=False)
    return (code[near] == code[:, None]).mean()


# integration


def test_batches_mix_better_than_without_and_types_stay_apart(integrated):
    without, mixed = (same_share(integrated, rep, "batch") for rep in ("X_vae", "X_cvae"))
    assert without > 0.85  # the effect is there
    assert mixed < 0.65  # chance 0.5
    assert mixed < without - 0.25
    assert same_share(integrated, "X_cvae", "cell_type") > 0.9  # chance 0.25


def test_types_are_found_across_batches(integrated):
    found = KMeans(4, n_init=5, random_state=0).fit_predict(integrated.obsm["X_cvae"])
    assert adjusted_rand_score(integrated.obs["cell_type"], found) > 0.8


@pytest.mark.slow
def test_a_conditional_prior_mixes_less(integrated, latent_states):
    options = {"layer": None, "n_latent": 8, "hidden": (32,), "n_steps": 300, "device": "cpu"}
    adata = sc_vaenb.tl.cvae(
        integrated, "batch", prior="conditional", align=False, copy=True, key_added="prior", **options
    )
    sc_vaenb.tl.cvae(adata, "batch", align=False, key_added="normal", **options)
    for key in ("prior", "normal"):
        adata.obsm[key] = latent_states(adata, key)  # whose distribution is the prior
    assert same_share(adata, "prior", "batch") > same_share(adata, "normal", "batch") + 0.05


# labels


@pytest.mark.slow
@pytest.mark.parametrize(
    "relabel",
    [
        lambda code: code,
        lambda code: np.array([7, 30])[code],
        lambda code: np.array(["a", "b"])[code],
        lambda code: np.array(["a", "b"], dtype=object)[code],
        lambda code: code.astype(bool),
        lambda code: pd.Categorical.from_codes(code, ["z", "a"]),
        lambda code: pd.Categorical.from_codes(code + 1, ["ghost", "a", "b", "other ghost"]),
    ],
)
def test_labels_of_any_type_give_the_same(adata, fast, expected, relabel):
    labels = relabel(adata.obs["batch"].cat.codes.to_numpy().astype(int))
    adata.obs["label"] = labels
    np.testing.assert_array_equal(embedding(adata, "label", **fast), expected.obsm["X_vae"])
    names = [str(name) for name in pd.Categorical(labels).remove_unused_categories().categories]
    assert adata.uns["vae"]["model"]["batches"].tolist() == names


def test_the_batch_matters(adata, fast, expected):
    adata.obs["half"] = np.where(np.arange(300) < 150, "a", "b")
    assert np.abs(embedding(adata, "half", **fast) - expected.obsm["X_vae"]).max() > 1e-3
    assert np.abs(sc_vaenb.tl.vae(adata, copy=True, **fast).obsm["X_vae"] - expected.obsm["X_vae"]).max() > 1e-3


def test_an_encoder_that_knows_the_batch_uses_it(adata, fast):
    result = embedding(adata, align=False, **fast).copy()
    swapped = adata.copy()
    swapped.obs["batch"] = swapped.obs["batch"].cat.rename_categories({"batch_0": "batch_1", "batch_1": "batch_0"})
    sc_vaenb.tl.embed(swapped, device="cpu")
    assert np.abs(swapped.obsm["X_vae"] - result).max() > 0.01
    embedding(adata, encode_batch=False, align=False, **fast)
    swapped.uns["vae"] = adata.uns["vae"]
    sc_vaenb.tl.embed(swapped, device="cpu")
    np.testing.assert_allclose(swapped.obsm["X_vae"], adata.obsm["X_vae"], rtol=0, atol=1e-6)


def test_many_small_batches(adata, fast):
    adata.obs["sample"] = [f"s{i % 40:02d}" for i in range(300)]
    result = embedding(adata, "sample", encode_batch=True, dispersion="gene-batch", **fast)
    weights = adata.uns["vae"]["model"]["weights"]
    assert weights["batch_embedding.embedding.weight"].shape == (40, _inputs.BATCH_EMBEDDING_WIDTH)
    assert weights["likelihood.log_theta"].shape == (40, 100)
    again = sc_vaenb.tl.embed(adata, copy=True, device="cpu").obsm["X_vae"]
    np.testing.assert_allclose(again, result, rtol=0, atol=1e-6)


# choices


@pytest.mark.slow
@pytest.mark.parametrize(
    "choice",
    [
        {"condition": "onehot"},
        {"condition": "onehot", "encode_batch": True},
        {"encode_batch": False},
        {"align": False},
        {"prior": "conditional"},
        {"prior": "mog"},
        {"prior": "vamp", "n_components": 5},
        {"dispersion": "gene-batch"},
        *({"dispersion": "gene-batch", "likelihood": name} for name in ("zinb", "gaussian")),
        {"likelihood": "poisson"},
        {"link": "exp", "size_factor_as": "covariate"},
        {"hidden": (), "encode_batch": True},
        {"norm": "batch"},
    ],
    ids=str,
)
def test_every_choice_learns_matters_and_is_stored(adata, fast, expected, choice):
    result = embedding(adata, **(fast | {"n_steps": 40, "learning_rate": 0.01} | choice))
    loss = adata.uns["vae"]["history"]["validation_loss"]
    assert loss[-1] < loss[0] - 0.1  # nats per cell
    assert np.isfinite(result).all()
    assert np.abs(result - expected.obsm["X_vae"]).max() > 1e-3
    again = sc_vaenb.tl.embed(adata, copy=True, device="cpu").obsm["X_vae"]
    np.testing.assert_allclose(again, result, rtol=0, atol=1e-6)
    for name, value in choice.items():
        np.testing.assert_array_equal(adata.uns["vae"]["params"][name], value)


@pytest.mark.slow
@pytest.mark.parametrize(
    "choice",
    [
        {"condition": "onehot"},
        {"prior": "conditional"},
        {"dispersion": "gene-batch"},
        {"encode_batch": False},
        {"align": False},
    ],
)
def test_every_choice_of_its_own_changes_the_result(adata, fast, expected, choice):
    assert np.abs(embedding(adata, **fast, **choice) - expected.obsm["X_vae"]).max() > 1e-5


# writing


def test_what_is_written(adata, fast, expected, unchanged, log):
    with unchanged(adata):
        result = sc_vaenb.tl.cvae(adata, "batch", copy=True, **fast)
    assert set(result.uns) == {"truth", "vae"}
    assert list(result.obsm) == ["X_vae"]
    params = result.uns["vae"]["params"]
    assert (params["method"], params["batch_key"], params["encode_batch"]) == ("cvae", "batch", True)
    assert result.uns["vae"]["model"]["batches"].tolist() == ["batch_0", "batch_1"]
    np.testing.assert_array_equal(result.obsm["X_vae"], expected.obsm["X_vae"])  # same seed, same bits
    assert "fitting cvae to 300 cells x 100 genes of 2 batches on cpu (20 steps)" in log.getvalue()


def test_it_takes_the_place_of_vae_with_a_word(adata, fast, log):
    sc_vaenb.tl.vae(adata, **fast)
    sc_vaenb.tl.cvae(adata, "batch", key_added="cvae", **fast)
    assert "replacing" not in log.getvalue()
    sc_vaenb.tl.cvae(adata, "batch", **fast)
    assert "WARNING: replacing uns['vae'] and obsm['X_vae']; pass key_added" in log.getvalue()
    np.testing.assert_array_equal(adata.obsm["X_vae"], adata.obsm["X_cvae"])
    assert adata.uns["vae"]["params"]["method"] == "cvae"


# refusals


@pytest.mark.parametrize(
    ("column", "text"),
    [
        (
            ["a"] * 300,
            r"obs\['sample'\] holds only one batch \('a'\): there is nothing to integrate\. Use sc_vaenb\.tl\.vae",
        ),
        (pd.Categorical(["a"] * 300, ["a", "b"]), r"obs\['sample'\] holds only one batch \('a'\)"),
        (
            ["b", *["a"] * 299],
            r"obs\['sample'\]: batch 'b' has one cell, from which no batch effect can be learned\. Rem",
        ),
        (
            [None, *["a", "b"] * 149, "a"],
            r"obs\['sample'\] is missing for 1 cells \(first: 'cell_0'\)\. Label or remove",
        ),
    ],
)
def test_batches_that_cannot_be_are_refused(adata, refused, column, text):
    adata.obs["sample"] = column
    with refused(adata, ValueError, text):
        sc_vaenb.tl.cvae(adata, "sample")


@pytest.mark.parametrize("key", ["sample", "Batch"])
def test_an_unknown_batch_key_lists_the_columns(adata, refused, key):
    with refused(
        adata, KeyError, r"batch_key=.* is not in adata\.obs\. Its columns are \['cell_type', 'batch', 'depth_f"
    ):
        sc_vaenb.tl.cvae(adata, key)


def test_a_bad_batch_is_refused_before_the_counts_are_read(adata, monkeypatch):
    monkeypatch.setattr(_fit._adata, "read_counts", lambda *args, **kwargs: pytest.fail("read the counts"))
    with pytest.raises(KeyError, match="batch_key='sample'"):
        sc_vaenb.tl.cvae(adata, "sample")


@pytest.mark.parametrize(
    ("name", "valid"), [("condition", ["embedding", "onehot"]), ("prior", ["normal", "conditional", "mog", "vamp"])]
)
@pytest.mark.parametrize("value", ["one-hot", None, 0])
def test_unknown_choices_list_the_valid_ones(adata, refused, name, valid, value):
    with refused(adata, ValueError, rf"^{name}={value!r} is not known\. Choose one of {valid}\.".replace("[", r"\[")):
        sc_vaenb.tl.cvae(adata, "batch", **{name: value})


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            {"size_factor_as": "covariate"},
            "size_factor_as='covariate' needs rates that can change with the depth, but link='sof",
        ),
        ({"n_latent": 0}, "n_latent=0 is not possible. Give a whole number at least 1"),
        ({"key_added": "a/b"}, "key_added='a/b' is not possible. Give a name without '/'"),
        ({"likelihood": "binomial"}, "likelihood='binomial' is not known. Choose one of"),
    ],
    ids=str,
)
def test_what_vae_refuses_is_refused_here_too(adata, refused, options, text):
    with refused(adata, ValueError, text):
        sc_vaenb.tl.cvae(adata, "batch", **options)


@pytest.mark.slow
def test_fits_that_break_down_leave_everything_as_it_was(adata, fast, refused, monkeypatch):
    with refused(adata, FloatingPointError, r"the loss is .*\. Lower learning_rate \(1e\+09\)"):
        sc_vaenb.tl.cvae(adata, "batch", learning_rate=1e9, **fast)

    def fit(*args, **kwargs):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(_fit, "fit", fit)
    with refused(adata, MemoryError, r"cpu ran out of memory\. Lower batch_size or hidden"):
        sc_vaenb.tl.cvae(adata, "batch", **fast)


def test_the_way_of_a_minibatch_is_short(adata, fast, monkeypatch):
    """From the public function to the log-likelihood: at most five files and six frames of the package."""
    ways, kernel, package = [], step_cpu.value_and_gradients, Path(sc_vaenb.__file__).parent

    def traced(*args):
        frames = [frame for frame in traceback.extract_stack() if package in Path(frame.filename).parents]
        ways.append(frames[1:])  # the first is that of the check of arguments, which is over
        return kernel(*args)

    monkeypatch.setattr(step_cpu, "value_and_gradients", traced)
    sc_vaenb.tl.cvae(adata, "batch", **fast)
    assert [frame.name for frame in ways[0]] == ["cvae", "fit_and_write", "fit", "__call__", "gradients"]
    assert len({frame.filename for frame in ways[0]}) + 1 <= 5
    assert len(ways[0]) + 1 <= 6


def sorted_populations():
    """Three batches of one type each."""
    adata = sc_vaenb.datasets.simulate(240, 200, n_types=3, n_batches=3, composition=np.eye(3), rng=4)
    adata.layers["counts"] = adata.X.copy()
    return adata


def test_sorted_populations_are_not_mixed_and_a_warning_says_so(log):
    adata = sorted_populations()
    sc_vaenb.tl.cvae(adata, "batch", n_steps=40)
    assert adata.uns["vae"]["overlap"]["group"].tolist() == [0, 1, 2]
    assert "No two of the 3 batches (batch_0 | batch_1 | batch_2) have a kind of cell in common" in log.getvalue()
    assert "fit again with overlap='all', and compare both" in log.getvalue()
    types = adata.obs["cell_type"].to_numpy(str)
    closest = sc_vaenb.metrics.knn(adata.obsm["X_vae"], 11).indices[:, 1:]
    assert (types[closest] == types[:, None]).mean() > 0.95


def test_all_batches_in_one_group_is_done_with_a_warning(log):
    adata = sorted_populations()
    sc_vaenb.tl.cvae(adata, "batch", overlap="all", n_steps=2)
    assert adata.uns["vae"]["overlap"]["group"].tolist() == [0, 0, 0]
    assert (
        "overlap='all': all differences between batches are taken out, though the counts show 3 groups"
        in log.getvalue()
    )


def test_batches_too_small_to_compare_are_corrected_with_a_warning(log, adata):
    adata.obs["capture"] = [f"c{i // 10}" for i in range(adata.n_obs)]
    sc_vaenb.tl.cvae(adata, "capture", n_steps=2)
    assert "None of the" in log.getvalue()
    assert "also if it is biological, such as time points" in log.getvalue()
    assert len(adata.uns["vae"]["overlap"]["compared"]) == 0


def test_kinds_that_the_fit_loses_are_named(adata, fast, log, monkeypatch):
    """As if the embedding had put all cells into one place."""
    monkeypatch.setattr(
        sc_vaenb.tl._fit, "aligned", lambda model, z, *rest: np.random.default_rng(0).normal(size=z.shape).astype("f4")
    )
    sc_vaenb.tl.cvae(adata, "batch", **fast)
    message = adata.uns["vae"]["verdict"]["message"]
    assert "Kinds of cells were lost: in batch 'batch_" in message
    assert message in log.getvalue()
