"""docs/tasks.md: the code of the ten tasks runs, and has as many lines as its table says."""

import gzip
import re
import shlex
import sys
from pathlib import Path
from types import SimpleNamespace

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from scipy.io import mmwrite

import sc_vaenb
from sc_vaenb import cli
from sc_vaenb.tl import _counts, _graph

HEAD, *TASKS = (Path(__file__).parents[1] / "docs" / "tasks.md").read_text().split("\n## ")
BLOCKS = [re.findall(r"^```(?:python|bash)\n(.*?)^```$", task, re.MULTILINE | re.DOTALL) for task in TASKS]


def n_lines(code):
    """Lines of code; a line that is broken within brackets is one."""
    n, n_open = 0, 0
    for line in code.splitlines():
        n += n_open == 0 and bool(re.match(r"\s*(?!#|import |from )\S", line))
        n_open += len(re.findall(r"[(\[{]", line)) - len(re.findall(r"[)\]}]", line))
    return n


def test_the_table_counts_the_lines():
    rows = re.findall(r"^\| \d+ \| \[(.+)\]\(#.+\) \| (\d+) \| (\d+) \|", HEAD, re.MULTILINE)
    assert [row[0] for row in rows] == [task.splitlines()[0] for task in TASKS]
    counted = [tuple(map(n_lines, blocks)) for blocks in BLOCKS]
    counted[5] = (counted[5][0], counted[5][1] + 2)  # the script that calls fit.py
    assert [(int(here), int(there)) for _, here, there in rows] == counted


class Modalities(dict):
    """The part of a MuData that the task uses; mudata is not among what the tests install."""

    def write(self, path):
        for name, modality in self.items():
            modality.write_h5ad(f"{path}.{name}.h5ad")


@pytest.fixture
def adata(tmp_path, monkeypatch):
    """Cells with all columns of the page; fits are short, and a UMAP is the first two dimensions."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(_counts, "default_steps", lambda *_: 20)
    adata = sc_vaenb.datasets.demo()
    number = np.arange(adata.n_obs) % 6
    adata.obs["donor"] = pd.Categorical([f"d{i}" for i in number])
    adata.obs["condition"] = pd.Categorical(np.where(number < 3, "case", "control"))
    adata.obs["technology"] = adata.obs["batch"]
    return adata


def run(task, **names):
    """Run our code of a task; returns its names."""
    exec(BLOCKS[task - 1][0], names := {"sc": sc, "sc_vaenb": sc_vaenb} | names)
    return SimpleNamespace(**names)


@pytest.fixture
def fitted(adata):
    exec(re.search(r"^```python\n(.*?)^```$", HEAD, re.MULTILINE | re.DOTALL)[1], {"adata": adata})
    return adata


@pytest.mark.slow
def test_subset(fitted):
    t_cells = run(1, adata=fitted).t_cells
    assert set(t_cells.obs["cell_type"].str[:3]) == {"CD4"}
    assert t_cells.obsm["X_vae"].shape == (t_cells.n_obs, 30)
    assert t_cells.uns["vae"]["model"] is not fitted.uns["vae"]["model"]


@pytest.mark.slow
def test_add_a_batch(adata):
    isnew = adata.obs["batch"] == "chip C"
    new, reference = adata[isnew].copy(), adata[~isnew].copy()
    del new.obs["cell_type"]
    sc_vaenb.pp.prepare(reference, batch_key="batch")
    sc_vaenb.tl.cvae(reference, "batch")
    names = run(2, adata=reference, new=new)
    assert set(new.obs["cell_type_predicted"]) <= set(reference.obs["cell_type"])
    assert names.joined.obsm["X_vae"].shape == (adata.n_obs, 30)
    assert "model" in names.joined.uns["vae"]


@pytest.mark.slow
def test_case_and_control(adata):
    genes = run(3, adata=adata).genes
    assert {"names", "logfoldchanges"} <= set(genes)
    assert len(genes) > 100


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The set_bad function:PendingDeprecationWarning")  # of scanpy, with new matplotlib
def test_denoised_genes(fitted):
    run(4, adata=fitted)
    assert (fitted.layers["corrected"] > 0).all()
    titles = [ax.get_title() for ax in plt.gcf().axes if ax.collections]
    assert titles[:3] == [f"UMAP of X_vae · {gene}" for gene in ("CD3D", "CD79A", "LYZ")]
    plt.close("all")


@pytest.mark.slow
def test_save_load_share(fitted):
    other = sc_vaenb.datasets.demo()
    names = run(5, adata=fitted, other=other)
    np.testing.assert_allclose(names.again.obsm["X_vae"], fitted.obsm["X_vae"])
    np.testing.assert_allclose(other.obsm["X_vae"], fitted.obsm["X_vae"], atol=1e-5)


@pytest.mark.slow
def test_proteins(adata, monkeypatch):
    counts = pd.DataFrame(np.random.default_rng(0).poisson(5, (adata.n_obs, 3)), adata.obs_names, ["CD3", "CD4", "CD8"])
    mdata = Modalities(rna=adata, prot=ad.AnnData(counts.astype(np.float32)))
    monkeypatch.setitem(sys.modules, "mudata", SimpleNamespace(read=lambda _: mdata))
    run(7)
    assert np.isfinite(sc.read_h5ad("fitted.h5mu.prot.h5ad").layers["denoised"]).all()
    assert "X_vae" in sc.read_h5ad("fitted.h5mu.rna.h5ad").obsm


@pytest.mark.slow
def test_two_keys(adata):
    run(8, adata=adata)
    assert list(adata.uns["vae"]["params"]["batch_key"]) == ["donor", "technology"]


@pytest.mark.slow
def test_cellxgene(adata):
    run(9, adata=adata)
    cells = sc.read_h5ad("cells.h5ad")
    assert cells.X.max() < np.log1p(1e4)
    assert {"X_vae", "X_umap"} <= set(cells.obsm)
    assert np.isfinite(cells.obsm["X_umap"]).all()
    assert "leiden" in cells.obs


@pytest.mark.slow
def test_from_a_10x_folder(adata, monkeypatch):
    def plane(adata, *, neighbors_key, key_added, **_):
        adata.obsm[key_added] = adata.obsm["X_" + neighbors_key.removeprefix("neighbors_")][:, :2].copy()

    monkeypatch.setattr(_graph.sc.tl, "umap", plane)
    folder = Path("filtered_feature_bc_matrix")
    folder.mkdir()
    with gzip.open(folder / "matrix.mtx.gz", "wb") as file:
        mmwrite(file, adata.X.T.astype(int))
    with gzip.open(folder / "features.tsv.gz", "wt") as file:
        file.writelines(f"id_{gene}\t{gene}\tGene Expression\n" for gene in adata.var_names)
    with gzip.open(folder / "barcodes.tsv.gz", "wt") as file:
        file.writelines(f"{cell}\n" for cell in adata.obs_names)
    adata.obs[["donor", "cell_type"]].to_csv("metadata.csv")
    command, *typed = shlex.split(BLOCKS[9][0])
    assert command == "sc-vaenb"
    assert cli.main(typed) == 0
    (path,) = Path("results").glob("CVAE_NB_*/CVAE_NB.h5ad")
    assert list(sc.read_h5ad(path).obs["donor"]) == list(adata.obs["donor"])
