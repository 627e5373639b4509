"""The notebooks run from top to bottom, show what their text says, and are committed with these outputs."""

from __future__ import annotations

import json
import re
import runpy
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode

FOLDER = Path(__file__).parents[2] / "notebooks"
PATHS = sorted(FOLDER.glob("*.ipynb"))
code_hash = runpy.run_path(str(FOLDER / "run.py"))["code_hash"]
OF_A_MACHINE = re.compile(r"/(?:home|Users|root|tmp|usr|opt|mnt|private)/|[A-Z]:\\|site-packages|\d:\d\d:\d\d")


@pytest.fixture(autouse=True)
def no_warning_about_widgets(monkeypatch):
    """Progress bars are not stored, and need not be nice."""
    monkeypatch.setenv("PYTHONWARNINGS", "ignore:IProgress not found")


PROBES = {  # appended to a notebook: what its text relies on, as JSON
    "chromatin": """
import json
result = {"table": table.to_dict("index"), "fits": fits.to_dict("index"), "correlation": correlation}
print(json.dumps(result, default=float))
""",
    "compare": """
import json
record = adata.uns["compare"]
print(json.dumps({"values": record["scores"]["values"].to_dict("index"), "verdict": record["verdict"]}))
""",
    "donors_case_control": """
import json
print(json.dumps({"keeps": keeps.to_dict("index"), "table": table.fillna(0).to_dict("index")}))
""",
    "from_scvi": """
import json
layers = {name: shown.layers[name][:, shown.var_names.get_loc("FCER1G")] for name in ("normalized", "corrected")}
of = (shown.obs["cell_type"] == "CD14+ Monocyte").to_numpy()
chips = {
    name: pd.Series(values[of]).groupby(shown.obs["batch"].to_numpy()[of]).mean().to_dict()
    for name, values in layers.items()
}
top = {group: sc.get.rank_genes_groups_df(adata, group, key="differential")["names"][:4].tolist() for group in groups}
print(json.dumps({
    "mixing": mixing.to_dict("index"),
    "chips": chips,
    "top": top,
    "mapped": mapped.to_dict(),
    "difference": float(difference),
    "verdict": adata.uns["vae"]["verdict"],
}, default=float))
""",
    "generate_and_map": """
import json
sc_vaenb.tl.normalized(fresh)
again = np.abs(fresh.layers["normalized"] - adata[fresh.obs_names].layers["normalized"]).max()
check = adata.uns["posterior_check"]
tables = {"marker": marker, "tests": tests, "looks": looks, "way": way, "mapped": mapped, "novel": novel}
tables |= {"likelihoods": check["likelihoods"], "cells": check["cells"]}
result = {name: table.to_dict("index") for name, table in tables.items()}
result |= {"kept": kept["FCER1G"].to_dict(), "spread": {name: float(value) for name, value in spread.items()}}
result |= {"ratio": ratio.to_dict(), "n_alike": int((~differs).sum()), "excess": float(mixing.excess)}
path = adata.uns["interpolation"]["expression"]
result |= {"ends": path.iloc[:, [0, -1]].set_axis(["start", "end"], axis=1).to_dict("index")}
result |= {"accuracy": accuracy, "share_t": float(t_cells[wrong].mean())}
result |= {"difference": float(difference), "again": float(again), "verdict": adata.uns["vae"]["verdict"]}
result |= {"zeros": float((counts == 0).mean()), "depth": float(counts.sum(axis=1).mean())}
print(json.dumps(result, default=lambda value: value.item()))
""",
    "interpret_and_trajectories": """
import json
about, association = (adata.uns["vae_factors"][name] for name in ("dimensions", "association"))
first = int(about.index[0].removeprefix("z"))
states = pd.Series(adata.obsm["X_vae_factors"][:, first]).groupby(adata.obs["cell_type"].to_numpy()).median()
tree = np.argwhere(graphs["X_vae"].uns["paga"]["connectivities_tree"].toarray())
place = graphs["X_vae"].obs.groupby("leiden", observed=True)["position"].mean().to_numpy()
print(json.dumps({
    "first": about.iloc[0].to_dict(),
    "associated": association.drop(columns="measure").T.to_dict("list"),
    "states": states.to_dict(),
    "markers": markers["rank"].droplevel("group").to_dict(),
    "fcgr3a": markers.loc[("CD14+ Monocyte", "FCGR3A")].to_dict(),
    "b_cells": b_cells.nlargest(12, "value").T.to_dict(),
    "found": found.T.to_dict("list"),
    "price": price.to_dict("list"),
    "order": order.T.to_dict("list"),
    "joined": np.abs(place[tree[:, 0]] - place[tree[:, 1]]).max(),
    "agree": agree,
    "distances": {
        key: np.corrcoef(between_types("X_pca"), between_types(key))[0, 1] for key in ("X_vae_factors", "X_vae")
    },
}, default=float))
""",
    "tissue": """
import json
print(json.dumps(table.to_dict("index")))
""",
    "quickstart": """
import json
verdict = adata.uns["cvae"]["verdict"]
print(json.dumps({"table": table.to_dict("index"), "difference": float(difference), "verdict": verdict}))
""",
}


