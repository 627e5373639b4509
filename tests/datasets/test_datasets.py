"""What `simulate` and `demo` have in common: randomness, files, imports."""

import subprocess
import sys

import anndata as ad
import numpy as np
import pytest

from sc_vaenb import datasets

# anndata (with pandas 3) asks pandas for a deprecated option while reading any file; not ours to fix.
reads_file = pytest.mark.filterwarnings("ignore:.*future.infer_string")


def assert_same(a, b):
    assert (a.X != b.X).nnz == 0
    assert a.obs.equals(b.obs)
    assert a.var.equals(b.var)
    assert a.uns["truth"].keys() == b.uns["truth"].keys()
    for key, value in a.uns["truth"].items():
        np.testing.assert_array_equal(value, b.uns["truth"][key])


@pytest.mark.parametrize("make", [lambda rng: datasets.simulate(200, 50, rng=rng), lambda rng: datasets.demo(rng=rng)])
def test_same_seed_same_data(make):
    np.random.seed(5)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    first = make(7)
    assert_same(first, make(7))
    assert_same(first, make(np.int64(7)))
    by_generator = make(np.random.default_rng(7))
    assert (first.X != by_generator.X).nnz == 0
    assert by_generator.uns["truth"]["rng"] == "Generator(PCG64)"
    for other in (make(8), make(None)):
        assert other.shape != first.shape or (other.X != first.X).nnz > 0
    np.testing.assert_array_equal(before, np.random.get_state()[1])  # noqa: NPY002


@reads_file
@pytest.mark.parametrize("name", ["simulated", "blood"])
def test_written_file_is_the_same(name, request, tmp_path):
    adata = request.getfixturevalue(name)
    adata.write_h5ad(tmp_path / "a.h5ad")
    again = ad.read_h5ad(tmp_path / "a.h5ad")
    assert (again.X != adata.X).nnz == 0
    assert again.obs_names.tolist() == adata.obs_names.tolist()
    assert again.var_names.tolist() == adata.var_names.tolist()
    for frame, other in [(adata.obs, again.obs), (adata.var, again.var)]:
        assert frame.columns.tolist() == other.columns.tolist()
        for key in frame:
            assert frame[key].astype(str).tolist() == other[key].astype(str).tolist()
    assert again.uns["truth"].keys() == adata.uns["truth"].keys()
    for key, value in adata.uns["truth"].items():
        assert isinstance(value, str | float | np.ndarray)
        np.testing.assert_array_equal(again.uns["truth"][key], value)
    assert again.uns.get("source") == adata.uns.get("source")


@pytest.mark.slow
def test_import_does_not_load_scanpy():
    code = "import sys, sc_vaenb.datasets\nassert not {'scanpy', 'anndata'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
