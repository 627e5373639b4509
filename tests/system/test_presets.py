"""Scanpy's preset for version 2 renames keys and changes defaults: nothing that we write may depend on it."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import scanpy as sc

from sc_vaenb import cli, datasets, pl, pp, report, tl
from sc_vaenb.tl import _counts

PRESETS = getattr(sc, "Preset", ())  # since scanpy 1.13
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not PRESETS, reason="this scanpy has no presets")]


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(_counts, "default_steps", lambda *_: 20)
    yield
    plt.close("all")


@pytest.fixture(params=PRESETS)
def preset(request):
    before = sc.settings.preset
    try:
        sc.settings.preset = request.param
    except ImportError as error:  # the preset for scanpy 2 asks for packages that we do not need
        pytest.skip(str(error))
    yield request.param
    assert sc.settings.preset is request.param
    sc.settings.preset = before


@pytest.fixture(scope="module")
def results():
    return {}


def main_job(folder):
    """Data, variable genes, fits, a comparison and its page; the AnnData."""
    adata = datasets.demo()
    pp.prepare(adata, batch_key="batch", n_top_genes=300)
    tl.cvae(adata, "batch", n_latent=5)
    tl.harmony(adata, "batch")
    tl.compare(adata, "batch", label_key="cell_type")
    report.write(adata, folder / "page.html")
    return adata


def test_every_preset_gives_the_same_keys_and_values(preset, results, tmp_path):
    results[preset] = adata = main_job(tmp_path)
    first = next(iter(results.values()))
    assert {"X_pca", "X_vae", "X_pca_harmony", "X_cvae", "X_umap_cvae"} <= set(adata.obsm)
    for name in ("obs", "var", "obsm", "varm", "obsp", "uns", "layers"):
        assert list(getattr(adata, name)) == list(getattr(first, name))
    assert adata.obs.equals(first.obs)  # with the Leiden clusters
    assert adata.var.equals(first.var)  # with the variable genes
    for key in first.obsm:
        np.testing.assert_array_equal(adata.obsm[key], first.obsm[key])
    assert adata.uns["neighbors_cvae"]["params"]["use_rep"] == "X_cvae"


def test_every_preset_draws(preset, results, tmp_path):
    adata = results.get(preset) or main_job(tmp_path)
    pl.history(adata, show=False)
    pl.compare(adata, show=False)
    pl.scores(adata, show=False)
    pl.tradeoff(adata, show=False)
    pl.confusion(adata, show=False)
    axes = pl.embedding(adata, "X_vae", color=["batch", "CD3D"], show=False)  # computes a UMAP
    assert axes.shape == (1, 2)


def test_every_preset_runs_the_demo(preset, tmp_path, capsys):
    assert cli.main(["demo", "--out", str(tmp_path)]) == 0
    assert "CVAE" in capsys.readouterr().out
    assert (tmp_path / "umap.png").exists()
