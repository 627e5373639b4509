"""`tl.cvae(controls=...)`: donors are mixed, and what a disease does to some kinds of cells stays."""

from dataclasses import replace

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch

import sc_vaenb
from sc_vaenb._record import FittedModel
from sc_vaenb.fit import checkpoint
from sc_vaenb.inference import marginal, offsets
from sc_vaenb.metrics import cross_batch_accuracy, knn
from sc_vaenb.tl import _fit
from sc_vaenb.tl._fingerprints import fingerprint

N_DONORS = 6


@pytest.fixture(scope="module")
def _donors():
    """Six donors, of whom three are cases: in one of three types, 30 of 200 genes are changed threefold."""
    adata = sc_vaenb.datasets.simulate(
        900, 200, n_types=3, n_batches=N_DONORS, batch_strength=0.3, mean_depth=1500, marker_fold=3.0, rng=3
    )
    rng = np.random.default_rng(3)
    case = adata.obs["batch"].cat.codes.to_numpy() >= N_DONORS // 2
    sick = case & (adata.obs["cell_type"] == "type_0").to_numpy()
    genes = rng.permutation(200)[:30]
    counts = np.asarray(adata.X.toarray() if hasattr(adata.X, "toarray") else adata.X, np.float64)
    counts[np.ix_(sick, genes)] = rng.poisson(3 * counts[np.ix_(sick, genes)])
    adata.X = adata.layers["counts"] = counts.astype(np.float32)
    adata.obs["control"] = ~case
    return adata


@pytest.fixture
def donors(_donors):
    return _donors.copy()


@pytest.fixture(scope="module")
def _fitted_with_controls(_donors):
    return sc_vaenb.tl.cvae(_donors, "batch", controls="control", mask_var=None, device="cpu", copy=True)


@pytest.fixture
def fitted_with_controls(_fitted_with_controls):
    return _fitted_with_controls.copy()


def tells_the_disease(adata):
    """Of the cells of the changed type, the share whose nearest cells of other donors tell the condition."""
    part = (adata.obs["cell_type"] == "type_0").to_numpy()
    x, donor, case = adata.obsm["X_vae"][part], adata.obs["batch"].cat.codes[part], ~adata.obs["control"][part]
    donor, case = donor.to_numpy(), case.to_numpy()
    distance = np.linalg.norm(x[:, None] - x[None], axis=2)
    distance[donor[:, None] == donor[None]] = np.inf
    return float(((case[np.argsort(distance, 1)[:, :15]].mean(1) > 0.5) == case).mean())


def own_donor(adata):
    donor = adata.obs["batch"].cat.codes.to_numpy()
    return float((donor[knn(adata.obsm["X_vae"], 16).indices[:, 1:]] == donor[:, None]).mean())


@pytest.mark.slow
def test_the_disease_stays_and_the_donors_are_mixed(fitted_with_controls, donors):
    sc_vaenb.tl.cvae(donors, "batch", mask_var=None, device="cpu")
    assert tells_the_disease(donors) < 0.6  # two of five cells of other donors have the own condition
    assert tells_the_disease(fitted_with_controls) > 0.75
    assert own_donor(fitted_with_controls) < 0.25  # 0.17, if all are mixed
    labels, batch = (fitted_with_controls.obs[key].astype(str) for key in ("cell_type", "batch"))
    assert cross_batch_accuracy(fitted_with_controls.obsm["X_vae"], labels, batch) > 0.97


@pytest.mark.slow
def test_a_series_is_taken_by_its_index_and_one_without_by_its_order(donors, fast):
    options = fast | {"mask_var": None}
    control = donors.obs["control"]
    sc_vaenb.tl.cvae(donors, "batch", controls=control, **options)
    sc_vaenb.tl.cvae(donors, "batch", controls=control.reset_index(drop=True), key_added="again", **options)
    np.testing.assert_array_equal(donors.obsm["X_vae"], donors.obsm["X_again"])
    np.testing.assert_array_equal(donors.uns["vae"]["params"]["controls"], control)
    with pytest.raises(ValueError, match=r"controls is a Series whose index is not obs_names\. Give controls\.reindex"):
        sc_vaenb.tl.cvae(donors, "batch", controls=control[::-1], **options)


@pytest.mark.slow
def test_a_column_and_an_array_are_the_same_and_both_can_be_written(donors, fast, tmp_path):
    options = fast | {"mask_var": None}
    sc_vaenb.tl.cvae(donors, "batch", controls="control", **options)
    sc_vaenb.tl.cvae(donors, "batch", controls=donors.obs["control"].to_numpy(), key_added="array", **options)
    np.testing.assert_array_equal(donors.obsm["X_vae"], donors.obsm["X_array"])
    assert donors.uns["vae"]["params"]["controls"] == "control"
    donors.write_h5ad(tmp_path / "a.h5ad")
    again = ad.read_h5ad(tmp_path / "a.h5ad")
    np.testing.assert_array_equal(again.uns["array"]["params"]["controls"], donors.obs["control"])
    for key in ("vae", "array"):
        sc_vaenb.tl.embed(again, key, key_added="again")
        np.testing.assert_array_equal(again.obsm["X_again"], donors.obsm["X_vae"])


