"""The code in a page does what it says."""

from functools import partial

import anndata
import numpy as np
import pandas as pd
import pytest
import scanpy as sc

import sc_vaenb
from sc_vaenb.report._code import call_of, next_steps
from sc_vaenb.tl import _compare, _runs

from .conftest import fails, quick


@pytest.mark.slow
def test_the_call_makes_the_same_comparison(compared, tmp_path, monkeypatch):
    compared.write_h5ad(tmp_path / "a.h5ad")
    adata = anndata.read_h5ad(tmp_path / "a.h5ad")
    call = call_of(adata, adata.uns["compare"], "compare")
    before = adata.uns["compare"]
    quick(monkeypatch)
    monkeypatch.setattr(_runs, "harmony", fails)
    monkeypatch.setattr(_compare, "score_embeddings", lambda *_: before["scores"])
    exec(call, {"sc_vaenb": sc_vaenb, "adata": adata})
    after = adata.uns["compare"]
    assert after is not before
    for name in ("made", "methods"):  # with the seconds that it took: nothing was computed again
        pd.testing.assert_frame_equal(after[name], before[name], check_dtype=False)
    for name in ("params", "failed", "verdict"):
        assert after[name] == before[name]


def test_what_differs_from_the_defaults_is_in_the_call(simulated, record):
    mask = np.arange(simulated.n_vars) < 50
    adata = simulated.copy()
    shared = {"layer": "raw", "mask_var": mask, "hidden": np.array([128]), "beta": 0.5}
    adata.uns["cvae"] = {"params": shared}
    adata.uns["deep"] = {"params": {**shared, "hidden": np.array([64, 64]), "beta": np.float64(1), "patience": 10}}
    record["methods"].loc[3, ["method", "embedding"]] = ["deep", "X_deep"]
    call = call_of(adata, record, "second")
    assert "    layer='raw',\n    mask_var=adata.uns['cvae']['params']['mask_var'],\n" in call
    assert "    variants={'deep': {'hidden': (64, 64), 'beta': 1.0, 'patience': 10}},\n" in call
    assert "    key_added='second',\n" in call
    compile(call, "call", "exec")


def test_a_short_call_is_one_line(simulated, record):
    record["params"] = {"batch_key": "batch", "n_seeds": 1, "resolution": 1.0, "rng": 0}
    expected = "sc_vaenb.tl.compare(adata, 'batch', n_seeds=1, resolution=1.0, rng=0)"
    assert call_of(simulated, record, "compare") == expected


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The set_bad function")  # of matplotlib, within scanpy
def test_the_way_on_goes(compared, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sc.pl, "umap", partial(sc.pl.umap, show=False))
    compared.write_h5ad("it's.h5ad")
    code = next_steps(compared.uns["compare"]["params"], "X_cvae", "it's.h5ad")
    result = {}
    exec(code, result)
    assert result["adata"].uns["neighbors"]["params"]["use_rep"] == "X_cvae"
    assert {"leiden", "batch", "cell_type"} <= set(result["adata"].obs)
    assert result["adata"].obsm["X_umap"].shape == (200, 2)
    assert "color=['batch', 'cell_type', 'leiden']" in code


@pytest.mark.parametrize("label_key", [{}, {"label_key": "t"}])
def test_the_way_on_is_coloured_by_what_there_is(label_key):
    assert ("'t', 'leiden'" in next_steps({"batch_key": "b", **label_key}, "X_pca", "a.h5ad")) == bool(label_key)
