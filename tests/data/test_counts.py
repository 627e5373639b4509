from itertools import islice

import numpy as np
import pytest
import torch
from scipy import sparse

from sc_vaenb.data.counts import Counts, csr_rows, shuffled
from sc_vaenb.fit.split import split


def test_a_minibatch_holds_the_chosen_cells():
    rng = np.random.default_rng(0)
    dense = rng.poisson(0.5, (30, 12)).astype(np.float32)
    counts = Counts(sparse.csr_matrix(dense), rng.uniform(0.5, 2, 30).astype(np.float32), np.arange(30) % 4)
    cells = np.array([7, 3, 29, 3])
    batch = counts.minibatch(cells, torch.device("cpu"))
    assert np.array_equal(batch.dense(batch.count).numpy(), dense[cells])
    assert np.array_equal(batch.size_factor.numpy(), counts.size_factor[cells])
    assert batch.batch_index.tolist() == [3, 3, 1, 3]


@pytest.mark.parametrize("n", [1, 4, 5, 6, 11])
def test_minibatches_are_full_and_every_pass_sees_every_cell_once(n):
    cells = np.arange(100, 100 + n)
    stream = shuffled(cells, 5, np.random.default_rng(0))
    size = min(5, n)
    drawn = np.concatenate(list(islice(stream, 3 * n)))
    assert len(drawn) == 3 * n * size
    for start in range(0, len(drawn), n):
        assert sorted(drawn[start : start + n]) == cells.tolist()


def test_the_split_is_disjoint_complete_and_takes_its_share_of_every_batch():
    batch_index = np.repeat([0, 1, 2], [700, 200, 100])
    train, validation = split(batch_index, 0.1, 10_000, np.random.default_rng(0))
    assert sorted([*train, *validation]) == list(range(1000))
    assert np.bincount(batch_index[validation]).tolist() == [70, 20, 10]


def test_the_split_is_capped_and_never_takes_a_whole_batch():
    batch_index = np.repeat([0, 1], [10_000, 2])
    train, validation = split(batch_index, 0.5, 100, np.random.default_rng(0))
    assert len(validation) <= 101
    assert set(batch_index[train]) == {0, 1}


def test_no_validation_on_request():
    train, validation = split(np.zeros(10, np.int64), 0.0, 100, np.random.default_rng(0))
    assert len(train) == 10
    assert len(validation) == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "cells", [np.array([3, 0, 3, 5]), np.array([5]), slice(1, 5), slice(None), slice(2, 2)], ids=str
)
@pytest.mark.parametrize("kind", [np.int32, np.int64])
def test_the_entries_of_cells_are_those_of_their_rows(cells, kind):
    """Cells that come twice, that have no counts, in any order."""
    rng = np.random.default_rng(0)
    dense = rng.poisson(0.5, size=(6, 9)).astype(np.float32)
    dense[5] = 0
    matrix = sparse.csr_matrix(dense)
    matrix.indptr, matrix.indices = matrix.indptr.astype(kind), matrix.indices.astype(kind)
    row, gene, count = csr_rows(matrix, cells)
    found = np.zeros(dense[cells].shape, np.float32)
    np.add.at(found, (row, gene), count)
    np.testing.assert_array_equal(found, dense[cells])
    assert (np.diff(row * 9 + gene) > 0).all()
    assert (row.dtype, gene.dtype, count.dtype) == (np.int64, np.int64, np.float32)
