import numpy as np
import pytest
import torch
from scipy import sparse
from scipy.sparse.csgraph import connected_components

import sc_vaenb
from sc_vaenb.data.counts import Counts
from sc_vaenb.fit.overlap import MAX_BATCHES, Overlap, closest, find_overlap, groups_by_time, sample_per_batch


def counts_of(adata, batch):
    matrix = sparse.csr_matrix(adata.X, dtype=np.float32)
    depth = np.asarray(matrix.sum(1)).ravel()
    return Counts(matrix, (depth / depth.mean()).astype(np.float32), batch)


@pytest.fixture(scope="module")
def cells():
    return sc_vaenb.datasets.simulate(800, 500, n_types=4, n_batches=1, mean_depth=5000, theta=20, rng=1)


def designed(types_of, seed, **options):
    """Cells of the types of each batch, the batch codes, and the design's own groups."""
    table = np.array(types_of)
    adata = sc_vaenb.datasets.simulate(
        200 * len(table), 500, n_types=table.shape[1], n_batches=len(table), composition=table, rng=seed, **options
    )
    common = table @ table.T > 0
    group = connected_components(common, directed=False)[1]
    return adata, adata.obs["batch"].cat.codes.to_numpy(np.int64), group.tolist()


ALL, ABC, DEF, AB, CD, EF = [1] * 6, [1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1], *np.repeat(np.eye(3, dtype=int), 2, 1)
DESIGNS = {
    "all types in all": [ALL] * 3,
    "two batches, nothing in common": [ABC, DEF],
    "three batches, nothing in common": [AB, CD, EF],
    "two and two": [ABC, ABC, DEF, DEF],
    "interleaved": [ABC, DEF, ABC, DEF],
    "three by three": [AB] * 3 + [CD] * 3 + [EF] * 3,
    "eight and two": [ABC] * 8 + [DEF] * 2,
    "one that stands alone": [[1, 1, 1, 1, 0, 0]] * 4 + [EF],
    "two kinds link": [[1, 1, 1, 1, 0, 0], [0, 0, 1, 1, 1, 1]],
}


@pytest.mark.slow
@pytest.mark.parametrize("strength", [0.1, 0.3])
@pytest.mark.parametrize("design", DESIGNS)
def test_groups_are_those_of_the_design(design, strength):
    adata, batch, group = designed(DESIGNS[design], seed=11, batch_strength=strength)
    assert find_overlap(counts_of(adata, batch)).group.tolist() == group


def test_an_effect_as_large_as_the_types_does_not_hide_what_is_shared():
    adata, batch, group = designed([ALL] * 3, seed=1, batch_strength=0.6)
    assert find_overlap(counts_of(adata, batch)).group.tolist() == group


def test_one_population_in_each_batch_is_kept_apart():
    """Sorted cells: nothing says that two populations are one kind and a batch effect."""
    adata, batch, _ = designed(np.eye(6, dtype=int), seed=3)
    assert find_overlap(counts_of(adata, batch)).group.tolist() == [0, 1, 2, 3, 4, 5]


def test_replicates_of_one_population_are_linked_where_they_are_alike():
    adata, batch, _ = designed(np.repeat(np.eye(3, dtype=int), 2, axis=0), seed=3, batch_strength=0.0)
    assert find_overlap(counts_of(adata, batch)).group.tolist() == [0, 0, 1, 1, 2, 2]


def test_share_is_of_the_cells_in_common_kinds():
    adata, batch, _ = designed([[1, 1, 0, 0], [1, 1, 1, 1]], seed=5)
    share = find_overlap(counts_of(adata, batch)).share
    assert share[0, 1] > 0.95
    assert share[1, 0] == pytest.approx(0.5, abs=0.05)


def test_small_batches_go_with_the_closest(cells):
    late = (cells.obs["cell_type"].cat.codes >= 2).to_numpy()
    batch = 2 * np.random.default_rng(0).integers(2, size=cells.n_obs) + late
    batch[np.flatnonzero(~late)[:10]] = 4
    assert find_overlap(counts_of(cells, batch)).group.tolist() == [0, 1, 0, 1, 0]


def test_the_closest_mean_is_that_of_the_smallest_distance():
    rng = np.random.default_rng(0)
    values, means = rng.normal(size=(30, 6)), rng.normal(size=(5, 6))
    rows = np.split(rng.permutation(30), [1, 5, 20])
    distance = [[((values[r].mean(0) - mean) ** 2).sum() for mean in means] for r in rows]
    assert closest(sparse.csr_matrix(values, dtype=np.float32), rows, means).tolist() == np.argmin(distance, 1).tolist()


@pytest.mark.slow
def test_of_many_batches_the_largest_are_compared():
    adata = sc_vaenb.datasets.simulate(3000, 200, n_types=3, n_batches=1, rng=0)
    batch = np.arange(3000) % (MAX_BATCHES + 36)
    parts = sample_per_batch(batch)
    assert sum(len(part) >= 30 for part in parts) == MAX_BATCHES
    overlap = find_overlap(counts_of(adata, batch))
    assert not overlap.group.any()
    assert overlap.share.shape == (MAX_BATCHES, MAX_BATCHES)
    assert len(np.unique(overlap.compared)) == MAX_BATCHES


def test_tiny_batches_and_repeated_calls(cells):
    batch = np.arange(cells.n_obs) // 2  # 400 batches of two cells
    state = torch.get_rng_state()
    first, again = (find_overlap(counts_of(cells, batch)) for _ in range(2))
    np.testing.assert_array_equal(first.share, again.share)
    assert not first.group.any()  # nothing can be told
    assert torch.equal(torch.get_rng_state(), state)


def test_one_batch_is_one_group(cells):
    overlap = find_overlap(counts_of(cells, np.zeros(cells.n_obs, np.int64)))
    assert overlap.share.shape == (0, 0)
    assert overlap.group.tolist() == [0]


def test_codes_count_within_groups():
    assert Overlap(np.eye(5), np.array([0, 1, 0, 1, 1]), np.arange(5)).code().tolist() == [0, 0, 1, 1, 2]


@pytest.mark.parametrize(
    ("batches", "times", "group"),
    [
        ([0, 1, 2, 3], [5, 2, 5, 2], [0, 1, 0, 1]),
        ([0, 1, 2, 2], [0, 1, 0, 2], [0, 1, 0]),
        ([0, 1, 2, 2, 3], [0, 1, 0, 1, 2], [0, 0, 0, 1]),  # batch 2 links two times
    ],
)
def test_batches_of_one_time_are_a_group(batches, times, group):
    assert groups_by_time(np.array(batches), np.array(times)).tolist() == group
