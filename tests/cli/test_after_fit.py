"""What comes after a fit can cost what it would have made, and no more; what can be refused is refused before."""

import json
import signal
import sys
import time

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import sc_vaenb
from sc_vaenb import cli
from sc_vaenb.cli import _compare as comparing
from sc_vaenb.cli import _fit as fitting
from sc_vaenb.cli import _results
from sc_vaenb.cli._writable import leave_out_unwritable
from sc_vaenb.cli._write import write_adata
from sc_vaenb.tl import _compare, _graph, _runs

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("quick")]
FIT = ["--hidden", "8", "--n-latent", "4", "--n-steps", "10"]


class Injected(RuntimeError):
    pass


def fail(*_, **__):
    raise Injected("injected")


AFTER_FIT = {  # where it fails, and what is then not in the folder
    "neighbours": ((_graph.sc.pp, "neighbors"), "umap"),
    "clusters": ((_graph.sc.tl, "leiden"), "umap"),
    "UMAP": ((_graph.sc.tl, "umap"), "umap"),
    "scores": ((sc_vaenb.tl, "score"), "metrics.csv"),
    "table of scores": ((_results, "metrics_of"), "metrics.csv"),
    "silhouette": ((_results, "_silhouette"), "silhouette"),
    "figures": ((sc_vaenb.pl, "embedding"), "umap"),
    "losses": ((sc_vaenb.pl, "history"), "training_losses"),
}


@pytest.mark.parametrize(("method", "step"), [("vae", "scores"), *(("cvae", step) for step in AFTER_FIT)])
def test_what_fails_after_a_fit_costs_no_results(file, tmp_path, monkeypatch, log, method, step):
    (place, name), lost = AFTER_FIT[step]
    monkeypatch.setattr(place, name, fail)
    assert cli.main([method, str(file), "--out", str(tmp_path / "out"), *FIT]) == 0
    assert "left out of the results: injected" in log.getvalue()
    (folder,) = (tmp_path / "out").iterdir()
    names = {path.name for path in folder.iterdir()}
    assert {"latents.npy", "params.json", f"{method.upper()}_NB.h5ad"} <= names
    assert not [name for name in names if lost in name]
    adata = ad.read_h5ad(folder / f"{method.upper()}_NB.h5ad")
    np.testing.assert_array_equal(np.load(folder / "latents.npy"), adata.obsm[f"X_{method}"])
    assert "model" in adata.uns[method]


def test_figures_tables_and_report_that_fail_cost_no_comparison(file, tmp_path, monkeypatch, log):
    out = tmp_path / "out"
    for name in ("embedding", "history", "scores", "compare", "tradeoff", "confusion"):
        monkeypatch.setattr(sc_vaenb.pl, name, fail)
    monkeypatch.setattr(_results, "metrics_of", fail)
    monkeypatch.setattr(_results, "_silhouette", fail)
    monkeypatch.setattr("sc_vaenb.report.write", fail)
    assert cli.main(["compare", str(file), "--out", str(out)]) == 0
    for name in ("umaps.svg", "scores.svg", "tradeoff.svg", "report.html", "metrics.csv", "training_losses.svg"):
        assert f"{name} is left out of the results: injected" in log.getvalue()
    run = json.loads((out / "run.json").read_text())
    assert all((out / folder / "latents.npy").exists() for folder in run["folders"].values())
    monkeypatch.undo()
    assert cli.main(["compare", "--save-only", "--out", str(out)]) == 0  # all of it can be drawn now
    assert (out / "report.html").exists()
    assert (out / "umaps.svg").exists()


def test_a_comparison_that_fails_at_its_end_is_kept_and_goes_on(file, tmp_path, monkeypatch, refuses):
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(_compare, "score_embeddings", fail)
        refuses("compare", file, "--out", out, text="injected")
    kept = ad.read_h5ad(out / "comparison.h5ad")
    assert list(kept.uns["compare"]["made"].index) == ["pca", "pca_harmony", "vae", "cvae"]
    monkeypatch.setattr(_runs, "vae", refusing(_runs.vae))
    monkeypatch.setattr(comparing, "_draw", lambda *_: {"folders": {}})
    assert cli.main(["compare", str(file), "--out", str(out)]) == 0
    assert ad.read_h5ad(out / "comparison.h5ad").uns["compare"]["failed"] == {}


def refusing(original):
    def computed(*_, **__):
        raise AssertionError("computed again")

    computed.__kwdefaults__ = original.__kwdefaults__
    return computed


def in_one_batch(adata):
    adata.obs["cell_type"] = adata.obs["cell_type"].where(adata.obs["batch"] == "batch_0")


def of_five_cells(adata):
    adata.obs["cell_type"] = adata.obs["cell_type"].where(np.arange(adata.n_obs) < 5)


