from itertools import islice

import numpy as np
import pytest
import torch
from scipy import sparse

from sc_vaenb.data import on_disk as stored
from sc_vaenb.data.counts import Counts
from sc_vaenb.data.on_device import DeviceCounts
from sc_vaenb.data.on_disk import CountsOnDisk, scan
from sc_vaenb.fit.cuda import to_device
from sc_vaenb.fit.loop import Step, fit
from sc_vaenb.fit.split import cells_seen, split_cells
from sc_vaenb.fit.state import FitConfig
from sc_vaenb.model.config import ModelConfig

CPU = torch.device("cpu")
N, GENES = 1000, 12
FIELDS = ("row", "gene", "count", "size_factor", "batch_index")


@pytest.fixture(scope="module")
def counts():
    rng = np.random.default_rng(0)
    dense = rng.poisson(1.0, (N, GENES)).astype(np.float32)
    dense[:, 0] = np.arange(N) % 7 + 1
    size = dense.sum(1)
    codes = rng.integers(5, size=N)
    side_inputs = {"covariates": rng.normal(size=(N, 2)).astype(np.float32)}
    return Counts(sparse.csr_matrix(dense), (size / size.mean()).astype(np.float32), codes, side_inputs)


@pytest.fixture
def small_windows(monkeypatch):
    monkeypatch.setattr(stored, "WINDOW", 256)
    monkeypatch.setattr("sc_vaenb.fit.split.WINDOW", 256)
    monkeypatch.setattr(stored, "BLOCK", 16)


def on_disk(counts, options, seed=0):
    """The same as if it were on disk."""

    def blocks(cells=slice(None)):
        first, last, _ = cells.indices(N)
        return (counts.matrix[start : min(start + 300, last)] for start in range(first, last, 300))

    def read(numbers):
        block = stored.BLOCK
        return sparse.vstack([counts.matrix[block * i : block * (i + 1)] for i in numbers], format="csr")

    cells, complete = cells_seen(counts.batch_index, options, seed)
    matrix = scan(blocks(), GENES, cells).matrix
    about = {"held": cells, "complete": complete, "blocks": blocks, "read": read}
    return CountsOnDisk(matrix, counts.size_factor, counts.batch_index, counts.side_inputs, **about)


def same(one, other):
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in FIELDS)


def test_one_pass_finds_depths_seen_genes_and_the_rows_asked_for(counts):
    silent = counts.matrix.toarray()
    silent[:, 3] = 0
    blocks = (sparse.csr_matrix(silent[start : start + 300]) for start in range(0, N, 300))
    found = scan(blocks, GENES, np.array([0, 299, 300, 999]))
    np.testing.assert_array_equal(found.depth, silent.sum(1))
    assert np.flatnonzero(~found.seen).tolist() == [3]
    np.testing.assert_array_equal(found.matrix.toarray(), silent[[0, 299, 300, 999]])


def test_a_fit_needs_no_cell_that_was_not_foreseen_and_is_the_one_in_memory(counts, monkeypatch):
    monkeypatch.setattr("sc_vaenb.fit.split.N_INIT_CELLS", 100)
    monkeypatch.setattr("sc_vaenb.data.counts.MAX_SPREAD_CELLS", 250)
    monkeypatch.setattr("sc_vaenb.fit.overlap.MAX_CELLS", 100)
    monkeypatch.setattr("sc_vaenb.fit.overlap.MIN_CELLS_DRAWN", 20)
    options = FitConfig(3, 0.1, batch_size=20)
    there = on_disk(counts, options, seed=4)
    assert there.complete
    assert len(there.held) < N  # or there would be nothing to foresee
    config = ModelConfig(GENES, 5, 3, (8,), (8,), batch_width=2)
    models = [fit(config, c, options, CPU, 4)[0] for c in (there, counts)]
    for one, other in zip(*(m.state_dict().values() for m in models), strict=True):
        assert torch.equal(one, other)


def test_cells_in_order_are_those_in_memory(counts, monkeypatch):
    monkeypatch.setattr("sc_vaenb.data.counts.CELLS_AT_ONCE", 300)
    there = on_disk(counts, FitConfig(3, 0.1))
    for one, other in zip(there.in_order(CPU), counts.in_order(CPU), strict=True):
        assert same(one, other)


