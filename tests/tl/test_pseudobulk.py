"""`tl.pseudobulk`: sums of counts per sample and group, whatever the matrix, and the obs that goes with them."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse as sp

import sc_vaenb


@pytest.fixture
def samples(adata):
    """Four donors in two conditions; each has all three types."""
    adata.obs["donor"] = pd.Categorical([f"d{i % 4}" for i in range(adata.n_obs)])
    adata.obs["condition"] = pd.Categorical(np.where(adata.obs["donor"].isin(["d0", "d1"]), "case", "control"))
    adata.obs["age"] = adata.obs["donor"].cat.codes * 10 + 20
    return adata


def expected(adata, columns):
    table = pd.DataFrame(adata.X.toarray(), adata.obs_names, adata.var_names)
    return table.groupby([adata.obs[name].astype(str) for name in columns]).sum()


@pytest.mark.parametrize("groups_key", [None, "cell_type", ["cell_type", "batch"]])
def test_sums_are_those_of_the_cells(samples, unchanged, groups_key):
    with unchanged(samples):
        bulk = sc_vaenb.tl.pseudobulk(samples, "donor", groups_key, min_cells=1)
    columns = ["donor", *([groups_key] if isinstance(groups_key, str) else groups_key or [])]
    table = expected(samples, columns)
    assert bulk.X.dtype == np.int64
    np.testing.assert_array_equal(bulk.X, table.to_numpy())
    assert bulk.obs_names.tolist() == ["_".join(key) if isinstance(key, tuple) else key for key in table.index]
    assert bulk.obs["n_cells"].sum() == samples.n_obs
    assert bulk.var.equals(samples.var)
    assert set(columns) <= set(bulk.obs)


def test_obs_holds_what_is_constant_in_each_row(samples):
    bulk = sc_vaenb.tl.pseudobulk(samples, "donor", "cell_type")
    assert bulk.obs.columns.tolist() == ["donor", "cell_type", "condition", "age", "n_cells"]
    assert bulk.obs.loc["d3_type_1", "condition"] == "control"
    assert bulk.obs.loc["d3_type_1", "age"] == 50
    alone = sc_vaenb.tl.pseudobulk(samples[samples.obs["donor"] == "d1"], "donor")
    assert alone.obs["condition"].cat.categories.tolist() == ["case"]


@pytest.mark.parametrize("kind", ["dense", "csc", "backed", "dask", "x"])
def test_every_kind_of_matrix_gives_the_same(samples, tmp_path, kind):
    reference = sc_vaenb.tl.pseudobulk(samples, "donor")
    layer = "counts"
    if kind == "dense":
        samples.layers["counts"] = samples.X.toarray()
    elif kind == "csc":
        samples.layers["counts"] = sp.csc_matrix(samples.X)
    elif kind == "dask":
        array = pytest.importorskip("dask.array")
        samples.layers["counts"] = array.from_array(samples.X.toarray(), chunks=(70, 100))
    else:
        layer = None
        if kind == "backed":
            samples.write_h5ad(tmp_path / "a.h5ad")
            samples = ad.read_h5ad(tmp_path / "a.h5ad", backed="r")
    bulk = sc_vaenb.tl.pseudobulk(samples, "donor", layer=layer)
    np.testing.assert_array_equal(bulk.X, reference.X)
    assert bulk.X.dtype == np.int64
    pd.testing.assert_frame_equal(bulk.obs, reference.obs)


def test_small_sums_are_left_out_and_named(samples, log):
    samples.obs["donor"] = samples.obs["donor"].astype(str)
    samples.obs.iloc[:4, samples.obs.columns.get_loc("donor")] = "few"
    bulk = sc_vaenb.tl.pseudobulk(samples, "donor")
    assert bulk.obs_names.tolist() == ["d0", "d1", "d2", "d3"]
    assert "1 of 5 sums have fewer than 10 cells and are left out (first: 'few', 4 cells)" in log.getvalue()


def test_counts_that_are_not_integers_are_allowed_if_asked(samples):
    samples.layers["counts"] = samples.X * 0.5
    bulk = sc_vaenb.tl.pseudobulk(samples, "donor", allow_non_integer=True)
    np.testing.assert_allclose(bulk.X, expected(samples, ["donor"]) / 2)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"sample_key": "no"}, KeyError, r"sample_key='no' is not in adata\.obs"),
        ({"groups_key": "no"}, KeyError, r"groups_key='no' is not in adata\.obs"),
        ({"groups_key": "donor"}, ValueError, "name one column twice: "),
        (
            {"sample_key": "gap"},
            ValueError,
            r"obs\['gap'\] is missing for 2 cells \(first: 'cell_0'\)\. Label or remove",
        ),
        ({"layer": "no"}, KeyError, r"layer='no' is not in adata\.layers"),
        ({"layer": "log"}, ValueError, r"layers\['log'\] holds non-integer values \(cell 'cell_0', gene "),
        ({"min_cells": 0}, ValueError, r"min_cells=0 is not possible\. Give a whole number at least 1"),
        ({"min_cells": 76}, ValueError, "min_cells=76 leaves nothing: no sum over donor has more than 75 cells"),
        ({"sample_key": "left", "groups_key": "right"}, ValueError, "two rows would have the name 'a_b_c'"),
    ],
)
def test_what_cannot_be_is_refused(samples, refused, options, error, text):
    samples.layers["log"] = samples.X.log1p()
    samples.obs["gap"] = [None, None] + ["a"] * 298
    samples.obs["left"], samples.obs["right"] = ["a_b"] * 150 + ["a"] * 150, ["c"] * 150 + ["b_c"] * 150
    with refused(samples, error, text):
        sc_vaenb.tl.pseudobulk(samples, **{"sample_key": "donor"} | options)