def one_type(adata):
    adata.obs["cell_type"] = pd.Categorical(["T"] * adata.n_obs)


LABELS = {
    in_one_batch: "holds a single batch among the cells with a label",
    of_five_cells: "labels 5 cells: a score needs 10",
    one_type: "holds a single label",
}


@pytest.mark.parametrize("command", ["cvae", "compare"])
@pytest.mark.parametrize("spoil", LABELS)
def test_labels_that_cannot_be_scored_are_found_before_the_fit(
    adata, tmp_path, monkeypatch, refuses, log, command, spoil
):
    spoil(adata)
    adata.write_h5ad(tmp_path / "a.h5ad")
    typed = [command, tmp_path / "a.h5ad", "--out", tmp_path / "out"]
    with monkeypatch.context() as patch:
        patch.setattr(fitting, "prepare", fail)
        text = f"{LABELS[spoil]}"
        line = refuses(*typed, "--label-key", "cell_type", text=text)
        assert line.endswith("With --label-key none there are no scores of labels.")
        assert not (tmp_path / "out").exists()
    if command == "cvae":
        assert cli.main([*map(str, typed), *FIT]) == 0
        assert "the labels in obs['cell_type'] are left out: " in log.getvalue()
        (folder,) = (tmp_path / "out").iterdir()
        assert not list(folder.glob("*cell_type*"))
        assert (folder / "metrics.csv").exists()


def test_labels_are_left_out_if_asked(file, tmp_path):
    assert cli.main(["vae", str(file), "--out", str(tmp_path / "out"), "--label-key", "none", *FIT]) == 0
    (folder,) = (tmp_path / "out").iterdir()
    assert not list(folder.glob("*cell_type*"))


# What no file can hold


def raw_index(adata):
    adata.raw = adata.copy()
    adata.raw.var["_index"] = adata.var_names


UNWRITABLE = {
    "obs['_index']": lambda a: a.obs.__setitem__("_index", a.obs_names),
    "var['_index']": lambda a: a.var.__setitem__("_index", a.var_names),
    "raw.var['_index']": raw_index,
    "obs[0]": lambda a: a.obs.__setitem__(0, 1.0),
    "obs['a/b']": lambda a: a.obs.__setitem__("a/b", 1.0),
    "obs['']": lambda a: a.obs.__setitem__("", 1.0),
    "obs['mixed']": lambda a: a.obs.__setitem__("mixed", pd.Series([1, "a"] * 150, a.obs_names, object)),
    "obs['date']": lambda a: a.obs.__setitem__("date", pd.Timestamp("2025-01-01")),
    "obs['pairs']": lambda a: a.obs.__setitem__("pairs", pd.cut(np.arange(300), 3)),
    "obs['zero']": lambda a: a.obs.__setitem__("zero", "a\0b"),
    "obs.index.name='batch'": lambda a: setattr(a.obs.index, "name", "batch"),
    "obsm['a/b']": lambda a: a.obsm.__setitem__("a/b", np.ones((300, 2))),
    "obsm['table'][0]": lambda a: a.obsm.__setitem__("table", pd.DataFrame({0: 1.0}, index=a.obs_names)),
    "obsm['table']['_index']": lambda a: a.obsm.__setitem__("table", pd.DataFrame({"_index": 1.0}, index=a.obs_names)),
    "varm['a/b']": lambda a: a.varm.__setitem__("a/b", np.ones((100, 2))),
    "layers['a/b']": lambda a: a.layers.__setitem__("a/b", a.X.copy()),
    "uns['a/b']": lambda a: a.uns.__setitem__("a/b", 1),
    "uns['inner'][1]": lambda a: a.uns.__setitem__("inner", {1: 2, "good": 3}),
    "uns['inner']['a']": lambda a: a.uns.__setitem__("inner", {"a": {1, 2}, "good": 3}),
    "uns['object']": lambda a: a.uns.__setitem__("object", object()),
    "uns['series']": lambda a: a.uns.__setitem__("series", pd.Series([1])),
    "uns['ragged']": lambda a: a.uns.__setitem__("ragged", [[1], [1, 2]]),
}  # fmt: skip


@pytest.mark.parametrize("name", UNWRITABLE)
@pytest.mark.filterwarnings("ignore::anndata.ImplicitModificationWarning")
def test_what_no_file_can_hold_is_left_out_and_named(adata, tmp_path, log, name):
    UNWRITABLE[name](adata)
    columns, uns = set(adata.obs), set(adata.uns)
    leave_out_unwritable(adata)
    assert log.getvalue().startswith(f"WARNING: what no .h5ad can hold is left out: {name}")
    assert log.getvalue().count(";") == 0
    for slot in ("h5ad", "zarr"):
        write_adata(adata, tmp_path / f"a.{slot}")
    found = ad.read_h5ad(tmp_path / "a.h5ad")
    assert columns - set(found.obs) <= {0, "", "a/b", "_index", "mixed", "date", "pairs", "zero"}
    assert set(found.uns) >= uns - {"a/b", "object", "series", "ragged"}