def read(path: Path) -> NotebookNode:
    return nbformat.read(path, as_version=4)


def run(path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> NotebookNode:
    """The notebook with its outputs and those of its probe, run in `folder / "work"`; a cell that fails raises."""
    # a kernel of this very interpreter, whatever kernels are registered on the machine, and nothing of the user's
    spec, work = folder / "kernels" / "of-the-tests", folder / "work"
    spec.mkdir(parents=True)
    work.mkdir()
    argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (spec / "kernel.json").write_text(json.dumps({"argv": argv, "display_name": "tests", "language": "python"}))
    monkeypatch.setenv("JUPYTER_PATH", str(folder))
    for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(folder / name.lower()))
    for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"):  # numba, in scanpy, would raise torch's threads again
        monkeypatch.setenv(name, "1")
    monkeypatch.delenv("MPLBACKEND", raising=False)

    notebook = read(path)
    notebook.cells.append(nbformat.v4.new_code_cell(PROBES[path.stem], id="probe"))
    resources = {"metadata": {"path": str(work)}}
    client = NotebookClient(notebook, kernel_name=spec.name, timeout=900, resources=resources, coalesce_streams=True)
    client.execute()
    assert figures(notebook) == figures(read(path)), "run notebooks/run.py: other figures are stored"
    return notebook


def figures(notebook: NotebookNode) -> list[str]:
    """The cells that show one, once for each."""
    return [cell.id for cell in notebook.cells for out in cell.get("outputs", []) if "image/png" in out.get("data", {})]


def streams(notebook: NotebookNode, name: str) -> dict[str, str]:
    """What each cell printed to a stream; cells that printed nothing are left out."""
    texts = {
        cell.id: "".join(out.text for out in cell.outputs if out.output_type == "stream" and out.name == name)
        for cell in notebook.cells
        if cell.cell_type == "code"
    }
    return {cell: text for cell, text in texts.items() if text}


def test_every_notebook_is_tested() -> None:
    assert [path.stem for path in PATHS] == sorted(PROBES)


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_outputs_are_stored(path: Path) -> None:
    notebook = read(path)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    assert notebook.metadata.code_sha256 == code_hash(notebook), f"outputs of other code: run {FOLDER.name}/run.py"
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert len(figures(notebook)) >= 2
    assert path.stat().st_size < 600_000

    text = json.dumps(
        [{**out, "data": {**out.get("data", {}), "image/png": ""}} for cell in code for out in cell.outputs]
    )
    assert not re.search("Traceback|Warning|stderr", text)
    assert not OF_A_MACHINE.search(text), "paths or times"


@pytest.mark.slow
def test_quickstart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = run(FOLDER / "quickstart.ipynb", tmp_path, monkeypatch)

    assert figures(notebook) == ["mean-variance", "history", "umap"]
    # warnings would stand there; the progress bars of the fits may, and what tqdm says where ipywidgets are missing
    errors = streams(notebook, "stderr")
    assert set(errors) <= {"vae", "cvae", "downstream"}
    assert "Warning" not in errors.get("downstream", "").replace("TqdmWarning: IProgress not found", "")

    printed = streams(notebook, "stdout")
    for method, goal in {"vae": "", "cvae": " of 3 batches"}.items():
        assert f"fitting {method} to 700 cells x 765 genes{goal} on" in printed[method]
        assert f"'X_{method}', the embedding (adata.obsm)" in printed[method]

    result = json.loads(printed["probe"])
    assert result["verdict"]["status"] in {"converged", "stopped_early"}
    assert not result["verdict"]["posterior_collapse"]
    assert result["difference"] < 1e-5
    table = result["table"]
    assert list(table) == ["pca", "vae", "cvae"]
    # batches keep together with PCA and VAE, CVAE is close to perfect mixing, and clusters match types about as well
    assert table["pca"]["excess"] > 0.2
    assert table["vae"]["excess"] > 0.1
    assert abs(table["cvae"]["excess"]) < 0.1
    assert min(row["NMI"] for row in table.values()) > 0.5
    assert abs(table["cvae"]["NMI"] - table["pca"]["NMI"]) < 0.1
    (written,) = (tmp_path / "work").iterdir()
    assert written.name == "quickstart.h5ad"


