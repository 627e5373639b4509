"""tl.vae, tl.cvae and tl.embed on counts that stay on disk."""

import os
import subprocess
import sys
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pytest
import zarr
from anndata.io import sparse_dataset, write_elem
from scipy import sparse as sp

import sc_vaenb
from sc_vaenb import _adata, tl
from sc_vaenb.data import on_disk as stored


@pytest.fixture
def opened(tmp_path):
    """A function that gives an AnnData whose counts are in a file: X of a backed one, or a layer."""
    close = []

    def open_(adata, kind):
        if kind.startswith("backed"):
            adata.write_h5ad(tmp_path / "a.h5ad")
            found = ad.read_h5ad(tmp_path / "a.h5ad", backed=kind.split()[1])
            close.append(found.file)
            return found
        if kind == "zarr":
            group = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=2)
        else:
            group = h5py.File(tmp_path / "a.h5", "w")
            close.append(group)
        write_elem(group, "counts", sp.csr_matrix(adata.X))
        return ad.AnnData(obs=adata.obs, var=adata.var, layers={"counts": sparse_dataset(group["counts"])})

    yield open_
    for file in close:
        file.close()


@pytest.fixture
def never_whole(monkeypatch):
    monkeypatch.setattr(_adata, "read_matrix", lambda *args: pytest.fail("read all counts into memory"))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["backed r", "backed r+", "zarr", "layer"])
def test_the_fit_is_the_one_in_memory(adata, fast, opened, kind, request):
    adata.X = adata.X.toarray() if kind == "backed r+" else adata.X
    expected = tl.cvae(adata, "batch", copy=True, **fast)
    request.getfixturevalue("never_whole")
    there = opened(adata, kind)
    tl.cvae(there, "batch", layer=None if kind.startswith("backed") else "counts", **fast)
    np.testing.assert_array_equal(there.obsm["X_vae"], expected.obsm["X_vae"])
    for name, weights in expected.uns["vae"]["model"]["weights"].items():
        np.testing.assert_array_equal(there.uns["vae"]["model"]["weights"][name], weights)
    tl.embed(there, key_added="again", device="cpu")
    np.testing.assert_array_equal(there.obsm["X_again"], expected.obsm["X_vae"])


REOPENED = """
import anndata as ad, numpy as np, sc_vaenb
adata, fitted = ad.read_h5ad("a.h5ad", backed="r"), ad.read_h5ad("fitted.h5ad")
adata.uns["vae"] = fitted.uns["vae"]
sc_vaenb.tl.embed(adata, device="cpu")
np.testing.assert_array_equal(adata.obsm["X_vae"], fitted.obsm["X_vae"])
"""


