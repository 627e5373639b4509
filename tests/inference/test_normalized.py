import tracemalloc

import numpy as np
import pytest
import torch

from sc_vaenb.inference.normalized import all_batches_of_group, collect, one_batch, own_batch


def decoded_in(targets, own):
    """Of each cell, the batches that it is decoded in."""
    own, found = torch.tensor(own), [[] for _ in own]
    for cells, batch_index in targets.rounds(own):
        for cell, batch in zip(cells.tolist(), batch_index.tolist(), strict=True):
            found[cell].append(batch)
    assert targets.n_batches(own).squeeze(1).tolist() == [len(batches) for batches in found]
    return found


def test_cells_are_decoded_in_their_own_batch_one_or_all_of_their_group():
    assert decoded_in(own_batch(3), [2, 0, 1]) == [[2], [0], [1]]
    assert decoded_in(own_batch(0), [0, 0]) == [[0], [0]]
    assert decoded_in(one_batch(3, 1), [2, 0, 1]) == [[1], [1], [1]]
    assert decoded_in(all_batches_of_group(np.zeros(3, np.int64)), [2, 0]) == [[0, 1, 2], [0, 1, 2]]
    groups = np.array([0, 1, 0, 2, 0, 1])
    assert decoded_in(all_batches_of_group(groups), [0, 1, 3, 4, 5]) == [[0, 2, 4], [1, 5], [3], [0, 2, 4], [1, 5]]


@pytest.mark.slow
def test_collecting_holds_no_more_than_a_block_besides_the_result():
    def blocks():
        for start in range(0, 2000, 10):
            yield slice(start, start + 10), torch.full((10, 1000), float(start))

    tracemalloc.start()
    table = collect(blocks(), (2000, 2), np.array([5, 900]), np.array([1, 0]))
    of_table = tracemalloc.get_traced_memory()[1]
    tracemalloc.reset_peak()
    sparse = collect(blocks(), (2000, 1000), np.arange(1000), np.arange(1000), threshold=1985.0, as_csr=True)
    of_sparse = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    full = 4 * 2000 * 1000
    assert max(of_table, of_sparse) < full / 5
    np.testing.assert_array_equal(table, np.repeat(np.arange(0, 2000, 10), 10)[:, None] * np.ones(2))
    assert sparse.nnz == 10 * 1000
