"""Matrices as others have made them: each oddity, in each kind of matrix, read by each function that reads counts."""

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import zarr
from anndata.io import sparse_dataset
from scipy import sparse as sp

from sc_vaenb import _adata, pp, tl
from sc_vaenb.data.matrix import ROUNDING, nearly_whole
from sc_vaenb.data.sparse import checked_matrix

N_CELLS, N_GENES = 40, 12
ALL_CELLS = np.ones(N_GENES, dtype=bool)
SOME = np.arange(N_GENES) % 3 > 0


@pytest.fixture(scope="module")
def counts():
    return (np.random.default_rng(0).poisson(1.5, (N_CELLS, N_GENES)) + np.eye(N_CELLS, N_GENES)).astype(np.float64)


def csr(counts):
    return sp.csr_matrix(counts.astype(np.float32))


def assigned(matrix, **arrays):
    """A matrix with arrays that its constructor would refuse."""
    for name, array in arrays.items():
        setattr(matrix, name, array)
    return matrix


def each_twice(matrix, dtype):
    """Every entry as two entries, which add up to it."""
    half = np.repeat((matrix.data // 2).astype(dtype), 2)
    half[1::2] = matrix.data - half[1::2]
    return type(matrix)((half, np.repeat(matrix.indices, 2), 2 * matrix.indptr), shape=matrix.shape)


def backwards(matrix):
    order = np.concatenate([np.arange(a, b)[::-1] for a, b in zip(matrix.indptr[:-1], matrix.indptr[1:], strict=True)])
    return type(matrix)((matrix.data[order], matrix.indices[order], matrix.indptr), shape=matrix.shape)


VALID = {
    "uint8 twice": lambda m: each_twice(m * 40, np.uint8),
    "int8 twice": lambda m: each_twice(m * 31, np.int8),
    "uint16 twice": lambda m: each_twice(m * 9000, np.uint16),
    "big-endian values": lambda m: assigned(m, data=m.data.astype(">i4")),
    "big-endian indices": lambda m: assigned(m, indices=m.indices.astype(">i4"), indptr=m.indptr.astype(">i8")),
    "half precision": lambda m: assigned(m, data=m.data.astype(np.float16)),
    "unsigned indices": lambda m: assigned(m, indices=m.indices.astype(np.uint16)),
    "unsorted": backwards,
    "bool": lambda m: m.astype(bool),
    "uint64": lambda m: m.astype(np.uint64),
    "float64 noise": lambda m: m * (1 + 1e-9),
    "float32 noise": lambda m: assigned(m, data=np.expm1(np.log1p(m.data * np.float32(17)))),
}
SCALE = {"uint8 twice": 40, "int8 twice": 31, "uint16 twice": 9000, "float32 noise": 17}


def wrong(matrix, at, value):
    index = matrix.indices.copy()
    index[at] = value
    return index


INVALID = {
    "one beyond": (lambda m: assigned(m, indices=wrong(m, 5, 12 if m.format == "csr" else 40)), "If its indices start"),
    "negative": (lambda m: assigned(m, indices=wrong(m, 5, -1)), r"index -1, but its \d+ \w+s count from 0\. Build"),
    "far beyond": (lambda m: assigned(m, indices=wrong(m, 5, 2**30)), "index 1073741824"),
    "counted from 1": (lambda m: assigned(m, indices=m.indices + 1), "as in R, subtract 1"),
    "decreasing": (lambda m: assigned(m, indptr=np.r_[0, m.indptr[2:0:-1], m.indptr[3:]]), "indptr decreases after"),
    "too short": (lambda m: assigned(m, indptr=m.indptr[:-1]), r"indptr holds \d+ x int32, not \d+ integers"),
    "beyond the end": (lambda m: assigned(m, indptr=np.r_[m.indptr[:-1], m.nnz + 9]), r"indptr goes from 0 to"),
    "not from 0": (lambda m: assigned(m, indptr=np.r_[1, m.indptr[1:]]), "indptr goes from 1"),
    "fewer values": (lambda m: assigned(m, data=m.data[:-1]), r"it has \d+ indices for \d+ values"),
    "indices are floats": (lambda m: assigned(m, indices=m.indices + 0.5), "its indices are float64, not integers"),
}


def in_file(matrix, group, name="X"):
    """What anndata would have written, without its checks."""
    part = group.create_group(name)
    for array in ("data", "indices", "indptr"):
        values = getattr(matrix, array)
        if isinstance(part, h5py.Group):
            part.create_dataset(array, data=values)
        else:
            part.create_array(array, data=np.ascontiguousarray(values))
    part.attrs["encoding-type"], part.attrs["encoding-version"] = f"{matrix.format}_matrix", "0.1.0"
    part.attrs["shape"] = list(matrix.shape)
    return sparse_dataset(part)


@pytest.fixture
def place(tmp_path):
    """A function that puts a sparse matrix into memory, a dask array, or a file."""
    opened = []

    def put(matrix, where):
        if where == "memory":
            return matrix
        if where == "dask":
            da = pytest.importorskip("dask.array")
            array = da.from_array(sp.csr_matrix(matrix.shape), chunks=(-1, -1), asarray=False)
            return array.map_blocks(lambda _: matrix, dtype="f4", meta=type(matrix)((0, 0), dtype="f4"))
        if where == "h5":
            opened.append(h5py.File(tmp_path / "x.h5", "w"))
            return in_file(matrix, opened[-1])
        return in_file(matrix, zarr.open_group(tmp_path / "x.zarr", mode="w"))

    yield put
    for file in opened:
        file.close()


def anndata_of(matrix):
    """With the matrix as a layer, which anndata is not asked about."""
    obs = pd.DataFrame({"batch": np.arange(N_CELLS) % 2}, index=[f"c{i}" for i in range(N_CELLS)])
    obs["batch"] = obs["batch"].astype(str).astype("category")
    adata = ad.AnnData(obs=obs, var=pd.DataFrame(index=[f"g{i}" for i in range(N_GENES)]))
    adata.layers["counts"] = sp.csr_matrix((N_CELLS, N_GENES), dtype=np.float32)
    adata.layers._data["counts"] = matrix
    return adata


places = pytest.mark.parametrize("where", ["memory", "dask", "h5", "zarr"])
formats = pytest.mark.parametrize("kind", ["csr", "csc"])


@places
@formats
@pytest.mark.parametrize("oddity", VALID)
def test_what_is_odd_but_valid_is_read_as_the_counts_that_it_means(counts, place, where, kind, oddity):
    matrix = VALID[oddity](csr(counts).asformat(kind))
    expected = counts * SCALE.get(oddity, 1) if oddity != "bool" else counts > 0
    adata = anndata_of(place(matrix, where))
    for mask in (ALL_CELLS, SOME):
        found = _adata.read_counts(adata, "counts", mask)
        np.testing.assert_array_equal(found.toarray(), expected[:, mask])
        assert found.has_canonical_format
        assert found.dtype == np.float32
        assert found.data.min() > 0


@places
@formats
@pytest.mark.parametrize("fault", INVALID)
def test_an_invalid_matrix_is_refused_before_anything_is_read_beyond_its_arrays(counts, place, where, kind, fault):
    spoil, said = INVALID[fault]
    adata = anndata_of(place(spoil(csr(counts).asformat(kind)), where))
    with pytest.raises(ValueError, match=rf"^layers\['counts'\]: this sparse matrix is invalid: .*{said}"):
        _adata.read_counts(adata, "counts", ALL_CELLS)


READERS = {
    "pp.prepare": lambda a: pp.prepare(a, layer="counts"),
    "tl.vae": lambda a: tl.vae(a, n_steps=1, device="cpu"),
    "tl.cvae": lambda a: tl.cvae(a, "batch", n_steps=1, device="cpu"),
    "tl.embed": tl.embed,
    "tl.normalized": tl.normalized,
    "tl.corrected": tl.corrected,
    "tl.differential": lambda a: tl.differential(a, "cell_type"),
    "tl.importance": tl.importance,
    "tl.factors": tl.factors,
    "tl.posterior_check": tl.posterior_check,
    "tl.interpolate": lambda a: tl.interpolate(a, "type_0", "type_1", groupby="cell_type"),
    "tl.map_query": lambda a: tl.map_query(a, a.copy(), n_steps=1),
    "tl.harmony": lambda a: tl.harmony(a, "batch"),
    "tl.compare": lambda a: tl.compare(a, "batch"),
    "tl.tune": lambda a: tl.tune(a, "batch", n_trials=1),
}


@pytest.mark.parametrize("reader", READERS)
def test_every_function_that_reads_counts_refuses_an_invalid_matrix(fitted, refused, reader):
    matrix = fitted.layers["counts"]
    matrix.indices[7] = fitted.n_vars
    with refused(
        fitted, ValueError, r"layers\['counts'\]: this sparse matrix is invalid: row 0 has the column index 100"
    ):
        READERS[reader](fitted)


@formats
@pytest.mark.parametrize("oddity", ["big-endian values", "big-endian indices", "half precision"])
def test_views_of_what_scipy_does_not_know_are_read(counts, kind, oddity):
    cells, genes = np.arange(N_CELLS)[::-3], np.arange(N_GENES) % 4 > 0
    view = anndata_of(VALID[oddity](csr(counts).asformat(kind)))[cells, genes]
    found = _adata.read_counts(view, "counts", ALL_CELLS[genes])
    np.testing.assert_array_equal(found.toarray(), counts[cells][:, genes])


@pytest.mark.parametrize("dtype", [object, str, complex])
def test_a_view_of_what_is_no_number_is_refused(counts, dtype):
    view = anndata_of(assigned(csr(counts), data=csr(counts).data.astype(dtype)))[5:]
    with pytest.raises(TypeError, match=r"^layers\['counts'\] has dtype .*, which is not a number"):
        _adata.read_counts(view, "counts", ALL_CELLS)


@pytest.mark.parametrize("dtype", [">f4", "float16"])
def test_a_view_to_which_nothing_can_be_written_is_refused_before_the_fit(fitted, refused, dtype):
    """scipy cannot subset such numbers, so anndata could not make the copy that the first result needs."""
    fitted.layers._data["counts"] = assigned(fitted.X.tocsr().copy(), data=fitted.X.data.astype(dtype))
    view = fitted[10:]
    for call in (tl.embed, tl.vae):
        with pytest.raises(ValueError, match=r"^adata is a view, and layers\['counts'\] of the original holds"):
            call(view)
    assert view.is_view


def test_a_view_of_an_invalid_matrix_is_refused_before_it_is_cut_out(fitted, refused):
    fitted.layers["counts"].indices[7] = fitted.n_vars
    with refused(fitted, ValueError, "this sparse matrix is invalid"):
        tl.vae(fitted[:50, ::2], n_steps=1)


def test_a_sound_matrix_is_not_copied(counts):
    matrix = csr(counts)
    assert checked_matrix(matrix, "X") is matrix
    assert checked_matrix(counts, "X") is counts


@pytest.mark.parametrize(
    ("matrix", "error", "said"),
    [
        (np.ma.masked_array(np.eye(3), np.eye(3) > 0), TypeError, r"^X is a masked array\. Give a plain one"),
        (np.eye(3).astype(object), TypeError, "^X has dtype object, which is not a number"),
        (np.eye(3).astype(complex), TypeError, "^X has dtype complex128, which is not a number"),
        (np.zeros((3, 3), [("a", "i4")]), TypeError, r"^X has dtype \[\('a', '<i4'\)\], which is not a number"),
        (sp.coo_matrix(np.eye(3)), TypeError, r"^X is a sparse matrix in coo format\. Convert it with \.tocsr\(\)"),
        (sp.coo_array(np.eye(3)), TypeError, "^X is a sparse matrix in coo format"),
        (pd.DataFrame(np.eye(3)), TypeError, r"^X is a pandas\.\S*DataFrame\. Give a numpy array"),
    ],
)
def test_what_is_no_matrix_of_counts_is_a_type_error(matrix, error, said):
    names = pd.Index(list("abc"))
    with pytest.raises(error, match=said):
        _adata.read_matrix(matrix, "X", names, names, np.ones(3, dtype=bool), False, print)


@pytest.mark.parametrize("dtype", [">f4", ">i2", ">u8", "f2", "g", "?"])
@pytest.mark.filterwarnings("ignore:the matrix subclass")
@pytest.mark.parametrize("make", [np.array, np.matrix, np.asfortranarray])
def test_dense_arrays_of_every_kind_are_read(counts, dtype, make):
    names = pd.Index(map(str, range(N_CELLS))), pd.Index(np.flatnonzero(SOME).astype(str))
    found = _adata.read_matrix(make(counts.astype(dtype)), "X", *names, SOME, False, print)
    np.testing.assert_array_equal(found.toarray(), counts[:, SOME] if dtype != "?" else counts[:, SOME] > 0)


# rounding noise


@places
def test_noise_is_said_in_the_log_and_gone_from_what_is_read_later(counts, place, where, log):
    from scanpy import logging as logg

    from sc_vaenb.data.on_disk import MatrixOnDisk, on_disk

    adata = anndata_of(place(csr(counts).astype(np.float64) * (1 + 1e-9), where))
    matrix, name = _adata.matrix_of(adata, "counts")
    if on_disk(matrix, name, logg.warning):
        disk = MatrixOnDisk(matrix, name, adata.obs_names, adata.var_names, ALL_CELLS, False, logg.info)
        found = [next(disk.blocks()), next(disk.blocks(check=False)), disk.read(np.array([0]))]
    else:
        found = [_adata.read_counts(adata, "counts", ALL_CELLS)]
    for block in found:
        np.testing.assert_array_equal(block.toarray(), counts)
    n = int((counts > 0).sum())
    assert log.getvalue().count(f"layers['counts']: {n} counts differ from whole numbers by rounding errors only") <= 1


def test_whole_numbers_are_told_from_noise_and_noise_from_fractions(counts):
    x = np.arange(1, 5000, dtype=np.float32)
    assert nearly_whole(np.expm1(np.log1p(x))).all()
    depth = np.float32(7345.0)
    scaled = np.log1p(x / depth * np.float32(1e4))
    assert nearly_whole(np.expm1(scaled) / np.float32(1e4) * depth).all()
    odd = np.array([1.5, 1.001, 1.00001, 0.999, 0.01, 3e-6, -3e-6, 1000.01, 65_536.5, np.nan, np.inf, 2.0, 0.0, -1e-7])
    assert nearly_whole(odd).tolist() == [False] * 11 + [True] * 3
    assert ROUNDING * 2**24 == 32  # of the steps of float32


@pytest.mark.parametrize("value", [1.5, 1.001, 0.4])
def test_one_fraction_among_noise_is_refused(counts, value):
    matrix = csr(counts).astype(np.float64) * (1 + 1e-9)
    matrix.data[11] = value
    with pytest.raises(
        ValueError, match=rf"^layers\['counts'\] holds non-integer values \(cell 'c\d', gene .*: {value}\)"
    ):
        _adata.read_counts(anndata_of(matrix), "counts", ALL_CELLS)
    assert _adata.read_counts(anndata_of(matrix), "counts", ALL_CELLS, allow_non_integer=True).data[11] == np.float32(
        value
    )


def test_a_fit_of_noisy_counts_is_that_of_the_counts(adata, fast, log):
    noisy = adata.copy()
    noisy.layers["counts"] = noisy.layers["counts"].astype(np.float64) * (1 + 1e-9)
    for data in (adata, noisy):
        tl.cvae(data, "batch", **fast)
    np.testing.assert_array_equal(noisy.obsm["X_vae"], adata.obsm["X_vae"])
    assert f"layers['counts']: {adata.layers['counts'].nnz:,} counts differ from whole numbers" in log.getvalue()