@pytest.mark.slow
def test_the_result_goes_into_a_file_of_its_own(adata, fast, opened, tmp_path):
    """As docs/scaling.md says: the file with the counts stays what it was, and a new process goes on from both."""
    there = opened(adata, "backed r")
    before = (tmp_path / "a.h5ad").read_bytes()
    tl.cvae(there, "batch", layer=None, **fast)
    fitted = ad.AnnData(obs=there.obs, var=there.var, obsm=dict(there.obsm), uns=dict(there.uns))
    fitted.write_h5ad(tmp_path / "fitted.h5ad")
    assert (tmp_path / "a.h5ad").read_bytes() == before
    path = os.pathsep.join([str(Path(sc_vaenb.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", "PYTHONPATH": path}
    done = subprocess.run(
        [sys.executable, "-c", REOPENED], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_anndata_writes_the_result_into_the_file_and_leaves_x(adata, fast, opened, tmp_path):
    there = opened(adata, "backed r+")
    tl.cvae(there, "batch", layer=None, **fast)
    embedding = there.obsm["X_vae"]
    there.write()
    there.file.close()
    found = ad.read_h5ad(tmp_path / "a.h5ad")
    np.testing.assert_array_equal(found.X.toarray(), adata.X.toarray())
    np.testing.assert_array_equal(found.obsm["X_vae"], embedding)
    tl.embed(found, device="cpu")
    np.testing.assert_array_equal(found.obsm["X_vae"], embedding)


@pytest.mark.slow
def test_many_cells_of_many_batches(opened, fast, request):
    adata = sc_vaenb.datasets.simulate(9000, 50, n_types=3, n_batches=5, mean_depth=100, rng=0)
    adata.var["highly_variable"] = np.arange(50) % 5 > 0
    expected = tl.cvae(adata, "batch", layer=None, copy=True, **fast)
    request.getfixturevalue("never_whole")
    there = opened(adata, "zarr")
    tl.cvae(there, "batch", **fast)
    np.testing.assert_array_equal(there.obsm["X_vae"], expected.obsm["X_vae"])


def test_silent_genes_and_a_column_of_size_factors(adata, fast, opened, log):
    adata.X = adata.X.multiply(np.arange(100) != 3).tocsr()
    adata.layers["counts"] = adata.X.copy()
    adata.obs["sf"] = np.linspace(1, 2, adata.n_obs)
    expected = tl.vae(adata, size_factor="sf", copy=True, **fast)
    there = opened(adata, "zarr")
    log.truncate(0)
    tl.vae(there, size_factor="sf", **fast)
    assert "1 of 100 genes have no counts in these cells (first: 'gene_3')" in log.getvalue()
    np.testing.assert_array_equal(there.obsm["X_vae"], expected.obsm["X_vae"])
    tl.embed(there, key_added="again", device="cpu")
    np.testing.assert_array_equal(there.obsm["X_again"], expected.obsm["X_vae"])


def test_genes_in_another_order_are_embedded_alike(fitted, opened):
    moved = fitted[:, np.random.default_rng(0).permutation(fitted.n_vars)].copy()
    there = opened(moved, "layer")
    there.uns["vae"] = fitted.uns["vae"]
    tl.embed(there, device="cpu")
    np.testing.assert_allclose(there.obsm["X_vae"], fitted.obsm["X_vae"], atol=1e-5)


@pytest.mark.slow
def test_a_long_fit_finds_the_types_in_windows(adata, opened, monkeypatch):
    monkeypatch.setattr(stored, "WINDOW", 96)
    options = {"n_latent": 4, "hidden": (16,), "n_steps": 60, "batch_size": 16, "device": "cpu"}
    there = opened(adata, "zarr")
    tl.cvae(adata, "batch", **options)
    tl.cvae(there, "batch", **options)
    tl.cvae(there, "batch", key_added="again", **options)
    np.testing.assert_array_equal(there.obsm["X_vae"], there.obsm["X_again"])
    losses = [a.uns["vae"]["history"]["validation_loss"] for a in (adata, there)]
    assert abs(losses[0][-1] - losses[1][-1]) < 0.05 * (losses[0][0] - losses[0][-1])


@pytest.mark.parametrize("kind", ["backed r", "zarr"])
def test_what_cannot_be_counts_is_refused(adata, fitted, fast, opened, kind):
    adata.X = adata.X.astype(np.float32)
    adata.X[250, 7] = 1.5
    layer = None if kind == "backed r" else "counts"
    where = "X" if kind == "backed r" else r"layers\['counts'\]"
    there = opened(adata, kind)
    there.uns["vae"] = fitted.uns["vae"]
    there.uns["vae"]["params"] = {k: v for k, v in there.uns["vae"]["params"].items() if k != "layer"}
    if layer:
        there.uns["vae"]["params"]["layer"] = layer
    for function in (lambda: tl.cvae(there, "batch", layer=layer, **fast), lambda: tl.embed(there, device="cpu")):
        with pytest.raises(
            ValueError, match=rf"^{where} holds non-integer values \(cell 'cell_250', gene 'gene_7': 1\.5"
        ):
            function()
        assert "X_vae" not in there.obsm


def test_empty_cells_are_refused(adata, fitted, fast, opened):
    adata.X = adata.X.multiply(~np.isin(np.arange(300), [99, 250])[:, None]).tocsr()
    there = opened(adata, "zarr")
    there.uns["vae"] = fitted.uns["vae"]
    text = r"^layers\['counts'\]: 2 cells have no counts in the 100 genes used \(first: 'cell_99'\)"
    for function in (lambda: tl.vae(there, **fast), lambda: tl.embed(there, device="cpu")):
        with pytest.raises(ValueError, match=text):
            function()
        assert "X_vae" not in there.obsm


def test_no_copy_is_made_of_what_is_on_disk(adata, fast, opened):
    there = opened(adata, "zarr")
    with pytest.raises(ValueError, match=r"adata holds matrices on disk, of which no copy .* Leave out copy"):
        tl.vae(there, copy=True, **fast)


def test_by_genes_on_disk_is_read_with_a_warning(adata, fast, opened, log):
    adata.X = sp.csc_matrix(adata.X)
    there = opened(adata, "backed r")
    tl.vae(there, layer=None, **fast)
    assert "X is a CSC matrix on disk" in log.getvalue()
    tl.vae(adata, **fast)
    np.testing.assert_array_equal(there.obsm["X_vae"], adata.obsm["X_vae"])
