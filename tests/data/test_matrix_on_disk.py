import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
from anndata.io import sparse_dataset
from scipy import sparse as sp

from sc_vaenb.data import on_disk as _disk
from sc_vaenb.data.on_disk import BLOCK, MatrixOnDisk, on_disk

CELLS, GENES = 2 * BLOCK + 10, 6
ALL_CELLS = np.ones(GENES, dtype=bool)


@pytest.fixture
def values():
    return np.random.default_rng(0).poisson(1.0, (CELLS, GENES)).astype(np.float64) + np.eye(CELLS, GENES)


@pytest.fixture
def stored(tmp_path):
    """A function that puts a matrix into a file and gives it as it is there."""
    files = []

    def store(matrix, name="a.h5ad"):
        ad.AnnData(matrix).write_h5ad(tmp_path / name)
        files.append(h5py.File(tmp_path / name))
        found = files[-1]["X"]
        return found if isinstance(found, h5py.Dataset) else sparse_dataset(found)

    yield store
    for file in files:
        file.close()


def counts_of(matrix, mask=ALL_CELLS, **options):
    names = pd.Index([f"cell_{i}" for i in range(CELLS)]), pd.Index([f"gene_{i}" for i in np.flatnonzero(mask)])
    return MatrixOnDisk(matrix, "X", *names, mask, **{"allow_non_integer": False, "log": print} | options)


@pytest.mark.parametrize("kind", [np.asarray, sp.csr_matrix])
def test_blocks_and_single_ones_are_the_counts_of_the_genes(values, stored, kind, monkeypatch):
    monkeypatch.setattr(_disk, "CELLS_AT_ONCE", 100)
    mask = np.array([True, False, True, True, False, True])
    counts = counts_of(stored(kind(values)), mask)
    blocks = list(counts.blocks())
    assert [block.shape[0] for block in blocks] == [100, 100, CELLS - 200]
    for found, expected in (
        (sp.vstack(blocks), values),
        (counts.read(np.array([0, 2])), np.delete(values, range(BLOCK, 2 * BLOCK), 0)),
        (counts.read(np.arange(3)), values),
    ):
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found.toarray(), expected[:, mask])


@pytest.mark.parametrize(
    ("value", "said"), [(0.5, "non-integer values"), (-1, "negative values"), (np.nan, "values that are not finite")]
)
def test_a_bad_value_deep_inside_is_named(values, stored, value, said, monkeypatch):
    monkeypatch.setattr(_disk, "CELLS_AT_ONCE", 100)
    values[147, 4] = value
    counts = counts_of(stored(sp.csr_matrix(values)), np.arange(GENES) > 0)
    with pytest.raises(ValueError, match=rf"^X holds {said} \(cell 'cell_147', gene 'gene_4': {value:.6g}\)"):
        list(counts.blocks())
    assert len(list(counts.blocks(check=False))) == 3


def test_neighbouring_blocks_are_read_at_once_but_not_too_many(values):
    class Matrix:
        def __getitem__(self, cells):
            asked.append((cells.start, cells.stop))
            return values[cells]

    for most, expected in ((3, [(0, 3)]), (2, [(0, 2), (2, 3)])):
        asked = []
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(_disk, "CELLS_AT_ONCE", most * BLOCK)
            counts_of(Matrix()).read(np.arange(3))
        assert asked == [(BLOCK * start, BLOCK * stop) for start, stop in expected]


def test_explicit_zeros_and_unsorted_indices_do_not_matter(stored):
    raw = sp.csr_matrix((np.array([2.0, 0, 1, 3]), [4, 1, 0, 2], [0, 3, *[4] * (CELLS - 1)]), shape=(CELLS, GENES))
    counts = counts_of(stored(raw))
    for found in (next(counts.blocks()), counts.read(np.array([0]))):
        assert found.indices.tolist() == [0, 4, 2]
        assert found.data.tolist() == [1, 2, 3]


def test_what_is_on_disk(values, stored):
    said = []

    def is_on_disk(matrix):
        return on_disk(matrix, "X", said.append)

    assert is_on_disk(stored(values))
    assert is_on_disk(stored(sp.csr_matrix(values), "b.h5ad"))
    assert not is_on_disk(values)
    assert not is_on_disk(ad.AnnData(sp.csr_matrix(values))[:5].X)  # anndata's own class, but in memory
    assert said == []
    assert not is_on_disk(stored(sp.csc_matrix(values), "c.h5ad"))
    assert "X is a CSC matrix on disk" in said[0]
    assert "read into memory. Write it as CSR once" in said[0]
