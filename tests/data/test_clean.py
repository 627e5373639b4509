import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from sc_vaenb.data import matrix as matrix_module
from sc_vaenb.data.clean import clean_counts
from sc_vaenb.data.matrix import read_matrix

GENES = np.array([True, False, True, True, False, True])


def counts(dtype=np.float32):
    x = np.random.default_rng(0).poisson(0.7, (30, 6)) * np.arange(1, 7)
    return sparse.csr_matrix(x.astype(dtype))


def with_parts(matrix, **parts):
    """A matrix with other arrays, which scipy does not check."""
    changed = matrix.copy()
    for name, values in parts.items():
        setattr(changed, name, values)
    return changed


def changed(values, at, value):
    values = values.copy()
    values[at] = value
    return values


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32, np.int64])
@pytest.mark.parametrize("genes", [GENES, np.ones(6, dtype=bool)], ids=["some", "all"])
def test_clean_counts_are_the_chosen_genes(dtype, genes):
    x = counts(dtype)
    found = clean_counts(x, genes, copy=True)
    assert found.dtype == np.float32
    assert found.has_canonical_format
    np.testing.assert_array_equal(found.toarray(), x.toarray()[:, genes])


def test_memory_is_shared_only_on_request():
    x, all_genes = counts(), np.ones(6, dtype=bool)
    assert np.shares_memory(clean_counts(x, all_genes, copy=False).data, x.data)
    for matrix, genes, copy in ((x, all_genes, True), (x, GENES, False), (counts(np.float64), all_genes, False)):
        found = clean_counts(matrix, genes, copy)
        assert not np.shares_memory(found.data, matrix.data)
        assert not np.shares_memory(found.indices, matrix.indices)


X = counts()
NOT_CLEAN = {
    "dense": X.toarray(),
    "by genes": X.tocsc(),
    "a fraction": with_parts(X, data=changed(X.data, 3, 1.5)),
    "negative": with_parts(X, data=changed(X.data, 3, -1)),
    "an explicit zero": with_parts(X, data=changed(X.data, 3, 0)),
    "NaN": with_parts(X, data=changed(X.data, 3, np.nan)),
    "infinite": with_parts(X, data=changed(X.data, 3, np.inf)),
    "too large for float32": with_parts(counts(np.float64), data=changed(X.data.astype(float), 3, 2.0**24 + 1)),
    "an index too large": with_parts(X, indices=changed(X.indices, 3, 6)),
    "an index below zero": with_parts(X, indices=changed(X.indices, 0, -1)),
    "genes not sorted": with_parts(X, indices=changed(X.indices, slice(0, 2), X.indices[1::-1])),
    "a duplicate": with_parts(X, indices=changed(X.indices, 1, X.indices[0])),
    "a pointer that decreases": with_parts(X, indptr=changed(X.indptr, 4, 0)),
    "a pointer beyond the end": with_parts(X, indptr=changed(X.indptr, -1, X.indptr[-1] + 9)),
    "a pointer that starts late": with_parts(X, indptr=changed(X.indptr, 0, 1)),
    "half precision": X.astype(np.float64).astype(np.int8),
    "big-endian": with_parts(X, data=X.data.astype(">f4")),
    "other indices": with_parts(X, indices=X.indices.astype(np.int64), indptr=X.indptr.astype(np.int64)),
}


@pytest.mark.parametrize("matrix", NOT_CLEAN.values(), ids=NOT_CLEAN)
def test_what_is_not_clean_is_left_to_the_other_reader(matrix):
    assert clean_counts(matrix, GENES, copy=True) is None


def test_both_readers_agree(monkeypatch):
    x = counts(np.float64)
    names = pd.Index([f"c{i}" for i in range(30)]), pd.Index([f"g{j}" for j in np.flatnonzero(GENES)])
    fast = read_matrix(x, "X", *names, GENES, False, print)
    monkeypatch.setattr(matrix_module, "clean_counts", lambda *_: None)
    slow = read_matrix(x, "X", *names, GENES, False, print)
    for part in ("data", "indices", "indptr"):
        np.testing.assert_array_equal(getattr(fast, part), getattr(slow, part))
        assert getattr(fast, part).dtype == getattr(slow, part).dtype