@pytest.mark.slow
def test_compare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = run(FOLDER / "compare.ipynb", tmp_path, monkeypatch)

    assert figures(notebook) == ["plot-scores", "plot-umaps"]
    assert set(streams(notebook, "stderr")) <= {"run"}  # progress bars
    printed = streams(notebook, "stdout")
    assert printed["print-verdict"].startswith("Best: ")
    assert "failed" not in printed.get("run", "")

    values = json.loads(printed["probe"])["values"]
    assert list(values) == ["X_pca", "X_pca_harmony", "X_vae", "X_vae_seed1", "X_cvae", "X_cvae_seed1"]
    # what knows the batches mixes them, what does not does not, and types are kept by all
    for key in ("X_pca", "X_vae"):
        assert values[key]["batch_scib"] < 0.65
    for key in ("X_pca_harmony", "X_cvae", "X_cvae_seed1"):
        assert values[key]["batch_scib"] > values["X_pca"]["batch_scib"] + 0.2
        assert values[key]["batch"] > values["X_pca"]["batch"] + 0.05
        assert values[key]["bio"] > values["X_pca"]["bio"] - 0.05
    assert not list((tmp_path / "work").iterdir())


@pytest.mark.slow
def test_from_scvi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = run(FOLDER / "from_scvi.ipynb", tmp_path, monkeypatch)

    assert figures(notebook) == ["history", "latent", "expression", "expression", "differential", "map"]
    assert "Warning" not in "".join(streams(notebook, "stderr").values())
    result = json.loads(streams(notebook, "stdout")["probe"])
    assert result["verdict"]["status"] in {"converged", "stopped_early"}
    assert result["mixing"]["X_pca"]["excess"] > 0.2
    assert abs(result["mixing"]["X_vae"]["excess"]) < 0.1
    spread = {name: max(mean.values()) / min(mean.values()) for name, mean in result["chips"].items()}
    assert spread["normalized"] > 1.3
    assert spread["corrected"] < 1.15
    assert {"CD79A", "CD79B"} & set(result["top"]["CD19+ B"])
    assert {"NKG7", "GNLY", "GZMB"} & set(result["top"]["CD56+ NK"])
    assert result["mapped"]["right"] > 0.5
    assert result["mapped"]["confidence where right"] > result["mapped"]["confidence where wrong"] + 0.1
    assert result["difference"] < 1e-5
    assert sorted(path.name for path in (tmp_path / "work").iterdir()) == ["cells.h5ad", "model.safetensors"]