def test_more_steps_than_a_window_holds_see_every_cell_but_those_held_out(counts, small_windows):
    options = FitConfig(200, 0.1, batch_size=16)
    there = on_disk(counts, options)
    assert not there.complete
    train, validation, first, rng = split_cells(counts.batch_index, options, 0)
    seen = []
    for cells in islice(there.shuffled(train, 16, rng), 4 * N // 16):
        assert same(there.minibatch(cells, CPU), counts.minibatch(cells, CPU))
        assert same(there.minibatch(validation, CPU), counts.minibatch(validation, CPU))
        assert same(there.minibatch(first, CPU), counts.minibatch(first, CPU))
        seen.append(cells)
    np.testing.assert_array_equal(np.unique(np.concatenate(seen)), train)
    starts = np.concatenate([cells[:-1] + 1 == cells[1:] for cells in seen])
    assert starts.mean() < 0.1  # neighbours on disk do not stay together


@pytest.mark.parametrize("size", [16, 400])
def test_windows_are_drawn_by_the_seed_alone(counts, size, small_windows):
    options = FitConfig(200, 0.1, batch_size=size)
    runs = [
        list(islice(on_disk(counts, options).shuffled(np.arange(N), size, np.random.default_rng(seed)), 40))
        for seed in (1, 1, 2)
    ]
    assert all(len(cells) == size for cells in runs[0])
    np.testing.assert_array_equal(runs[0], runs[1])
    assert not np.array_equal(runs[0], runs[2])


def test_windows_grow_to_their_size(counts, small_windows):
    there = on_disk(counts, FitConfig(200, 0.1, batch_size=16))
    windows = islice(there.windows(np.arange(N), 2, np.random.default_rng(0)), 6)
    sizes = [round(len(window.order) / 16) for window in windows]
    assert sizes[:4] == [2, 4, 8, 16]
    assert max(sizes) == 16


def test_cells_held_can_lie_on_a_device(counts, monkeypatch):
    monkeypatch.setattr("sc_vaenb.data.counts.CELLS_AT_ONCE", 300)
    monkeypatch.setattr("sc_vaenb.fit.split.N_INIT_CELLS", 100)
    monkeypatch.setattr("sc_vaenb.data.counts.MAX_SPREAD_CELLS", 250)
    there = on_disk(counts, FitConfig(3, 0.1, batch_size=20))
    device = DeviceCounts(there, CPU)
    cells = there.held[[5, 90, 3]]
    assert same(device.minibatch(cells, CPU), counts.minibatch(cells, CPU))
    for one, other in zip(device.in_order(CPU), counts.in_order(CPU), strict=True):
        assert same(one, other)


def test_a_second_fit_does_not_hold_the_windows_of_the_first(counts, small_windows, monkeypatch):
    monkeypatch.setattr("sc_vaenb.fit.overlap.MAX_CELLS", 100)
    monkeypatch.setattr("sc_vaenb.fit.overlap.MIN_CELLS_DRAWN", 20)
    monkeypatch.setattr("sc_vaenb.fit.split.N_INIT_CELLS", 100)
    monkeypatch.setattr("sc_vaenb.data.counts.MAX_SPREAD_CELLS", 50)
    monkeypatch.setattr(stored, "WINDOW", 64)
    monkeypatch.setattr("sc_vaenb.fit.split.WINDOW", 64)

    def held_after(seeds):
        there = on_disk(counts, FitConfig(200, 0.1, batch_size=16))
        for seed in seeds:
            drawn = list(islice(there.shuffled(np.arange(N), 16, np.random.default_rng(seed)), 40))
        return there.held, drawn

    (once, expected), (twice, found) = held_after([2]), held_after([1, 2])
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(twice, once)


def test_windows_are_not_put_on_a_device(counts, small_windows):
    there = on_disk(counts, FitConfig(200, 0.1, batch_size=16))
    assert to_device(there, torch.device("cuda")) == (there, Step)


def test_no_other_cell_is_given_for_one_that_is_not_held(counts, monkeypatch):
    monkeypatch.setattr("sc_vaenb.fit.overlap.MAX_CELLS", 100)
    monkeypatch.setattr("sc_vaenb.fit.overlap.MIN_CELLS_DRAWN", 20)
    monkeypatch.setattr("sc_vaenb.fit.split.N_INIT_CELLS", 100)
    monkeypatch.setattr("sc_vaenb.data.counts.MAX_SPREAD_CELLS", 250)
    there = on_disk(counts, FitConfig(3, 0.1, batch_size=20))
    missing = np.setdiff1d(np.arange(N), there.held)
    for cells in (missing[:1], missing[-1:]):
        with pytest.raises(LookupError, match="not in memory"):
            there.minibatch(cells, CPU)
