"""`--backed`: counts that stay in the file of the command."""

import argparse
import json
import os

import anndata as ad
import numpy as np
import pytest

import sc_vaenb
from sc_vaenb import _adata, cli
from sc_vaenb.cli import _fit, _read, _write
from sc_vaenb.cli._inputs import Input

pytestmark = pytest.mark.slow

QUICK = ["--n-latent", "4", "--hidden", "16", "--quiet"]


@pytest.fixture
def in_memory(file, quick):
    """The embedding of the counts in memory."""
    adata = ad.read_h5ad(file)
    sc_vaenb.pp.prepare(adata, "batch")
    sc_vaenb.tl.cvae(adata, "batch", n_latent=4, hidden=(16,))
    return adata.obsm["X_vae"]


@pytest.fixture
def never_whole(monkeypatch):
    monkeypatch.setattr(_adata, "read_matrix", lambda *args: pytest.fail("read all counts into memory"))


def as_it_is(adata):
    """Counts in a layer."""


def counts_in_x(adata):
    adata.X = adata.layers.pop("umi").toarray()


def counts_in_raw(adata):
    adata.raw = ad.AnnData(adata.layers.pop("umi"), obs=adata.obs, var=adata.var[[]])


@pytest.mark.parametrize(
    ("ending", "move", "source"),
    [
        (".h5ad", as_it_is, "layers['umi']"),
        (".zarr", as_it_is, "layers['umi']"),
        (".h5ad", counts_in_x, "X"),
        (".zarr", counts_in_raw, "layers['raw']"),
    ],
)
def test_the_result_is_the_one_in_memory_without_the_matrices(
    file, in_memory, tmp_path, capsys, request, ending, move, source
):
    adata, path = ad.read_h5ad(file), tmp_path / f"data{ending}"
    adata.obsm["X_other"] = np.arange(300.0).reshape(-1, 1)
    move(adata)
    _write.write_adata(adata, path)
    before = contents_of(path)
    request.getfixturevalue("never_whole")
    assert cli.main(["cvae", str(path), "--out", str(tmp_path / "out"), "--backed", "--resume", *QUICK[:-1]]) == 0
    assert contents_of(path) == before
    assert f"X and layers stay in {path}: CVAE_NB.h5ad holds everything else\n" in capsys.readouterr().out
    (folder,) = (tmp_path / "out").iterdir()
    np.testing.assert_array_equal(np.load(folder / "latents.npy"), in_memory)
    assert (folder / "metrics.csv").exists()
    found = ad.read_h5ad(folder / "CVAE_NB.h5ad")
    assert found.X is None
    assert not _adata.keys(found.layers)
    assert found.uns["prepare"]["source"] == source
    assert {"leiden_cvae", "size_factor", "batch"} <= set(found.obs)
    assert {"X_cvae", "X_umap_cvae", "X_other"} == set(found.obsm)

    there = _read.read(path, backed=True)  # the model of the results, and the counts where they are
    there.uns["cvae"] = found.uns["cvae"]
    sc_vaenb.tl.embed(there, "cvae", device="cpu")
    np.testing.assert_array_equal(there.obsm["X_cvae"], in_memory)


def contents_of(path):
    files = [path] if path.is_file() else sorted(part for part in path.rglob("*") if part.is_file())
    return [part.read_bytes() for part in files]


@pytest.mark.usefixtures("quick")
def test_counts_by_genes_are_read_and_kept_as_ever(simulated, tmp_path):
    adata = ad.AnnData(simulated.X.tocsc(), obs=simulated.obs[["batch"]], var=simulated.var[[]])
    adata.write_h5ad(tmp_path / "a.h5ad")
    assert cli.main(["cvae", str(tmp_path / "a.h5ad"), "--out", str(tmp_path / "out"), "--backed", *QUICK]) == 0
    (folder,) = (tmp_path / "out").iterdir()
    found = ad.read_h5ad(folder / "CVAE_NB.h5ad")
    np.testing.assert_array_equal(found.layers["counts"].toarray(), simulated.X.toarray())
    assert found.X is None
    assert json.loads((folder / "params.json").read_text())["params"]["layer"] == "counts"


def test_raw_of_other_genes_is_left_out(adata, tmp_path):
    adata.raw = adata.copy()
    adata[:, :50].copy().write_h5ad(tmp_path / "a.h5ad")
    assert _adata.keys(_read.read(tmp_path / "a.h5ad", backed=True).layers) == ["counts"]


def test_what_cannot_stay_on_disk_is_refused(file, tmp_path, refuses):
    out = ["--out", tmp_path / "out", "--backed"]
    text = "compare computes PCA, which needs all counts in memory. --backed goes with vae and cvae."
    refuses("compare", file, *out, text=text)
    text = "--backed leaves counts in their place, and --counts puts them in another order. Give one."
    refuses("--adata", file, "--counts", file, "cvae", *out, text=text)
    (tmp_path / "a.h5").touch()
    refuses("cvae", tmp_path / "a.h5", *out, text="--backed takes .h5ad or .zarr, and ")
    (tmp_path / "cut.h5ad").write_bytes(file.read_bytes()[:5000])
    refuses("cvae", tmp_path / "cut.h5ad", *out, text="cut.h5ad cannot be read; it may be damaged or incomplete (")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("ending", [".h5ad", ".zarr"])
def test_a_file_larger_than_the_memory_is_told(adata, tmp_path, monkeypatch, ending):
    path = tmp_path / f"a{ending}"
    _write.write_adata(adata, path)
    assert _read.beyond_memory(path) is None
    need = 2 * (adata.X.data.nbytes + adata.X.indices.nbytes + adata.X.indptr.nbytes)
    monkeypatch.setattr(os, "sysconf", lambda name: {"SC_PHYS_PAGES": need - 1, "SC_PAGE_SIZE": 1}[name])
    assert _read.beyond_memory(path) == (need, need - 1)
    assert _read.beyond_memory(tmp_path / f"none{ending}") is None
    assert _read.beyond_memory(tmp_path) is None


def test_the_advice_is_given_where_it_helps(file, monkeypatch, log):
    monkeypatch.setattr(_fit, "beyond_memory", lambda path: (3 * 2**30, 2**30))
    said = f"{file} needs at least 3.0 GiB of memory, and this machine has 1.0 GiB. If it runs out, leave the counts"
    for backed in (True, False):
        options = argparse.Namespace(inputs=[Input(file)], obs=None, counts=None, backed=backed, quiet=True)
        assert _fit.read_input(options).n_obs == 300
        assert log.getvalue().count(said) == (not backed)


def test_what_is_on_disk_needs_no_room(file, monkeypatch, tmp_path):
    there = _read.read(file, backed=True)
    monkeypatch.setattr(_write, "SPACE", 0)
    monkeypatch.setattr(_write, "SPACE_PER_CELL", 1)
    monkeypatch.setattr(_write.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 300}))
    _write.check_space(there, tmp_path)
    with pytest.raises(OSError, match="the results need about"):
        _write.check_space(there.to_memory(), tmp_path)
