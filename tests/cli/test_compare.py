"""`sc-vaenb compare`: everything in one folder, drawn again, gone on with."""

import json
import re

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import sc_vaenb
from sc_vaenb import cli
from sc_vaenb.cli import _compare as drawing
from sc_vaenb.tl import _graph, _runs

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("quick")]
METHODS = ["PCA", "HARMONY", "VAE_NB", "CVAE_NB"]


@pytest.fixture
def typed(file, tmp_path):
    return ["compare", str(file), "--out", str(tmp_path / "out")]


def refuse_to_compute(monkeypatch):
    for name in ("vae", "cvae", "harmony", "log_pca"):
        monkeypatch.setattr(_runs, name, refusing(getattr(_runs, name)))


def refusing(original):
    def computed(*_, **__):
        raise AssertionError("computed again")

    computed.__kwdefaults__ = original.__kwdefaults__
    return computed


def stop(*_, **__):
    raise KeyboardInterrupt


def stopping_cvae(*_, **__):
    raise KeyboardInterrupt


stopping_cvae.__kwdefaults__ = _runs.cvae.__kwdefaults__


def test_a_comparison_from_the_command_line(typed, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    assert cli.main(typed) == 0
    said = capsys.readouterr().out
    assert "Best: " in said
    names = {path.name for path in out.iterdir()}
    folders = {name for name in names if (out / name).is_dir()}
    assert {re.fullmatch(r"(\w+)_\d{8}_\d{6}", name)[1] for name in folders} == set(METHODS)
    files = {"report.html", "report.csv", "comparison.h5ad", "run.json", "scores.svg", "umaps.svg", "tradeoff.svg"}
    assert names == folders | files
    listed = set(re.findall(r"^  (\S+)$", said, re.MULTILINE))
    assert listed == {f"{name}/" for name in folders} | files - {"run.json"}
    adata = ad.read_h5ad(out / "comparison.h5ad")
    run = json.loads((out / "run.json").read_text())
    assert run["command"] == " ".join(["sc-vaenb", *typed])
    assert run["columns"] == {"sample": "batch", "celltype": "cell_type"}
    for key, folder in run["folders"].items():
        method = folder.rsplit("_", 2)[0]
        np.testing.assert_array_equal(np.load(out / folder / "latents.npy"), adata.obsm[f"X_{key}"])
        assert (out / folder / f"{method}_umap_leiden_{key}.svg").exists()
        assert (out / folder / "training_losses.svg").exists() == (key in {"vae", "cvae"})
        total = pd.read_csv(out / folder / "metrics.csv", index_col=0).loc["total", "value"]
        assert total == pytest.approx(adata.uns["compare"]["scores"]["values"].loc[f"X_{key}", "total"])
    assert run["command"] in (out / "report.html").read_text()
    assert "comparison.h5ad" in (out / "report.html").read_text()

    assert cli.main(typed) == 1  # nothing is replaced unasked
    assert "holds a comparison. Pass --force to replace it" in capsys.readouterr().err
    refuse_to_compute(monkeypatch)
    drawn = out / run["folders"]["vae"] / "VAE_NB_umap_leiden_vae.svg"
    drawn.unlink()
    (out / "report.html").unlink()
    before = (out / "comparison.h5ad").read_bytes()
    assert cli.main(["compare", "--save-only", "--out", str(out)]) == 0
    assert drawn.exists()
    assert run["command"] in (out / "report.html").read_text()
    assert (out / "comparison.h5ad").read_bytes() == before
    assert {path.name for path in out.iterdir()} == names

    assert cli.main([*typed, "--force"]) == 0  # and computes nothing that is unchanged
    after = {path.name for path in out.iterdir() if path.is_dir()}
    assert len(after) == 4
    assert not after & folders
    assert ad.read_h5ad(out / "comparison.h5ad").uns["compare"]["failed"] == {}


N_CELLS = 300


@pytest.mark.parametrize("phase", ["fit", "umap", "write"])
def test_an_interrupted_comparison_goes_on_where_it_was(typed, tmp_path, capsys, monkeypatch, phase):
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        if phase == "fit":
            patch.setattr(_runs, "cvae", stopping_cvae)
        elif phase == "umap":
            patch.setattr(_graph.sc.tl, "umap", stop)
        else:
            patch.setattr("sc_vaenb.report.write", stop)
        assert cli.main(typed) == 130
    said = capsys.readouterr()
    assert said.err.endswith("sc-vaenb: interrupted\n")
    assert not (out / "run.json").exists()
    assert not list(out.glob(".*"))
    kept = ad.read_h5ad(out / "comparison.h5ad")
    made = {"fit": ["pca", "pca_harmony", "vae"], "umap": ["pca"]}.get(phase, ["pca", "pca_harmony", "vae", "cvae"])
    assert list(kept.uns["compare"]["made"].index) == made
    calls = []
    for name in ("vae", "log_pca"):
        monkeypatch.setattr(_runs, name, noting(calls, name, getattr(_runs, name)))
    monkeypatch.setattr(drawing, "_draw", lambda *_: {"folders": {}})
    assert cli.main(typed) == 0
    assert calls == (["vae"] if phase == "umap" else [])


def noting(calls, name, original):
    def call(adata, *args, **kwargs):
        if adata.n_obs == N_CELLS:  # not those of the null split
            calls.append(name)
        return original(adata, *args, **kwargs)

    call.__kwdefaults__ = original.__kwdefaults__
    return call


def test_other_data_are_computed_anew(typed, tmp_path, monkeypatch):
    monkeypatch.setattr(drawing, "_draw", lambda *_: {"folders": {}})
    assert cli.main(typed) == 0
    other = sc_vaenb.datasets.simulate(300, 100, n_types=3, n_batches=2, mean_depth=500, rng=1)
    other.write_h5ad(tmp_path / "other.h5ad")
    before = ad.read_h5ad(tmp_path / "out" / "comparison.h5ad").obsm["X_pca"]
    assert cli.main(["compare", str(tmp_path / "other.h5ad"), *typed[2:], "--force"]) == 0
    after = ad.read_h5ad(tmp_path / "out" / "comparison.h5ad").obsm["X_pca"]
    assert not np.allclose(np.abs(before), np.abs(after[:, : before.shape[1]]))


def test_without_labels(adata, tmp_path):
    del adata.obs["cell_type"]
    adata.write_h5ad(tmp_path / "a.h5ad")
    assert cli.main(["compare", str(tmp_path / "a.h5ad"), "--out", str(tmp_path / "out")]) == 0
    names = {path.name for path in (tmp_path / "out").rglob("*")}
    assert not {"tradeoff.svg", "silhouette_cell_type.txt", "PCA_umap_cell_type.svg"} & names
    assert {"report.html", "PCA_umap_batch.svg"} <= names


def test_there_is_nothing_to_draw_again(tmp_path, refuses):
    text = "holds no comparison to draw. Run sc-vaenb compare without --save-only first."
    refuses("compare", "--save-only", "--out", tmp_path, text=text)


def test_the_report_of_a_file(typed, tmp_path, refuses, file):
    assert cli.main(typed) == 0
    data = tmp_path / "out" / "comparison.h5ad"
    assert cli.main(["report", str(data)]) == 0
    assert "comparison.h5ad" in (tmp_path / "out" / "comparison.html").read_text()
    refuses("report", data, text="already there. Pass --force")
    refuses("report", file, "--out", tmp_path / "a.html", text="uns['compare'] holds no comparison")
    refuses("report", data, "--key", "other", "--out", tmp_path / "a.html", text="uns['other'] holds no comparison")
    assert not (tmp_path / "a.html").exists()