@pytest.mark.slow
def test_counts_on_disk_give_the_same(donors, fast, tmp_path):
    donors.write_h5ad(tmp_path / "a.h5ad")
    backed = ad.read_h5ad(tmp_path / "a.h5ad", backed="r")
    for adata in (donors, backed):
        sc_vaenb.tl.cvae(adata, "batch", controls="control", layer=None, **fast | {"mask_var": None})
    np.testing.assert_array_equal(backed.obsm["X_vae"], donors.obsm["X_vae"])
    backed.file.close()


def test_the_model_is_used_as_any_other(fitted_with_controls, tmp_path):
    adata = fitted_with_controls
    sc_vaenb.tl.export_model(adata, tmp_path / "a.safetensors")
    sc_vaenb.tl.import_model(adata, tmp_path / "a.safetensors", key_added="imported")
    sc_vaenb.tl.embed(adata, "imported")
    np.testing.assert_array_equal(adata.obsm["X_imported"], adata.obsm["X_vae"])
    sc_vaenb.tl.corrected(adata)
    sc_vaenb.tl.importance(adata)
    assert np.isfinite(adata.layers["corrected"]).all()
    drawn = sc_vaenb.tl.sample(adata, 50, batch="batch_0")
    assert drawn.n_obs == 50


def test_known_batches_are_mapped_also_with_fewer_genes_and_new_ones_refused(fitted_with_controls, refused):
    query, reference = fitted_with_controls[::3, :150].copy(), fitted_with_controls
    sc_vaenb.tl.map_query(query, reference, label_key="cell_type", n_steps=1)
    assert (query.obs["cell_type_predicted"].astype(str) == query.obs["cell_type"].astype(str)).mean() > 0.95
    query = fitted_with_controls[::3].copy()
    query.obs["batch"] = "new"
    with refused(query, ValueError, r"was fitted with controls=: it has no offsets .* \(new\)\. Fit it without"):
        sc_vaenb.tl.map_query(query, reference)


@pytest.mark.slow
def test_a_fit_that_broke_off_goes_on(donors, fast, tmp_path, monkeypatch, refused):
    options = fast | {"mask_var": None, "controls": "control"}
    whole = sc_vaenb.tl.cvae(donors, "batch", copy=True, **options)
    monkeypatch.setattr("sc_vaenb.fit.checkpoint.MAX_SHARE_OF_TIME", float("inf"))
    sc_vaenb.tl.cvae(donors.copy(), "batch", checkpoint=tmp_path / "kept", **options)
    again = sc_vaenb.tl.cvae(donors, "batch", checkpoint=tmp_path / "kept", copy=True, **options)
    np.testing.assert_array_equal(again.obsm["X_vae"], whole.obsm["X_vae"])


TEXT = pd.Series(["case", "control"] * 450).to_numpy()


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"controls": "missing"}, KeyError, r"controls='missing' is not in adata\.obs"),
        ({"controls": "cell_type"}, ValueError, r"obs\['cell_type'\] has dtype category, not bool without gaps"),
        ({"controls": TEXT}, ValueError, r"controls"),
        (
            {"controls": pd.Series(True, index=[f"c{i}" for i in range(900)])},
            ValueError,
            "index is not obs_names. Give",
        ),
        ({"controls": np.ones(3, bool)}, ValueError, r"controls has dtype bool and shape \(3,\); give 900 booleans"),
        ({"controls": np.ones(900, bool)}, ValueError, "controls: all of the cells are of control samples"),
        ({"controls": np.zeros(900, bool)}, ValueError, "controls: none of the cells are of control samples"),
        ({"adversary": 1.0}, ValueError, r"adversary=1\.0 cannot be combined with controls="),
        ({"prior": "conditional"}, ValueError, "prior='conditional' cannot be combined with controls="),
        ({"likelihood": "gaussian"}, ValueError, "which likelihood='gaussian' and link='softplus' do not have"),
    ],
)
def test_what_cannot_be_is_refused_before_the_fit(donors, fast, refused, options, error, text):
    with refused(donors, error, text):
        sc_vaenb.tl.cvae(donors, "batch", **{"controls": "control"} | fast | {"mask_var": None} | options)