@pytest.mark.slow
def test_donors_case_control(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = run(FOLDER / "donors_case_control.ipynb", tmp_path, monkeypatch)

    assert figures(notebook) == ["umap", "figure"]
    assert "Warning" not in "".join(streams(notebook, "stderr").values())
    printed = streams(notebook, "stdout")
    assert "use tl.differential(sample_key='donor')" in printed["design"]
    result = json.loads(printed["probe"])

    # the VAE keeps disease and donors, the CVAE neither, the CVAE with controls the disease only
    vae, cvae, controls = result["keeps"].values()
    assert vae["own donor"] > 0.3
    assert max(cvae["own donor"], controls["own donor"]) < 0.25
    assert min(vae["condition told, monocytes"], controls["condition told, monocytes"]) > 0.58
    assert cvae["condition told, monocytes"] < 0.5
    assert all(row["condition told, other types"] < 0.55 for row in (vae, cvae, controls))

    # cells as replicates: as many wrong genes as right ones, also in types that are the same in all donors
    wrong = {
        name: {kind: n for kind, n in row.items() if kind.startswith("wrong")} for name, row in result["table"].items()
    }
    assert min(wrong["Wilcoxon, cells"].values()) > 20
    assert sum(wrong["differential, cells"].values()) > 30
    for name in ("differential, donors", "t-test, pseudobulk"):
        assert result["table"][name]["right, of 40"] >= 25
        assert sum(wrong[name].values()) <= 6
    assert not list((tmp_path / "work").iterdir())


@pytest.mark.slow
def test_generate_and_map(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = run(FOLDER / "generate_and_map.ipynb", tmp_path, monkeypatch)

    assert figures(notebook) == ["folds", "sample-mixing", "plot-check", "interpolate"]
    # progress bars, and what tqdm says where ipywidgets are missing
    errors = streams(notebook, "stderr")
    assert set(errors) <= {"fit", "expression", "tests", "check", "map", "novel", "probe"}
    assert "Warning" not in "".join(errors.values()).replace("TqdmWarning: IProgress not found", "")
    printed = streams(notebook, "stdout")
    assert "zero inflation is not needed" in printed["check"]
    result = json.loads(printed["probe"])
    assert result["verdict"]["status"] in {"converged", "stopped_early"}

    # normalized keeps the batch effect, corrected takes it out; few genes are far off
    marker = result["marker"]
    assert min(result["kept"], key=result["kept"].get) == "chip B"
    for name in ("counted", "normalized"):
        assert min(marker[name], key=marker[name].get) == "chip B"
        assert max(marker[name].values()) > 1.25 * min(marker[name].values())
    assert max(marker["corrected"].values()) < 1.2 * min(marker["corrected"].values())
    assert result["spread"]["normalized"] > 0.4
    assert result["spread"]["corrected"] < 0.15
    ratio = sorted(result["ratio"].values())
    assert 0.9 < ratio[len(ratio) // 2] < 1.1
    assert ratio[-1] > 1.3
    tests = result["tests"]
    assert tests["on denoised"]["wrong"] > result["n_alike"] / 2
    for name in ("on counts", "differential"):
        assert tests[name]["wrong"] < 0.15 * tests[name]["right"]

    # drawn cells: right in depth, genes and variance, mixed but not perfectly
    real, drawn = result["looks"]["real"], result["looks"]["drawn"]
    assert abs(drawn["depth"] / real["depth"] - 1) < 0.05
    assert 0.95 < drawn["detected genes"] / real["detected genes"] < 1.05
    assert 0.9 < drawn["variance of a gene"] / real["variance of a gene"] < 1.15
    assert abs(result["excess"]) < 0.1
    assert 0.75 < result["zeros"] < 0.8
    assert 300 < result["depth"] < 380
    likelihoods = result["likelihoods"]
    assert abs(likelihoods["zinb"]["difference"]) < 2.2  # of 460 nats
    assert -20 < likelihoods["poisson"]["difference"] < -2
    assert abs(likelihoods["nb"]["zeros"] - result["zeros"]) < 0.02
    below = [row["detected_replicates"] < row["detected"] for row in result["cells"].values()]
    assert 0.3 < sum(below) / len(below) < 0.95

    ends, way = result["ends"], result["way"]
    assert all(ends[gene]["start"] > 1.5 * ends[gene]["end"] for gene in ("CCR7", "IL7R", "CD27"))
    assert all(ends[gene]["end"] > 3 * ends[gene]["start"] for gene in ("GZMB", "GNLY", "GZMH"))
    assert max(way["first"], key=way["first"].get) == "CD8+/CD45RA+ Naive Cytotoxic"
    assert way["middle"]["CD8+ Cytotoxic T"] >= 3
    assert max(way["last"], key=way["last"].get) == "CD56+ NK"

    # labels but those of T cells arrive, and uncertainty finds the errors; novelty finds one of two missing types
    mapped, accuracy, novel = result["mapped"], result["accuracy"], result["novel"]
    assert accuracy["right, of all but T cells"] > 0.8
    assert result["share_t"] > 0.5
    assert accuracy["uncertainty where wrong"] > 1.5 * accuracy["uncertainty where right"]
    assert all(mapped[name]["right"] >= 0.6 for name in ("CD19+ B", "CD14+ Monocyte", "Dendritic", "CD56+ NK"))
    assert all(0.8 < row["novelty"] < 1.2 for row in mapped.values() if row["cells"] > 3)
    lacking = {name: novel.pop(name) for name in ("CD19+ B", "CD56+ NK")}
    most = max(row["novelty"] for row in novel.values())
    t_cells = [row["uncertainty"] for name, row in novel.items() if name.startswith(("CD4+", "CD8+"))]
    assert lacking["CD19+ B"]["novelty"] > most
    assert lacking["CD19+ B"]["uncertainty"] < 1.2 * sum(t_cells) / len(t_cells)
    assert lacking["CD56+ NK"]["mostly called"] == "CD8+ Cytotoxic T"
    assert lacking["CD56+ NK"]["novelty"] < most + 0.05
    assert lacking["CD56+ NK"]["uncertainty"] < min(t_cells)

    assert result["difference"] < 1e-5
    assert result["again"] < 0.05  # of 10,000
    (written,) = (tmp_path / "work").iterdir()
    assert written.name == "model.safetensors"


@pytest.mark.slow
def test_interpret_and_trajectories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = run(FOLDER / "interpret_and_trajectories.ipynb", tmp_path, monkeypatch)

    assert figures(notebook) == ["factors", "latent", "distances", "loadings", "paga", "genes"]
    errors = streams(notebook, "stderr")  # progress bars
    assert set(errors) <= {"fit", "importance", "truth", "linear", "order", "genes"}
    assert "Warning" not in "".join(errors.values()).replace("TqdmWarning: IProgress not found", "")
    printed = streams(notebook, "stdout")
    assert printed["linear"] == "weights\n"
    result = json.loads(printed["probe"])

    # myeloid cells and their genes at one end of the first dimension, which is not about the batches
    genes = [set(result["first"][end].split(", ")) for end in ("up", "down")]
    (myeloid,) = (end for end in (0, 1) if {"LYZ", "CST3"} <= genes[end])
    assert {"IL32", "LTB", "PTPRCAP", "CD3D"} & genes[1 - myeloid]
    outermost = sorted(result["states"], key=result["states"].get, reverse=myeloid == 0)[:2]
    assert set(outermost) == {"Dendritic", "CD14+ Monocyte"}
    associated = result["associated"]
    assert max(associated["batch"]) < 0.1
    assert associated["cell_type"][0] > 0.4
    assert abs(associated["n_molecules"][0]) > 0.3

    # types are as far from each other as in PCA
    assert result["distances"]["X_vae"] > max(0.93, result["distances"]["X_vae_factors"] + 0.05)

    # known markers stand high, that of other monocytes far above S100A9
    ranks = result["markers"]
    assert ranks.pop("S100A9") > ranks["FCGR3A"] + 5
    assert max(ranks.values()) < 40
    assert sorted(ranks.values())[len(ranks) // 2] <= 5
    assert result["fcgr3a"]["pct_nz_group"] > 0.8
    # the model reads markers of B cells, and what B cells lack
    assert next(iter(result["b_cells"])) in {"CD79A", "CD79B", "MS4A1"}
    assert result["b_cells"]["LYZ"]["change"] < 0
    # markers known: only the comparison within batches finds nearly all of every type
    found = result["found"]
    assert min(found["tl.differential"]) > 0.85
    for name in ("tl.importance", "difference of means", "Wilcoxon, all batches as one"):
        assert max(found[name][0], found[name][2]) < 0.8
    assert abs(sum(found["tl.importance"]) - sum(found["difference of means"])) < 0.4

    (deep, linear), (deep_batch, linear_batch), (deep_loss, linear_loss) = zip(*result["price"].values(), strict=True)
    assert linear > 0.999
    assert deep < 0.95
    assert linear_batch > deep_batch + 0.03
    assert abs(linear_loss - deep_loss) < 0.05 * deep_loss

    spearman, _, of_one_batch = zip(*result["order"].values(), strict=True)
    assert spearman[0] < 0.85
    assert min(spearman[1:]) > 0.9
    assert spearman[2] > 0.95
    assert of_one_batch[0] >= 6
    assert of_one_batch[2] == 0
    assert result["joined"] < 0.8
    counts, normalized, corrected = result["agree"].values()
    assert counts + 0.2 < normalized < corrected - 0.03
    assert not list((tmp_path / "work").iterdir())


@pytest.mark.slow
def test_tissue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = run(FOLDER / "tissue.ipynb", tmp_path, monkeypatch)

    assert figures(notebook) == ["data", "data", "types", "domains", "domains"]
    table = json.loads(streams(notebook, "stdout")["probe"])
    # clusters of single cells are types, those of the surroundings are domains
    assert table["single cells"]["true_domain"] < 0.2 < 0.4 < table["single cells"]["cell_type"]
    assert table["surroundings"]["cell_type"] < 0.2 < 0.7 < table["surroundings"]["true_domain"]


@pytest.mark.slow
def test_chromatin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = run(FOLDER / "chromatin.ipynb", tmp_path, monkeypatch)

    assert figures(notebook) == ["umap", "correlation"]
    result = json.loads(streams(notebook, "stdout")["probe"])
    # genes do not tell primed progenitors from others, and genes and peaks do
    assert result["table"]["primed progenitor"]["X_genes"] < 0.6
    assert result["table"]["primed progenitor"]["X_both"] > 0.9
    assert result["correlation"] > 0.85
    fits = result["fits"]
    assert fits["red"]["red"] > 0.95 > 0.92 > fits["red"]["white"]
    assert fits["white"]["white"] > 0.95 > 0.92 > fits["white"]["red"]