def test_what_a_file_can_hold_stays(adata, log):
    n = adata.n_obs
    adata.obs["text"] = pd.Series(["a", None] * (n // 2), adata.obs_names, object)
    adata.obs["string"] = pd.array(["a", None] * (n // 2), dtype="string")
    adata.obs["integer"] = pd.array([1, None] * (n // 2), dtype="Int64")
    adata.obs["true"] = np.arange(n) % 2 == 0
    adata.obs["level"] = pd.Categorical([1, 2] * (n // 2))
    adata.obsm["table"] = pd.DataFrame({"a": np.arange(n)}, index=adata.obs_names)
    adata.uns |= {"none": None, "list": ["a", "b"], "text": "a", "number": 1, "inner": {"array": np.arange(3)}}
    before = list(adata.obs), list(adata.uns), list(adata.obsm)
    leave_out_unwritable(adata)
    assert log.getvalue() == ""
    assert (list(adata.obs), list(adata.uns), list(adata.obsm)) == before


def test_a_file_of_a_converter_gets_its_results(adata, tmp_path, log):
    import h5py

    adata.write_h5ad(tmp_path / "a.h5ad")
    with h5py.File(tmp_path / "a.h5ad", "a") as file:  # as SeuratDisk leaves it
        file["obs"].copy("_index", "cell")
        file["obs"].attrs["_index"] = "cell"
        file["obs"].attrs["column-order"] = ["_index", *file["obs"].attrs["column-order"]]
    assert cli.main(["cvae", str(tmp_path / "a.h5ad"), "--out", str(tmp_path / "out"), *FIT]) == 0
    assert "what no .h5ad can hold is left out: obs['_index'] (this name is reserved)." in log.getvalue()
    (folder,) = (tmp_path / "out").iterdir()
    assert ad.read_h5ad(folder / "CVAE_NB.h5ad").obsm["X_cvae"].shape == (300, 4)


# Two runs


def test_results_of_the_same_second_lie_side_by_side(file, tmp_path, monkeypatch):
    monkeypatch.setattr(fitting, "timestamp", lambda: "20250101_000000")
    for _ in range(2):
        assert cli.main(["vae", str(file), "--out", str(tmp_path), *FIT, "--quiet"]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["VAE_NB_20250101_000000", "VAE_NB_20250101_000000_2"]
    for path in tmp_path.iterdir():
        assert (path / "VAE_NB.h5ad").exists()


def test_one_state_is_for_one_run_at_a_time(file, tmp_path, refuses, another_run):
    (tmp_path / "vae_checkpoint").mkdir()
    (tmp_path / "vae_checkpoint" / "notes").touch()
    typed = ["vae", file, "--out", tmp_path, *FIT, "--resume"]
    with another_run(tmp_path / "vae_checkpoint"):
        refuses(*typed, text="another run keeps its state in")
    assert cli.main(list(map(str, typed))) == 0
    assert [path.name for path in (tmp_path / "vae_checkpoint").iterdir()] == ["notes"]


class Cleared:
    """An object in whose clean-up a signal arrives, where Python takes no exception."""

    def __init__(self, number):
        self.number = number

    def __del__(self):
        signal.raise_signal(self.number)


def in_cleaning_up(number):
    cleared = Cleared(number)
    del cleared
    for _ in range(100):
        time.sleep(0.01)
    raise AssertionError("the signal is lost")


@pytest.mark.skipif(sys.platform == "win32", reason="needs signals")
@pytest.mark.parametrize("stop", [signal.raise_signal, in_cleaning_up])
@pytest.mark.parametrize(
    ("name", "code", "word"),
    [
        ("SIGINT", 130, "interrupted"),
        ("SIGTERM", 143, "terminated"),
        ("SIGHUP", 129, "ended, as the terminal was closed"),
    ],
)
def test_a_signal_ends_a_command_with_its_code_and_one_line(
    file, tmp_path, monkeypatch, capsys, name, code, word, stop
):
    number = getattr(signal, name)
    handler = signal.signal(number, signal.SIG_DFL)  # nohup ignores SIGHUP, and so would the command
    try:
        monkeypatch.setattr(fitting, "write_results", lambda *_: stop(number))
        assert cli.main(["vae", str(file), "--out", str(tmp_path), *FIT]) == code
        assert capsys.readouterr().err.endswith(f"sc-vaenb: {word}\n")
        assert list(tmp_path.iterdir()) == []
        assert signal.getsignal(number) == signal.SIG_DFL
    finally:
        signal.signal(number, handler)
