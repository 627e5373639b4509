"""Each row of the table of matrices in docs/data.md: it is fitted, to the embedding of the CSR matrix."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from types import SimpleNamespace

import anndata as ad
import numpy as np
import pytest
from anndata.compat import CupyArray, CupyCSRMatrix, CupySparseMatrix
from scipy import sparse as sp

from sc_vaenb import pp, tl
from sc_vaenb.data.matrix import on_host

DOCS = Path(__file__).parents[2] / "docs" / "data.md"
INTERFACE = {"__cuda_array_interface__": {}}


class OnGpu:
    """What is read of a matrix of cupy: where its values are, and `get`."""

    def __init__(self, matrix):
        self.matrix, self.shape, self.dtype, self.ndim = matrix, matrix.shape, matrix.dtype, 2

    def get(self):
        return self.matrix


class GpuArray(OnGpu, CupyArray):
    """A fake cupy array: cupy needs a GPU, and anndata knows its arrays by their class."""

    __cuda_array_interface__ = INTERFACE


class GpuMatrix(OnGpu, CupyCSRMatrix, CupySparseMatrix):
    """A fake matrix of cupyx: it has no interface of its own, but its values have."""

    data = SimpleNamespace(**INTERFACE)


def counts(make):
    """An AnnData whose counts `make` makes of a CSR matrix."""

    def build(adata, folder):
        return ad.AnnData(make(sp.csr_matrix(adata.X)), adata.obs, adata.var)

    return build


def as_matrix(matrix):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy and anndata advise against it
        return np.matrix(matrix.toarray())


def with_matrix(adata, folder):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ad.ImplicitModificationWarning)
        return counts(as_matrix)(adata, folder)


def view(adata, folder):
    wider = ad.concat([adata, adata[:, :3]], axis="var", index_unique="-", merge="first")
    return ad.concat([wider, wider[:7]], index_unique="-", merge="first")[: adata.n_obs, : adata.n_vars]


def dask(make):
    def chunked(matrix):
        da = pytest.importorskip("dask.array")
        return da.from_array(matrix.toarray(), chunks=(70, matrix.shape[1])).map_blocks(make)

    return counts(chunked)


def backed(make):
    def build(adata, folder):
        counts(make)(adata, folder).write_h5ad(folder / "cells.h5ad")
        return ad.read_h5ad(folder / "cells.h5ad", backed="r")

    return build


def in_zarr(adata, folder):
    zarr = pytest.importorskip("zarr")
    group = zarr.open_group(folder / "cells.zarr", mode="w", zarr_format=2)
    ad.io.write_elem(group, "X", sp.csr_matrix(adata.X))
    return ad.AnnData(ad.io.sparse_dataset(group["X"]), adata.obs, adata.var)


ROWS = {
    "CSR matrix": counts(sp.csr_matrix),
    "CSC matrix": counts(sp.csc_matrix),
    "CSR array": counts(sp.csr_array),
    "CSC array": counts(sp.csc_array),
    "numpy array": counts(lambda matrix: matrix.toarray()),
    "numpy array in Fortran order": counts(lambda matrix: np.asfortranarray(matrix.toarray())),
    "numpy.matrix": with_matrix,
    "int64": counts(lambda matrix: matrix.astype(np.int64)),
    "uint16": counts(lambda matrix: matrix.astype(np.uint16)),
    "float64": counts(lambda matrix: matrix.astype(np.float64)),
    "float16": counts(lambda matrix: matrix.toarray().astype(np.float16)),
    "view": view,
    "dask array of numpy arrays": dask(np.asarray),
    "dask array of CSR matrices": dask(sp.csr_matrix),
    "backed h5ad, CSR": backed(sp.csr_matrix),
    "backed h5ad, dense": backed(lambda matrix: matrix.toarray()),
    "zarr, CSR": in_zarr,
    "cupy array": counts(lambda matrix: GpuArray(matrix.toarray())),
    "cupyx CSR matrix": counts(GpuMatrix),
}


@pytest.fixture(scope="module")
def cells(simulated):
    return ad.AnnData(simulated.X.copy(), simulated.obs, simulated.var)


@pytest.fixture(scope="module")
def expected(cells, fast):
    return fitted(cells, fast)


def fitted(adata, fast):
    tl.vae(adata, layer=None, mask_var=None, **fast | {"n_steps": 5})
    return np.asarray(adata.obsm["X_vae"])


def test_the_table_has_these_rows():
    table = DOCS.read_text().partition("| Counts | How they are read |\n|---|---|\n")[2].partition("\n\n")[0]
    assert re.findall(r"^\| (.+?) \|", table, re.MULTILINE) == list(ROWS)


@pytest.mark.parametrize("row", ROWS)
def test_a_matrix_gives_the_embedding_of_the_csr_matrix(cells, expected, fast, tmp_path, row):
    np.testing.assert_array_equal(fitted(ROWS[row](cells, tmp_path), fast), expected)


def test_counts_on_a_gpu_are_prepared_as_others(cells, tmp_path):
    on_gpu, there = ROWS["cupyx CSR matrix"](cells, tmp_path), ROWS["CSR matrix"](cells, tmp_path)
    for adata in (on_gpu, there):
        pp.prepare(adata, n_top_genes=20)
    assert on_gpu.var["highly_variable"].equals(there.var["highly_variable"])
    assert (on_gpu.layers["counts"] != there.layers["counts"]).nnz == 0


def test_what_has_get_but_is_not_on_a_gpu_stays():
    table = {"a": 1}
    assert on_host(table) is table