def test_controls_of_one_batch_are_refused(donors, fast, refused):
    donors.obs["control"] = (donors.obs["batch"] == "batch_2").to_numpy()
    with refused(donors, ValueError, r"obs\['control'\]: all control samples are in one batch \('batch_2'\)"):
        sc_vaenb.tl.cvae(donors, "batch", controls="control", **fast | {"mask_var": None})


def killed_in_the_second_fit(monkeypatch, error):
    """Break off after the first state is kept; returns how often offsets were looked for."""
    calls, find, offer = [], _fit.find_offsets, checkpoint.Checkpoint.offer
    monkeypatch.setattr(_fit, "find_offsets", lambda *args: calls.append(1) or find(*args))

    def broken_off(self, state, last):
        offer(self, state, last)
        raise error

    return calls, broken_off


@pytest.mark.slow
def test_a_fit_that_is_called_again_has_its_offsets(donors, fast, tmp_path, monkeypatch, refused):
    options = fast | {"mask_var": None, "controls": "control", "checkpoint": tmp_path / "kept"}
    monkeypatch.setattr(checkpoint, "MAX_SHARE_OF_TIME", float("inf"))
    whole = sc_vaenb.tl.cvae(donors, "batch", copy=True, **options | {"checkpoint": None})
    calls, broken_off = killed_in_the_second_fit(monkeypatch, ZeroDivisionError("killed"))
    with monkeypatch.context() as patched:
        patched.setattr(checkpoint.Checkpoint, "offer", broken_off)
        with refused(donors, ZeroDivisionError, "killed"):
            sc_vaenb.tl.cvae(donors, "batch", **options)
    sc_vaenb.tl.cvae(donors, "batch", **options)
    assert len(calls) == 1
    np.testing.assert_array_equal(donors.obsm["X_vae"], whole.obsm["X_vae"])
    other = options | {"checkpoint": tmp_path / "other"}
    with monkeypatch.context() as patched:
        patched.setattr(checkpoint.Checkpoint, "offer", broken_off)
        with refused(donors, ZeroDivisionError, "killed"):
            sc_vaenb.tl.cvae(donors, "batch", **other)
    with refused(donors, ValueError, "holds the state of another fit. What differs: controls"):
        sc_vaenb.tl.cvae(donors, "batch", **other | {"align": False})


@pytest.mark.slow
@pytest.mark.parametrize("n_fits", [1, 2])
def test_too_little_memory_halves_the_cells_of_both_fits(donors, fast, log, monkeypatch, n_fits):
    """It fails in the first or in the second fit, which then has the batch size that there is memory for."""
    sizes, fit = [], _fit.fit

    def with_little_memory(config, counts, options, *rest):
        sizes.append(options.batch_size)
        if len(sizes) == n_fits:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return fit(config, counts, options, *rest)

    monkeypatch.setattr(_fit, "fit", with_little_memory)
    monkeypatch.setattr(offsets, "fit", with_little_memory)
    sc_vaenb.tl.cvae(donors, "batch", controls="control", **fast | {"mask_var": None, "batch_size": 64})
    assert sizes == [64, 32, 32] if n_fits == 1 else sizes == [64, 64, 32]
    assert "the fit starts again with batch_size=32" in log.getvalue()


def test_ctrl_c_in_the_first_fit_ends_it(donors, fast, refused, monkeypatch):
    fit = offsets.fit

    def interrupted(*args):
        model, history, verdict = fit(*args)
        return model, history, replace(verdict, status="interrupted")

    monkeypatch.setattr(offsets, "fit", interrupted)
    with refused(donors, KeyboardInterrupt, "^$"):
        sc_vaenb.tl.cvae(donors, "batch", controls="control", **fast | {"mask_var": None})


def test_a_comparison_sees_other_controls(donors):
    """Arrays as well as columns, of which numpy's text shows the ends alone."""
    one = np.tile([True, False], len(donors) // 2)
    other = one.copy()
    other[[400, 401]] = other[[401, 400]]
    found = {fingerprint(donors, "x", 0, {"controls": controls}, 0) for controls in (one, other, "control")}
    donors.obs["control"] = ~donors.obs["control"]
    assert len(found | {fingerprint(donors, "x", 0, {"controls": "control"}, 0)}) == 4


@pytest.mark.slow
def test_likelihoods_are_compared_with_the_offsets(fitted_with_controls, monkeypatch):
    given, fit = [], marginal.fit
    monkeypatch.setattr(marginal, "fit", lambda *args: given.append(args[-1]) or fit(*args))
    sc_vaenb.tl.posterior_check(fitted_with_controls, likelihoods=["nb", "poisson"], n_samples=10, n_seeds=1)
    expected = FittedModel.from_uns(fitted_with_controls, "vae").model.batch_offset.numpy()
    assert len(given) == 2
    assert all(np.array_equal(offset, expected) for offset in given)
