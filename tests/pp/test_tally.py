"""pp.prepare on counts that stay on disk."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import zarr
from anndata.io import sparse_dataset, write_elem
from scipy import sparse as sp

import sc_vaenb
from sc_vaenb import _adata, tl
from sc_vaenb.pp import prepare


@pytest.fixture(scope="module")
def cells():
    """Batches of different size, and genes that are silent in all or one of them."""
    adata = sc_vaenb.datasets.simulate(400, 300, n_types=3, n_batches=3, mean_depth=800, rng=0)
    dense = adata.X.toarray()
    dense[:, :5] = 0
    dense[(adata.obs["batch"] == "batch_0").to_numpy(), 5:10] = 0
    adata.X = sp.csr_matrix(dense, dtype=np.float32)
    return adata


@pytest.fixture
def backed(tmp_path, monkeypatch):
    """A function that writes an AnnData and opens it backed; nothing may read all of it then."""
    files = []

    def open_(adata):
        adata.write_h5ad(tmp_path / "a.h5ad")
        files.append(ad.read_h5ad(tmp_path / "a.h5ad", backed="r"))
        monkeypatch.setattr("sc_vaenb.data.on_disk.CELLS_AT_ONCE", 70)
        monkeypatch.setattr(_adata, "read_matrix", lambda *args: pytest.fail("read all counts into memory"))
        monkeypatch.setattr("sc_vaenb.pp._find_counts.read_matrix", lambda *args: pytest.fail("read all counts"))
        return files[-1]

    yield open_
    for adata in files:
        adata.file.close()


def alike(found, expected, rtol=0.0):
    """Equal to the last bit by default: of genes that few cells have, rounding decides which are chosen."""
    pd.testing.assert_frame_equal(found.var, expected.var, rtol=rtol, atol=0)
    np.testing.assert_array_equal(found.obs["size_factor"], expected.obs["size_factor"])
    assert found.uns["prepare"] == expected.uns["prepare"]
    assert found.uns.get("hvg") == expected.uns.get("hvg")


@pytest.mark.parametrize("kind", [sp.csr_matrix, np.asarray])
@pytest.mark.parametrize("batch_key", [None, "batch"])
def test_genes_and_size_factors_are_those_found_in_memory(cells, backed, kind, batch_key, log):
    dense = cells.X.toarray()
    dense[::9, 10:20] *= 4099  # of such counts float32 rounds the squares
    expected, stored = cells.copy(), cells.copy()
    expected.X, stored.X = sp.csr_matrix(dense), kind(dense)
    prepare(expected, batch_key, n_top_genes=60)
    found = backed(stored)
    prepare(found, batch_key, n_top_genes=60)
    alike(found, expected)
    assert list(_adata.keys(found.layers)) == []
    assert "the counts stay on disk, in X: pass layer=None to the next functions" in log.getvalue()


def test_fewer_genes_than_asked_for(cells, backed):
    expected = prepare(cells, copy=True)
    found = backed(cells)
    prepare(found)
    alike(found, expected)
    assert found.uns["prepare"]["flavor"] == "all"


def test_a_small_batch_has_no_say(cells, backed, log):
    adata = cells.copy()
    adata.obs["batch"] = np.where(np.arange(400) < 3, "few", adata.obs["batch"])
    expected = prepare(adata, "batch", n_top_genes=60, copy=True)
    said = "batches ['few'] (3 cells) have too few cells or counts for seurat_v3"
    assert said in log.getvalue()
    log.seek(log.truncate(0))
    found = backed(adata)
    prepare(found, "batch", n_top_genes=60)
    alike(found, expected)
    assert said in log.getvalue()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The inplace keyword in DataFrame.sort_values")  # scanpy 1.12's, with pandas 3.1
def test_where_loess_fails_a_sample_decides(cells, backed, monkeypatch, log):
    adata = cells.copy()
    adata.obs["batch"] = np.where(np.arange(400) < 100, (np.arange(400) // 2).astype(str), "rest")
    expected = prepare(adata, "batch", n_top_genes=60, copy=True)
    found = backed(adata)
    prepare(found, "batch", n_top_genes=60)
    for reason in (found.uns["prepare"], expected.uns["prepare"]):  # of several that loess has, not always the same
        assert reason.pop("fallback").startswith("loess failed (")
    alike(found, expected, rtol=1e-9)
    assert found.uns["prepare"]["flavor"] == "seurat"
    monkeypatch.setattr("sc_vaenb.pp._variable_genes.N_CELLS_SAMPLED", 300)
    prepare(found, "batch", n_top_genes=60)
    assert "chosen from 300 of the 400 cells, drawn at random" in log.getvalue()
    both = found.var["highly_variable"] & expected.var["highly_variable"]
    assert both.sum() > 30  # of 60; 12 by chance


def test_the_next_step_says_where_the_counts_are(cells, backed, fast):
    found = backed(cells)
    prepare(found, n_top_genes=60)
    with pytest.raises(KeyError, match=r"sc_vaenb\.pp\.prepare found the raw counts in X: pass layer=None"):
        tl.vae(found, **fast)
    tl.vae(found, layer=None, **fast)
    assert found.obsm["X_vae"].shape == (400, 4)


def test_a_layer_on_disk(cells, tmp_path, log):
    group = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=2)
    write_elem(group, "umis", cells.X)
    found = ad.AnnData(np.log1p(cells.X), obs=cells.obs, var=cells.var, layers={"umis": sparse_dataset(group["umis"])})
    prepare(found, n_top_genes=60)
    expected = prepare(cells, n_top_genes=60, copy=True)
    pd.testing.assert_frame_equal(found.var, expected.var, check_exact=True)
    assert found.uns["prepare"]["source"] == "layers['umis']"
    assert "the counts stay on disk, in layers['umis']: pass layer='umis' to the next functions" in log.getvalue()


def test_a_bad_value_is_named_and_raw_is_left_alone(cells, backed):
    adata = cells.copy()
    adata.raw = cells
    adata.X[333, np.flatnonzero(cells.X[333].toarray()[0])[-1]] += 0.5
    found = backed(adata)
    with pytest.raises(ValueError, match=r"- X holds non-integer values \(cell 'cell_333', gene") as caught:
        prepare(found)
    assert "- raw on disk is not looked at" in str(caught.value)
    assert "prepare" not in found.uns


def test_an_empty_cell_is_named(cells, backed):
    adata = cells.copy()
    adata.X = adata.X.multiply((np.arange(400) != 222)[:, None]).tocsr()
    with pytest.raises(ValueError, match=r"X: 1 cells have no counts \(first: 'cell_222'\)"):
        prepare(backed(adata))


def test_x_on_disk_is_not_replaced(cells, backed, refused):
    found = backed(cells)
    with refused(found, ValueError, r"log1p=True would replace X, but adata is backed by a file"):
        prepare(found, log1p=True)
    with refused(found, ValueError, "adata is backed by a file, where no view can be written to and no copy made"):
        prepare(found, copy=True)
