"""`tl.cvae(time_key=...)`: captures of one time point are mixed, and what differs between time points stays."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import sc_vaenb
from sc_vaenb import cli
from sc_vaenb._record import FittedModel
from sc_vaenb.fit import checkpoint
from sc_vaenb.metrics import cross_batch_accuracy, same_batch_share
from sc_vaenb.tl import _counts, _fit
from sc_vaenb.tl._fingerprints import fingerprint

TIME = {"batch_0": 0, "batch_1": 0, "batch_2": 1, "batch_3": 1, "batch_4": 2}  # the last one is alone


@pytest.fixture(scope="module")
def _course():
    """Five captures at three times; 40 of 200 genes change twofold from time to time, in all three types."""
    adata = sc_vaenb.datasets.simulate(
        750, 200, n_types=3, n_batches=5, batch_strength=0.4, mean_depth=1500, marker_fold=3.0, rng=4
    )
    rng = np.random.default_rng(4)
    adata.obs["time"] = adata.obs["batch"].map(TIME).astype(int)
    genes, direction = rng.permutation(200)[:40], rng.choice([0.5, 2], 40)
    counts = adata.X.toarray().astype(np.float64)
    counts[:, genes] = rng.poisson(counts[:, genes] * direction ** adata.obs["time"].to_numpy()[:, None])
    adata.X = adata.layers["counts"] = counts.astype(np.float32)
    return adata


@pytest.fixture
def course(_course):
    return _course.copy()


@pytest.fixture(scope="module")
def _fitted_course(_course):
    return sc_vaenb.tl.cvae(_course, "batch", time_key="time", mask_var=None, device="cpu", copy=True)


@pytest.fixture
def fitted_course(_fitted_course):
    return _fitted_course.copy()


def tells_the_time(adata):
    """The share of nearest cells of other captures that are of the own time; only where there are others."""
    x, batch, time = adata.obsm["X_vae"], adata.obs["batch"].cat.codes.to_numpy(), adata.obs["time"].to_numpy()
    distance = np.linalg.norm(x[:, None] - x[None], axis=2)
    distance[batch[:, None] == batch] = np.inf
    nearest = np.argsort(distance, 1)[:, :15]
    return float((time[nearest] == time[:, None])[time < 2].mean())


def test_batches_of_a_time_point_without_a_kind_in_common_get_a_warning(course, log):
    sc_vaenb.tl.cvae(course, "batch", time_key="time", mask_var=None, device="cpu", n_steps=5)
    assert "are of one time point" not in log.getvalue()
    kind, batch = course.obs["cell_type"].cat.codes, course.obs["batch"]
    apart = course[~(((batch == "batch_0") & (kind == 0)) | ((batch == "batch_1") & (kind > 0)))].copy()
    sc_vaenb.tl.cvae(apart, "batch", time_key="time", mask_var=None, device="cpu", n_steps=5)
    assert "The batches batch_0, batch_1 are of one time point, but" in log.getvalue()


@pytest.mark.slow
def test_time_is_kept_and_captures_are_mixed(fitted_course, course):
    sc_vaenb.tl.cvae(course, "batch", mask_var=None, device="cpu", overlap="all")
    assert tells_the_time(course) < 0.4  # a quarter of the cells of other captures are of the own time
    assert tells_the_time(fitted_course) > 0.9
    x, batch, time = (fitted_course.obsm["X_vae"], fitted_course.obs["batch"].astype(str), fitted_course.obs["time"])
    strata = fitted_course.obs["cell_type"].astype(str) + time.astype(str)
    assert same_batch_share(x, batch, strata, k=15).excess < 0.15
    assert cross_batch_accuracy(x, fitted_course.obs["cell_type"].astype(str), batch) > 0.97


@pytest.mark.slow
def test_offsets_are_the_differences_from_the_time_point(fitted_course):
    offset = FittedModel.from_uns(fitted_course, "vae").model.batch_offset.numpy()
    truth = fitted_course.uns["truth"]["batch_log_effect"]
    for one, other in ((0, 1), (2, 3)):
        found, expected = offset[one] - offset[other], truth[one] - truth[other]
        assert np.corrcoef(found, expected)[0, 1] > 0.9
        # the two are compared with their mean, so an effect that both have is in neither
        assert np.abs(offset[one] + offset[other]).mean() < 0.3 * np.abs(found).mean()
    assert np.abs(offset[4]).max() < 0.02  # alone at its time


@pytest.mark.slow
def test_batches_of_a_time_are_a_group(fitted_course):
    record = fitted_course.uns["vae"]
    assert record["overlap"]["group"].tolist() == [0, 0, 1, 1, 2]
    assert record["params"]["time_key"] == "time"
    config = FittedModel.from_uns(fitted_course, "vae").model.config
    assert config.batch_group == (0, 0, 1, 1, 2)
    assert config.batch_offsets
    assert config.alignment_clusters


@pytest.mark.slow
def test_the_model_is_used_as_any_other(fitted_course, tmp_path, refused):
    fitted_course.write_h5ad(tmp_path / "a.h5ad")
    adata = ad.read_h5ad(tmp_path / "a.h5ad")
    sc_vaenb.tl.embed(adata, key_added="again")
    np.testing.assert_array_equal(adata.obsm["X_again"], fitted_course.obsm["X_vae"])
    sc_vaenb.tl.export_model(adata, tmp_path / "a.safetensors")
    sc_vaenb.tl.import_model(adata, tmp_path / "a.safetensors", key_added="imported")
    sc_vaenb.tl.embed(adata, "imported")
    np.testing.assert_array_equal(adata.obsm["X_imported"], adata.obsm["X_vae"])
    sc_vaenb.tl.corrected(adata)
    assert np.isfinite(adata.layers["corrected"]).all()
    query = fitted_course[::3, :150].copy()
    sc_vaenb.tl.map_query(query, fitted_course, label_key="cell_type", n_steps=1)
    assert (query.obs["cell_type_predicted"].astype(str) == query.obs["cell_type"].astype(str)).mean() > 0.95
    query = fitted_course[::3].copy()
    query.obs["batch"] = "new"
    with refused(query, ValueError, r"was fitted with time_key=: it has no offsets .* \(new\)\. Fit it without"):
        sc_vaenb.tl.map_query(query, fitted_course)


@pytest.mark.slow
def test_names_of_times_are_as_good_as_numbers(course, fast):
    options = fast | {"mask_var": None}
    course.obs["stage"] = pd.Categorical.from_codes(course.obs["time"], ["late", "later", "early"])
    sc_vaenb.tl.cvae(course, "batch", time_key="time", **options)
    sc_vaenb.tl.cvae(course, "batch", time_key="stage", key_added="stage", **options)
    np.testing.assert_array_equal(course.obsm["X_vae"], course.obsm["X_stage"])


@pytest.mark.slow
def test_batches_that_have_several_times_link_these(course, fast):
    course.obs["time"] = np.where(course.obs_names.isin(course.obs_names[::2]), course.obs["time"], 0)
    sc_vaenb.tl.cvae(course, "batch", time_key="time", **fast | {"mask_var": None})
    assert course.uns["vae"]["overlap"]["group"].tolist() == [0] * 5


@pytest.mark.slow
def test_a_fit_that_broke_off_goes_on_and_only_with_the_same_times(course, fast, tmp_path, monkeypatch, refused):
    options = fast | {"mask_var": None, "time_key": "time", "checkpoint": tmp_path / "kept"}
    monkeypatch.setattr(checkpoint, "MAX_SHARE_OF_TIME", float("inf"))
    whole = sc_vaenb.tl.cvae(course, "batch", copy=True, **options | {"checkpoint": None})
    calls, find, offer = [], _fit.find_offsets, checkpoint.Checkpoint.offer
    monkeypatch.setattr(_fit, "find_offsets", lambda *args: calls.append(1) or find(*args))

    def broken_off(self, state, last):
        offer(self, state, last)
        raise ZeroDivisionError("killed")

    with monkeypatch.context() as patched:
        patched.setattr(checkpoint.Checkpoint, "offer", broken_off)
        with refused(course, ZeroDivisionError, "killed"):
            sc_vaenb.tl.cvae(course, "batch", **options)
    other = course.copy()
    other.obs["time"] = other.obs["time"].replace({2: 1})
    with refused(other, ValueError, "holds the state of another fit. What differs: .*time_key"):
        sc_vaenb.tl.cvae(other, "batch", **options)
    sc_vaenb.tl.cvae(course, "batch", **options)
    assert len(calls) == 1
    np.testing.assert_array_equal(course.obsm["X_vae"], whole.obsm["X_vae"])


@pytest.mark.slow
def test_counts_on_disk_give_the_same(course, fast, tmp_path):
    course.write_h5ad(tmp_path / "a.h5ad")
    backed = ad.read_h5ad(tmp_path / "a.h5ad", backed="r")
    for adata in (course, backed):
        sc_vaenb.tl.cvae(adata, "batch", time_key="time", layer=None, **fast | {"mask_var": None})
    np.testing.assert_array_equal(backed.obsm["X_vae"], course.obsm["X_vae"])
    backed.file.close()


@pytest.mark.slow
def test_no_warning_about_groups(course, fast, log):
    sc_vaenb.tl.cvae(course, "batch", time_key="time", **fast | {"mask_var": None})
    assert "kind of cell in common" not in log.getvalue()


@pytest.mark.slow
def test_it_can_be_a_variant_of_a_comparison(course, monkeypatch):
    monkeypatch.setattr(_counts, "default_steps", lambda *_: 20)
    course.obs["time"] = course.obs["time"].astype(str)
    sc_vaenb.tl.compare(
        course, "batch", label_key="cell_type", device="cpu", variants={"timed": {"time_key": "time", "mask_var": None}}
    )
    assert course.uns["timed"]["params"]["time_key"] == "time"
    assert not course.uns["cvae"]["overlap"]["group"].any()
    assert course.uns["timed"]["overlap"]["group"].tolist() == [0, 0, 1, 1, 2]


@pytest.mark.slow
def test_from_the_command_line(course, tmp_path, monkeypatch):
    monkeypatch.setattr(_counts, "default_steps", lambda *_: 20)
    course.write_h5ad(tmp_path / "a.h5ad")
    typed = ["cvae", str(tmp_path / "a.h5ad"), "--batch-key", "batch", "--time-key", "time", "--quiet"]
    assert cli.main([*typed, "--out", str(tmp_path / "out")]) == 0
    (path,) = (tmp_path / "out").glob("CVAE_NB_*/CVAE_NB.h5ad")
    assert ad.read_h5ad(path).uns["cvae"]["overlap"]["group"].tolist() == [0, 0, 1, 1, 2]


def test_a_comparison_sees_other_times(course):
    found = fingerprint(course, "x", 0, {"time_key": "time"}, 0)
    course.obs.iloc[0, course.obs.columns.get_loc("time")] = 2
    assert fingerprint(course, "x", 0, {"time_key": "time"}, 0) != found


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"time_key": "missing"}, KeyError, r"time_key='missing' is not in adata\.obs"),
        ({"time_key": "batch"}, ValueError, r"each of the 5 time points is in one batch, so batch effects cannot be"),
        ({"time_key": "once"}, ValueError, r"obs\['once'\] holds only one time point \('3'\)\. Leave time_key out"),
        ({"time_key": "gap"}, ValueError, r"obs\['gap'\] is missing for 1 cells"),
        ({"controls": "gap"}, ValueError, "controls= and time_key= cannot be combined"),
        ({"overlap": "all"}, ValueError, "overlap='all' and time_key= cannot be combined"),
        ({"covariate_keys": ["time"]}, ValueError, "time_key='time' is among covariate_keys"),
        ({"mmd": 1.0}, ValueError, r"mmd=1\.0 cannot be combined with time_key=, .* differences of the time points"),
        ({"link": "softplus"}, ValueError, "time_key= shifts the log of the expected counts"),
    ],
)
def test_what_cannot_be_is_refused_before_the_fit(course, fast, refused, options, error, text):
    course.obs["once"] = 3
    course.obs["gap"] = course.obs["time"].astype(object)
    course.obs.iloc[0, course.obs.columns.get_loc("gap")] = None
    with refused(course, error, text):
        sc_vaenb.tl.cvae(course, "batch", **{"time_key": "time"} | fast | {"mask_var": None} | options)
