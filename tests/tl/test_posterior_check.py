"""`tl.posterior_check`: what it compares, on which cells, and what it concludes."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch

import sc_vaenb
from sc_vaenb.fit.split import MAX_CELLS_HELD_OUT, split
from sc_vaenb.inference.marginal import Fitness
from sc_vaenb.tl._check_tables import batch_table, likelihood_table
from sc_vaenb.tl._check_verdict import verdict_in_words

ALL = ("nb", "zinb", "poisson")


def checked(adata, key="vae", **options):
    sc_vaenb.tl.posterior_check(adata, key, device="cpu", **{"n_samples": 10, **options})
    return adata.uns[options.get("key_added", "posterior_check")]


@pytest.fixture
def held_out(fitted):
    codes = fitted.obs["batch"].cat.codes.to_numpy(np.int64)
    return split(codes, 0.1, MAX_CELLS_HELD_OUT, np.random.default_rng(0))[1]


def test_the_tables_describe_the_cells_that_the_fit_held_out(fitted, held_out, unchanged):
    with unchanged(fitted):
        result = sc_vaenb.tl.posterior_check(fitted, n_samples=10, device="cpu", copy=True)
    assert set(result.uns) == {"truth", "vae", "posterior_check"}
    record = result.uns["posterior_check"]
    x = fitted.layers["counts"][held_out].toarray()
    assert record["cells"].index.tolist() == fitted.obs_names[held_out].tolist()
    assert record["genes"].index.tolist() == fitted.var_names.tolist()
    np.testing.assert_allclose(record["genes"]["mean"], x.mean(0), rtol=1e-5)
    np.testing.assert_allclose(record["genes"]["variance"], x.var(0, ddof=1), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(record["genes"]["zeros"], (x == 0).mean(0))
    np.testing.assert_allclose(record["cells"]["depth"], x.sum(1))
    np.testing.assert_allclose(record["cells"]["detected"], (x > 0).sum(1))
    size = np.asarray(fitted.layers["counts"].sum(1)).ravel()
    values = pd.DataFrame(np.log1p(x / (size / size.mean())[held_out, None]), columns=fitted.var_names)
    pair = record["correlations"].iloc[7]
    assert pair["correlation"] == pytest.approx(values[pair["gene"]].corr(values[pair["other"]]), abs=1e-4)
    # a replicate has the cell's depth and batch
    assert np.corrcoef(record["cells"]["depth"], record["cells"]["depth_replicates"])[0, 1] > 0.9
    assert record["params"]["cells"] == "held_out"
    assert record["params"]["zeros"] == pytest.approx((x == 0).mean())
    n = record["coverage"]["n"].to_dict()
    assert {name: n[name] for name in ("mean", "depth", "correlation", "count")} == {
        "mean": 100, "depth": 30, "correlation": 1225, "count": 3000,
    }  # fmt: skip
    inside = (record["genes"]["zeros_pit"] - 0.5).abs() < 0.4
    assert record["coverage"].loc["zeros", "80%"] == pytest.approx(inside.mean())
    np.testing.assert_allclose(record["pit"].sum(), 1)


def test_the_same_seed_gives_the_same_and_leaves_the_random_state(fitted):
    state = torch.random.get_rng_state()
    first = checked(fitted, rng=1)["genes"]
    pd.testing.assert_frame_equal(checked(fitted, rng=1, key_added="b")["genes"], first)
    assert not checked(fitted, rng=2, key_added="c")["genes"].equals(first)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_without_the_cells_held_out_all_are_checked_and_a_warning_says_so(fitted, fast, log):
    shuffled = fitted[np.random.default_rng(0).permutation(300)].copy()
    record = checked(shuffled)
    assert record["params"]["cells"] == "given"
    assert record["cells"].index.tolist() == shuffled.obs_names.tolist()
    assert "The cells that the fit held out are not known" in log.getvalue()
    assert "Checked on 300 cells given (fitted cells make the model look better)" in record["verdict"]
    sc_vaenb.tl.vae(fitted, validation_fraction=0.0, key_added="none", **fast)
    assert checked(fitted, "none")["params"]["cells"] == "given"
    del fitted.uns["vae"]["history"]
    assert checked(fitted)["params"]["cells"] == "given"


@pytest.mark.slow
def test_a_file_read_again_gives_the_same_check(fitted, tmp_path):
    expected = checked(fitted, likelihoods=("nb", "zinb"), n_seeds=1)
    fitted.write_h5ad(tmp_path / "a.h5ad")
    read = ad.read_h5ad(tmp_path / "a.h5ad")
    kept = read.uns["posterior_check"]
    assert kept["verdict"] == expected["verdict"]
    again = checked(read, likelihoods=("nb", "zinb"), n_seeds=1)
    for name in ("genes", "cells", "correlations", "coverage", "pit", "likelihoods", "by_batch"):
        for found in (kept[name], again[name]):
            pd.testing.assert_frame_equal(found, expected[name], check_dtype=False, check_index_type=False)


@pytest.mark.slow
def test_every_kind_of_model_can_be_checked(adata, fast):
    sc_vaenb.tl.vae(adata, likelihood="gaussian", **fast)
    assert np.isfinite(checked(adata)["coverage"].loc["mean", "90%"])
    sc_vaenb.tl.cvae(adata, "batch", likelihood="zinb", dispersion="gene-batch", prior="conditional", **fast)
    record = checked(adata, likelihoods=("nb", "poisson"), n_seeds=1)
    assert record["likelihoods"].index.tolist() == ["nb", "poisson"]
    assert np.isfinite(record["likelihoods"].to_numpy(float)).all()
    assert record["by_batch"]["batch"].tolist() == ["batch_0", "batch_0", "batch_1", "batch_1"]


@pytest.mark.slow
def test_a_model_of_its_own_data_is_calibrated_and_one_of_too_little_variance_is_not():
    adata = sc_vaenb.datasets.simulate(600, 60, n_types=2, n_batches=1, mean_depth=300, rng=0)
    options = {"layer": None, "n_latent": 3, "hidden": (32,), "n_steps": 150, "device": "cpu"}
    found = {}
    for likelihood in ("nb", "poisson"):
        sc_vaenb.tl.vae(adata, likelihood=likelihood, key_added=likelihood, **options)
        found[likelihood] = checked(adata, likelihood, n_samples=20)
    nb, poisson = (found[name]["coverage"] for name in ("nb", "poisson"))
    assert nb.loc["count", "90%"] == pytest.approx(0.9, abs=0.02)
    assert nb.loc["count_expressed", "90%"] == pytest.approx(0.9, abs=0.04)
    assert nb.loc["count_expressed", "50%"] == pytest.approx(0.5, abs=0.08)
    assert poisson.loc["count_expressed", "90%"] < 0.8
    assert "as they should" in found["nb"]["verdict"]
    assert "the data vary more than the model predicts" in found["poisson"]["verdict"]


def fits(*means, n=400):
    """Judgements of one likelihood: a fit for each mean, on cells that differ by a noise all share."""
    noise = np.random.default_rng(0).normal(size=n)
    return [Fitness(mean + noise, mean - 1 + noise, np.full(n, 0.5), 10) for mean in means]


def test_differences_are_paired_and_know_of_cells_and_fits():
    table = likelihood_table({"nb": fits(-100, -102), "zinb": fits(-99, -97), "poisson": fits(-150, -150)})
    assert table["log_likelihood"].to_dict() == pytest.approx({"nb": -101, "zinb": -98, "poisson": -150}, abs=0.2)
    assert table["difference"].to_dict() == pytest.approx({"nb": 0, "zinb": 3, "poisson": -49})
    # cells cancel in the pairs; of the fits, the differences 1 and 5 have the mean 3 with the error 2
    assert table["difference_se"].to_dict() == pytest.approx({"nb": 0, "zinb": 2, "poisson": 1})
    noise = fits(0)[0].bound
    assert likelihood_table({"nb": fits(-1)}).loc["nb", "se"] == pytest.approx(noise.std(ddof=1) / 20)
    assert table["better_for"].to_dict() == {"nb": 0, "zinb": 1, "poisson": 0}


def test_batches_are_judged_on_their_own():
    judged = {"nb": fits(-100), "zinb": fits(-100)}
    first = np.arange(400) < 100
    judged["zinb"][0].bound[first] += 8
    table = batch_table(judged, np.where(first, "a", "b")).set_index(["batch", "likelihood"])
    assert table.loc[("a", "zinb"), "difference"] == pytest.approx(8)
    assert table.loc[("b", "zinb"), "difference"] == pytest.approx(0)
    alone = batch_table(judged, np.arange(400).astype(str))  # of one cell there is no standard error
    assert len(alone) == 0
    assert {"batch", "likelihood", "difference"} <= set(alone)


@pytest.mark.parametrize(
    ("name", "difference", "text"),
    [
        ("zinb", 0.5, r"ZINB is not better than NB .*difference 0\.50 ± 0\.30 .*: zero inflation is not needed"),
        ("zinb", 0.49, r"ZINB is better than NB on held-out cells by so little .*: zero inflation is not needed"),
        ("zinb", 0.9, r"ZINB is better than NB .*: zero inflation helps: fit with likelihood='zinb'"),
        ("zinb", -0.9, r"ZINB is worse than NB .*: zero inflation is not needed"),
        ("poisson", 0.1, r"Poisson is not better than NB .*: over-dispersion is not needed"),
        ("poisson", -0.9, r"Poisson is worse than NB .*: counts vary more than Poisson"),
    ],
)
def test_the_verdict_follows_the_difference_and_its_error(fitted, name, difference, text):
    record, error = checked(fitted), 0.3 if difference != 0.49 else 0.1
    row = {"log_likelihood": -100.0, "difference": difference, "difference_se": error, "better_for": 0.5, "steps": 400}
    table = pd.DataFrame({"nb": row | {"difference": 0.0, "steps": 100}, name: row}).T
    told = record["params"] | {"n_seeds": 1, "n_steps": 400}
    words = verdict_in_words(record | {"likelihoods": table}, told)
    assert pd.Series(words.split("\n")).str.contains(text).any(), words
    assert "use n_seeds=3" in words
    assert "Of 400 steps, the refits stopped early (NB after 100): these differences" in words
    assert "n_seeds" not in verdict_in_words(record | {"likelihoods": table.assign(steps=400)}, told | {"n_seeds": 2})


# refusals


def test_models_that_are_not_there_or_not_whole_are_refused(fitted, refused):
    with refused(fitted, KeyError, r"uns\['cvae'\] holds no model fitted by sc_vaenb; uns has \['vae'\]"):
        checked(fitted, "cvae")
    part = fitted[:, 2:].copy()
    with refused(part, ValueError, r"2 of the 100 genes of the model in uns\['vae'\] are not in var_names"):
        checked(part)
    del fitted.uns["vae"]["params"]["beta"]
    assert checked(fitted)["params"]["cells"] == "held_out"  # without refits it does not matter
    with refused(fitted, ValueError, r"uns\['vae'\]\['params'\] does not say how .* \(beta is missing\), so that like"):
        checked(fitted, likelihoods=ALL)
    del fitted.uns["vae"]["model"]["weights"]["encoder.first.bias"]
    with refused(fitted, ValueError, r"the model in uns\['vae'\] is damaged"):
        checked(fitted)


@pytest.mark.parametrize("given", ["nb", ("nb",), ("zinb", "poisson"), ("nb", "gaussian"), ()])
def test_likelihoods_that_cannot_be_compared_are_refused(fitted, refused, given):
    with refused(fitted, ValueError, r"likelihoods=.* is not possible\. Give 'nb', with which the others are compared"):
        checked(fitted, likelihoods=given)


def test_a_model_whose_rates_cannot_follow_the_depth_is_not_refitted(adata, fast, refused):
    sc_vaenb.tl.vae(adata, likelihood="gaussian", size_factor_as="covariate", **fast)
    with refused(adata, ValueError, r"size_factor_as='covariate' and link='softmax', with which likelihoods of counts"):
        checked(adata, likelihoods=ALL)


@pytest.mark.parametrize(
    ("argument", "text"),
    [
        ({"n_samples": 5}, r"n_samples=5 is not possible\. Give a whole number at least 10"),
        ({"n_seeds": 0}, r"n_seeds=0 is not possible\. Give a whole number at least 1"),
        ({"rng": -1}, r"rng=-1 is not possible"),
        ({"key_added": "a/b"}, r"key_added='a/b' is not possible"),
        ({"key_added": "vae"}, r"key_added='vae' names a model in uns, which would be lost"),
    ],
)
def test_arguments_that_cannot_be_are_refused(fitted, refused, argument, text):
    with refused(fitted, ValueError, text):
        checked(fitted, **argument)


def test_a_refit_that_breaks_down_is_named_and_changes_nothing(fitted, refused, monkeypatch):
    def broken(*args):
        raise FloatingPointError("the loss is nan after 3 steps")

    monkeypatch.setattr("sc_vaenb.tl._posterior_check.refit", broken)
    with refused(fitted, FloatingPointError, r"The refit with nb broke down: the loss is nan after 3 steps\. Leave it"):
        checked(fitted, likelihoods=ALL)


def test_too_few_cells_are_refused(fitted, refused):
    with refused(few := fitted[:9].copy(), ValueError, "adata has 9 cells: a check needs 10 at least"):
        checked(few)
    with refused(few := fitted[:99].copy(), ValueError, "99 cells: a check of likelihoods needs 100 at least"):
        checked(few, likelihoods=ALL)
