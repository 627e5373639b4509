"""`sc-vaenb vae` and `cvae`: the results folder, and what is refused."""

import json
import re

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import silhouette_score

import sc_vaenb
from sc_vaenb import cli
from sc_vaenb.cli._fit import choose_batch_key
from sc_vaenb.fit import checkpoint, history

FILES = {
    "latents.npy", "latents_z.npy", "training_losses.svg", "metrics.csv", "params.json", "silhouette_cell_type.txt",
    *(f"CVAE_NB_umap_{what}.svg" for what in ("cell_type", "batch", "leiden_cvae")), "CVAE_NB.h5ad",
}  # fmt: skip


def folder_in(out):
    (found,) = out.iterdir()
    return found


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_the_results_folder_of_a_cvae(file, tmp_path, capsys):
    typed = ["cvae", str(file), "--out", str(tmp_path), "--n-latent", "4", "--hidden", "16", "--rng", "3"]
    assert cli.main(typed) == 0
    folder = folder_in(tmp_path)
    assert re.fullmatch(r"CVAE_NB_\d{8}_\d{6}", folder.name)
    assert {path.name for path in folder.iterdir()} == FILES
    out = capsys.readouterr().out
    assert f"{file}: 300 cells x 100 genes" in out
    assert all(name in out for name in FILES)

    adata = ad.read_h5ad(folder / "CVAE_NB.h5ad")
    latent = np.load(folder / "latents.npy")
    np.testing.assert_array_equal(latent, adata.obsm["X_cvae"])
    scaled = np.load(folder / "latents_z.npy")
    np.testing.assert_allclose(scaled.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(scaled.std(0), 1, atol=1e-5)
    silhouette = float((folder / "silhouette_cell_type.txt").read_text())
    assert silhouette == pytest.approx(silhouette_score(latent, adata.obs["cell_type"]), abs=1e-4)
    metrics = pd.read_csv(folder / "metrics.csv", index_col=0)
    assert metrics.loc["silhouette_label", "value"] == pytest.approx((silhouette + 1) / 2, abs=1e-5)
    assert metrics.loc["total", "value"] == pytest.approx(adata.uns["cvae_scores"]["values"].loc["X_cvae", "total"])
    params = json.loads((folder / "params.json").read_text())
    assert params["command"].startswith("sc-vaenb cvae ")
    assert params["params"] | {"n_latent": 4, "hidden": [16], "rng": 3, "batch_key": "batch"} == params["params"]
    assert "cell_type" in (folder / "CVAE_NB_umap_cell_type.svg").read_text()

    sc_vaenb.tl.embed(adata, "cvae")  # the model is in the file
    np.testing.assert_allclose(adata.obsm["X_cvae"], latent, atol=1e-5)


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_as_in_the_tutorial_with_counts_in_a_second_file(simulated, tmp_path):
    processed = ad.AnnData(np.log1p(simulated.X.toarray()), obs=simulated.obs[[]], var=simulated.var[[]])
    raw = ad.AnnData(simulated.X, obs=simulated.obs[[]], var=simulated.var[[]])[::-1].copy()
    processed.write_h5ad(tmp_path / "processed.h5ad")
    raw.write_h5ad(tmp_path / "raw.h5ad")
    source = ["--adata", str(tmp_path / "processed.h5ad"), "--counts", str(tmp_path / "raw.h5ad")]
    end = ["vae", "--recon", "poisson", "--n-latent", "4", "--quiet", "--out", str(tmp_path / "out")]
    assert cli.main([*source, *end]) == 0
    folder = folder_in(tmp_path / "out")
    assert folder.name.startswith("VAE_POISSON_")
    adata = ad.read_h5ad(folder / "VAE_POISSON.h5ad")
    np.testing.assert_array_equal(adata.layers["counts"].toarray(), simulated.X.toarray())
    assert not list(folder.glob("silhouette*")) + list(folder.glob("*batch*")) + list(folder.glob("metrics.csv"))


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_a_mixture_as_prior_as_in_the_tutorial(file, tmp_path):
    typed = ["--adata", str(file), "cvae", "--recon", "nb", "--mog", "--n-components", "5", "--quiet"]
    assert cli.main([*typed, "--out", str(tmp_path)]) == 0
    adata = ad.read_h5ad(folder_in(tmp_path) / "CVAE_NB.h5ad")
    assert adata.uns["cvae"]["params"]["prior"] == "mog"
    member = adata.obsm["cvae_components"]
    np.testing.assert_allclose(member.sum(1), 1, rtol=1e-5)
    np.testing.assert_array_equal(adata.obs["cvae_component"].cat.codes, member.argmax(1))
    assert len(adata.uns["cvae"]["components"]["weight"]) == 5


def test_a_file_without_counts_gets_the_advice_of_the_command_line(simulated, tmp_path, refuses):
    adata = ad.AnnData(np.log1p(simulated.X.toarray()), obs=simulated.obs[["batch"]], var=simulated.var[[]])
    adata.write_h5ad(tmp_path / "log.h5ad")
    text = (
        "log.h5ad holds no raw counts. Give a second file that has them with --counts FILE, or the name of their layer"
    )
    assert "--layer orig" not in refuses("cvae", tmp_path / "log.h5ad", "--out", tmp_path / "out", text=text)
    adata.layers["orig"] = simulated.X.copy()
    adata.write_h5ad(tmp_path / "log.h5ad")
    text = "layers['orig'] holds whole numbers: raw counts only if you say so, with --layer orig."
    refuses("cvae", tmp_path / "log.h5ad", "--out", tmp_path / "out", text=text)


@pytest.mark.slow
def test_quiet_leaves_results_alone(file, tmp_path, capsys, quick):
    assert cli.main(["vae", str(file), "--quiet", "--hidden", "8", "--out", str(tmp_path)]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    assert said.out.startswith("written to ")
    assert said.out.count("\n") == 1


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_more_categories_than_colours_are_drawn(file, tmp_path):
    adata = ad.read_h5ad(file)
    adata.obs["donor"] = [f"donor_{i % 120}" for i in range(300)]
    adata.write_h5ad(tmp_path / "a.h5ad")
    typed = ["vae", str(tmp_path / "a.h5ad"), "--batch-key", "donor", "--hidden", "8", "--out", str(tmp_path / "out")]
    assert cli.main(typed) == 0
    names = {path.name.removeprefix("VAE_NB_umap_") for path in folder_in(tmp_path / "out").iterdir()}
    assert {"donor.svg", "cell_type.svg", "leiden_vae.svg", "VAE_NB.h5ad", "metrics.csv"} <= names


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_several_columns_are_the_batches(file, tmp_path, capsys):
    adata = ad.read_h5ad(file)
    adata.obs["donor"], adata.obs["kit"] = np.where(np.arange(300) % 2, "d1", "d2"), np.where(np.arange(300) < 90, 1, 2)
    adata.write_h5ad(tmp_path / "a.h5ad")
    for command in ("cvae", "vae"):
        typed = [command, str(tmp_path / "a.h5ad"), "--batch-key", "donor,kit", "--hidden", "8"]
        assert cli.main([*typed, "--out", str(tmp_path / command)]) == 0
    fitted = folder_in(tmp_path / "cvae")
    assert {"CVAE_NB_umap_donor.svg", "CVAE_NB_umap_kit.svg", "metrics.csv"} <= {path.name for path in fitted.iterdir()}
    record = ad.read_h5ad(fitted / "CVAE_NB.h5ad").uns["cvae"]
    assert list(record["params"]["batch_key"]) == ["donor", "kit"]
    assert list(record["model"]["batches"]) == ["d1 | 1", "d1 | 2", "d2 | 1", "d2 | 2"]
    typed = ["score", str(fitted / "CVAE_NB.h5ad"), "--embeddings", "X_cvae", "--batch-key", "donor,kit"]
    assert cli.main(typed) == 0
    assert "batch" in capsys.readouterr().out
    adata.obs["donor,kit"] = adata.obs["donor"]  # a column with a comma in its name is meant as it is
    assert choose_batch_key(adata, "donor,kit", needed=True) == "donor,kit"


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_scores_by_labels_that_the_fit_has_seen_come_with_a_warning(file, tmp_path, log):
    adata = ad.read_h5ad(file)
    adata.obs["other"] = adata.obs["cell_type"].astype(str) + " cell"
    adata.write_h5ad(tmp_path / "a.h5ad")
    typed = ["vae", str(tmp_path / "a.h5ad"), "--hidden", "8", "--labels-key", "cell_type", "--out"]
    assert cli.main([*typed, str(tmp_path / "out")]) == 0
    said = "X_vae was fitted with the labels 'cell_type' (--labels-key): its scores by these labels are too high"
    assert log.getvalue().count(said) == 1
    fitted = folder_in(tmp_path / "out") / "VAE_NB.h5ad"
    for labels, times in (("other", 1), ("cell_type", 2)):
        assert cli.main(["score", str(fitted), "--embeddings", "X_vae", "--label-key", labels]) == 0
        assert log.getvalue().count(said) == times


def test_half_a_fit_leaves_nothing(file, tmp_path, monkeypatch, capsys):
    kept = history.History.is_due
    stop = lambda self, step: (_ for _ in ()).throw(KeyboardInterrupt) if step == 30 else kept(self, step)  # noqa: E731
    monkeypatch.setattr(history.History, "is_due", stop)
    assert cli.main(["cvae", str(file), "--out", str(tmp_path), "--hidden", "16"]) == 130
    assert capsys.readouterr().err.endswith("sc-vaenb: interrupted\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_a_fit_goes_on_with_resume_and_clears_up_at_the_end(file, tmp_path, monkeypatch, capsys, refuses, log):
    typed = ["vae", file, "--out", tmp_path, "--n-latent", "4", "--hidden", "16", "--resume"]
    monkeypatch.setattr(checkpoint, "MAX_SHARE_OF_TIME", float("inf"))
    with monkeypatch.context() as patched:
        record = history.History.record

        def stop(self, step, *found):
            if step >= 12:
                raise KeyboardInterrupt
            record(self, step, *found)

        patched.setattr(history.History, "record", stop)
        assert cli.main(list(map(str, typed))) == 130
    state = tmp_path / "vae_checkpoint"
    assert f"The state of the fit is kept in {state}: the same command goes on from there." in capsys.readouterr().out
    assert len(list(state.iterdir())) == 2
    refuses(*typed, "--beta", "2", text=f"checkpoint={str(state)!r} holds the state of another fit. What differs: beta")
    assert cli.main(list(map(str, typed))) == 0
    assert f"continuing from step 12, saved in {state}" in log.getvalue()

    adata = ad.read_h5ad(file)
    sc_vaenb.pp.prepare(adata)
    sc_vaenb.tl.vae(adata, n_latent=4, hidden=(16,))
    np.testing.assert_array_equal(np.load(folder_in(tmp_path) / "latents.npy"), adata.obsm["X_vae"])


@pytest.mark.parametrize(
    ("typed", "text"),
    [
        (["cvae"], "there is no input: give a FILE, or --adata FILE."),
        (["--adata", "b.h5ad", "cvae", "a.h5ad"], "there are two inputs: a.h5ad and --adata b.h5ad. Give one."),
        (["cvae", "FILE", "--mog", "--prior", "vamp"], "--mog and --prior vamp are two priors. Give one."),
        (["cvae", "FILE", "--batch-key", "donor"], "--batch-key 'donor' is not a column of obs, which has ["),
        (["cvae", "FILE", "--layer", "raw"], "layer='raw' is not in adata.layers"),
        (["cvae", "FILE", "--label-key", "batch"], "--batch-key and --label-key are both 'batch'"),
        (["cvae", "FILE", "--batch-key", "batch,kit"], "--batch-key 'kit' is not a column of obs, which has ["),
        (["cvae", "FILE", "--batch-key", "batch,cell_type"], "--batch-key and --label-key are both 'cell_type'"),
        (["cvae", "FILE", "--beta", "-1"], "beta=-1.0 is not possible."),
        (["cvae", "FILE", "--resume", "--checkpoint", "a"], "--resume and --checkpoint both name a folder for the st"),
        (["cvae", "FILE", "--checkpoint", "FILE"], "data.h5ad' is a file, not a folder. Pass another name."),
        (["cvae", "FILE", "--batch-key", "depth_factor"], "has one cell, from which no batch effect can be learned"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(file, tmp_path, refuses, typed, text):
    typed = [file if word == "FILE" else word for word in typed]
    refuses(*typed, "--out", tmp_path / "out", text=text)
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())
