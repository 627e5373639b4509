"""Counts as dask arrays: files read lazily and joined without a copy, against the same in memory."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse as sp

from sc_vaenb import _adata, tl
from sc_vaenb.data import on_disk as _disk
from sc_vaenb.data.matrix import computed
from sc_vaenb.data.on_disk import BLOCK
from sc_vaenb.pp import prepare

da = pytest.importorskip("dask.array")
Delayed = pytest.importorskip("dask.delayed").Delayed
CHUNK = 70


@pytest.fixture
def chunks(monkeypatch):
    """How many cells are computed at once, each time; never all."""
    seen, compute = [], Delayed.compute

    def counted(chunk, **options):
        found = compute(chunk, **options)
        seen.append(found.shape[0])
        return found

    monkeypatch.setattr(Delayed, "compute", counted)
    monkeypatch.setattr(da.Array, "compute", lambda *args, **options: pytest.fail("computed more than a chunk"))
    monkeypatch.setattr(_disk, "CELLS_AT_ONCE", 100)
    monkeypatch.setattr("sc_vaenb.data.counts.CELLS_AT_ONCE", 100)
    monkeypatch.setattr("sc_vaenb.inference.embed.CELLS_AT_ONCE", 100)
    return seen


def split(adata, folder):
    """Two files, with other cells each."""
    paths = [folder / "a.h5ad", folder / "b.h5ad"]
    for path, cells in zip(paths, (slice(130), slice(130, None)), strict=True):
        adata[cells].copy().write_h5ad(path)
    return paths


@pytest.fixture
def files(adata, tmp_path):
    del adata.layers["counts"]
    return split(adata, tmp_path)


def in_memory(paths):
    return ad.concat([ad.read_h5ad(path) for path in paths], label="sample", keys=["a", "b"])


def lazily(paths):
    """As the documentation has it."""
    h5py = pytest.importorskip("h5py")
    from anndata.experimental import read_elem_lazy
    from anndata.io import read_elem

    def opened(path):
        with h5py.File(path) as file:
            counts = read_elem_lazy(file["X"], chunks=(CHUNK, -1))
            return ad.AnnData(counts, obs=read_elem(file["obs"]), var=read_elem(file["var"]))

    return ad.concat([opened(path) for path in paths], label="sample", keys=["a", "b"])


@pytest.mark.slow
def test_files_joined_lazily_give_what_they_give_in_memory(files, fast, request):
    expected = in_memory(files)
    prepare(expected, "sample", n_top_genes=60)
    tl.cvae(expected, "sample", **fast)

    computed_cells = request.getfixturevalue("chunks")
    there = lazily(files)
    prepare(there, "sample", n_top_genes=60)
    pd.testing.assert_frame_equal(there.var, expected.var)
    pd.testing.assert_frame_equal(there.obs, expected.obs)
    assert there.uns["prepare"] == expected.uns["prepare"] | {"source": "X"}
    assert computed_cells == 2 * [70, 60, 70, 70, 30]  # of two passes, each reading each chunk once

    computed_cells.clear()
    tl.cvae(there, "sample", layer=None, **fast)
    assert computed_cells == 2 * [70, 60, 70, 70, 30]
    np.testing.assert_array_equal(there.obsm["X_vae"], expected.obsm["X_vae"])
    for name, weights in expected.uns["vae"]["model"]["weights"].items():
        np.testing.assert_array_equal(there.uns["vae"]["model"]["weights"][name], weights)
    tl.embed(there, key_added="again", device="cpu")
    np.testing.assert_array_equal(there.obsm["X_again"], expected.obsm["X_vae"])


def test_a_view_is_read_as_it_is(files, fast, chunks):
    expected, there = (joined(files)[::3] for joined in (in_memory, lazily))
    for adata in (expected, there):
        tl.vae(adata, layer=None, **fast)
    np.testing.assert_array_equal(there.obsm["X_vae"], expected.obsm["X_vae"])
    assert chunks


def test_a_copy_can_be_made(files, fast, chunks):
    there = lazily(files)
    copy = tl.vae(there, layer=None, copy=True, **fast)
    assert "X_vae" not in there.obsm
    tl.vae(there, layer=None, **fast)
    np.testing.assert_array_equal(copy.obsm["X_vae"], there.obsm["X_vae"])
    assert chunks


@pytest.mark.parametrize("kind", [np.asarray, sp.csr_matrix, sp.csr_array])
@pytest.mark.parametrize("columns", [-1, 4])
def test_rows_across_chunks_are_cut_and_joined(kind, columns, monkeypatch):
    values = np.random.default_rng(0).poisson(1.0, (3 * BLOCK, 6))
    matrix = da.from_array(kind(values), chunks=((100, 0, 7, 3 * BLOCK - 107), columns))
    mask = np.array([True, False, True, True, False, True])
    names = pd.Index([f"cell_{i}" for i in range(len(values))]), pd.Index([f"gene_{i}" for i in np.flatnonzero(mask)])
    counts = _disk.MatrixOnDisk(matrix, "X", *names, mask, False, print)
    monkeypatch.setattr(_disk, "CELLS_AT_ONCE", 45)
    for cells in (slice(None), slice(99, 108), slice(101, 103), slice(200, 200)):
        found = [block.toarray() for block in counts.blocks(cells)]
        np.testing.assert_array_equal(np.concatenate([values[:0, mask], *found]), values[cells][:, mask])
    expected = np.delete(values, range(BLOCK, 2 * BLOCK), 0)[:, mask]
    np.testing.assert_array_equal(counts.read(np.array([0, 2])).toarray(), expected)


def test_blocks_of_one_chunk_compute_it_once(chunks):
    matrix = da.from_array(np.ones((CHUNK, 2)), chunks=(CHUNK, -1))
    parts = list(computed(matrix, "X", [slice(0, 5), slice(20, 30), slice(60, 100)]))
    assert [len(part) for part in parts] == [5, 10, 10]
    assert chunks == [CHUNK]


def test_by_genes_is_read_with_a_warning(adata):
    counts = adata.X
    adata.X = da.from_array(sp.csc_matrix(counts), chunks=(-1, 30))
    found = _adata.read_counts(adata, None, np.arange(100) < 50)
    np.testing.assert_array_equal(found.toarray(), counts[:, :50].toarray())
    said = []
    assert not _disk.on_disk(adata.X, "X", said.append)
    assert "X is a CSC matrix on disk" in said[0]


def test_what_is_no_count_is_named(adata, fast, tmp_path):
    adata.X[250, 7] = 1.5
    there = lazily(split(adata, tmp_path))
    text = r"^X holds non-integer values \(cell 'cell_250', gene 'gene_7': 1\.5\)"
    with pytest.raises(ValueError, match=text):
        tl.vae(there, layer=None, **fast)
    assert list(there.obsm) == []


@pytest.mark.parametrize(
    ("matrix", "text"),
    [
        (da.full((300, 100), "a", chunks=CHUNK), r"^X has dtype <U1, which is not a number\. Give integer counts\.$"),
        (
            da.ones((300, 100), chunks=(CHUNK, -1)).map_blocks(pd.DataFrame, meta=np.ones((0, 0))),
            r"^X is a dask array of pandas\..*DataFrame\. Give one whose chunks are numpy arrays or scipy CSR m",
        ),
    ],
)
def test_chunks_that_hold_no_counts_are_refused(adata, fast, matrix, text):
    adata.X = matrix
    with pytest.raises(TypeError, match=text):
        tl.vae(adata, layer=None, **fast)


def test_raw_that_is_not_in_memory_is_not_looked_at(adata):
    adata.X = da.from_array(adata.X, chunks=(CHUNK, -1))
    adata.raw = adata
    adata.X = adata.X / 2
    del adata.layers["counts"]
    with pytest.raises(ValueError, match="- raw on disk is not looked at, because no other function could read it"):
        prepare(adata)


@pytest.mark.slow
def test_tables_read_lazily_are_asked_for_in_memory(files, fast):
    pytest.importorskip("xarray")
    there = ad.concat([ad.experimental.read_lazy(path) for path in files], label="sample", keys=["a", "b"])
    for slot in ("obs", "var"):
        text = rf"^adata\.{slot} is a Dataset2D, as read lazily, not a pandas DataFrame\. Call adata\.{slot} = adata\."
        for call in (lambda: prepare(there, "sample"), lambda: tl.cvae(there, "sample", layer=None, **fast)):
            with pytest.raises(TypeError, match=text):
                call()
        setattr(there, slot, getattr(there, slot).to_memory())
    expected = in_memory(files)
    for adata in (there, expected):
        tl.cvae(adata, "sample", layer=None, **fast)
    np.testing.assert_array_equal(there.obsm["X_vae"], expected.obsm["X_vae"])
