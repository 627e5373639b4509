import numpy as np
import pytest
import torch
from scipy import sparse

import sc_vaenb
from sc_vaenb.fit.batches import Counts
from sc_vaenb.fit.overlap import Overlap, assumed, find_overlap


def counts_of(adata, batch):
    matrix = sparse.csr_matrix(adata.X, dtype=np.float32)
    depth = np.asarray(matrix.sum(1)).ravel()
    return Counts(matrix, (depth / depth.mean()).astype(np.float32), batch)


@pytest.fixture(scope="module")
def cells():
    return sc_vaenb.datasets.simulate(800, 500, n_types=4, n_batches=4, mean_depth=5000, theta=20, rng=1)


def test_batches_with_the_same_types_are_one_group(cells):
    overlap = find_overlap(counts_of(cells, cells.obs["batch"].cat.codes.to_numpy(np.int64)))
    assert overlap.group.tolist() == [0, 0, 0, 0]
    assert overlap.code().tolist() == [0, 1, 2, 3]
    assert overlap.share.min() > 0.2


def test_batches_with_different_types_fall_into_groups(cells):
    """Two replicates of types 0 and 1, interleaved with two of types 2 and 3: no kind of cell in common."""
    late = (cells.obs["cell_type"].cat.codes >= 2).to_numpy()
    replicate = np.random.default_rng(0).integers(2, size=cells.n_obs)
    overlap = find_overlap(counts_of(cells, 2 * replicate + late))
    assert overlap.group.tolist() == [0, 1, 0, 1]
    assert overlap.code().tolist() == [0, 0, 1, 1]
    across = overlap.group[:, None] != overlap.group
    assert overlap.share[across].max() < 0.05
    assert overlap.share[~across].min() > 0.9


def test_a_batch_in_between_holds_a_group_together(cells):
    """The same, and a fifth batch of all types."""
    late = (cells.obs["cell_type"].cat.codes >= 2).to_numpy()
    fifth = np.random.default_rng(0).random(cells.n_obs) < 0.2
    batch = np.where(fifth, 4, 2 * np.random.default_rng(1).integers(2, size=cells.n_obs) + late)
    assert find_overlap(counts_of(cells, batch)).group.tolist() == [0] * 5


def test_a_single_odd_cell_in_a_small_batch_links_nothing(cells):
    late = (cells.obs["cell_type"].cat.codes >= 2).to_numpy()
    batch = 2 * np.random.default_rng(0).integers(2, size=cells.n_obs) + late
    early = np.flatnonzero(~late)
    batch[early[:10]] = 4  # a small batch of the first kind
    batch[np.flatnonzero(late)[0]] = 4  # with one doublet
    assert find_overlap(counts_of(cells, batch)).group.tolist() == [0, 1, 0, 1, 0]


@pytest.mark.parametrize("n_batches", [1, 2, 3])
def test_few_batches_are_one_group(cells, n_batches):
    batch = np.arange(cells.n_obs) % n_batches
    overlap = find_overlap(counts_of(cells, batch))
    np.testing.assert_array_equal(overlap.share, assumed(n_batches).share)
    assert not overlap.group.any()


def test_tiny_batches_and_repeated_calls(cells):
    batch = np.arange(cells.n_obs) // 2  # 400 batches of two cells
    state = torch.get_rng_state()
    first, again = (find_overlap(counts_of(cells, batch), seed=3) for _ in range(2))
    np.testing.assert_array_equal(first.share, again.share)
    assert (np.bincount(first.group) > 1).all()  # every batch is linked to one at least
    assert torch.equal(torch.get_rng_state(), state)


def test_codes_count_within_groups():
    assert Overlap(np.eye(5), np.array([0, 1, 0, 1, 1])).code().tolist() == [0, 0, 1, 1, 2]
