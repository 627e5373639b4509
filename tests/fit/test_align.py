import numpy as np
import pytest
import torch

from sc_vaenb.fit.align import (
    MAX_CLUSTERS,
    MIN_CELLS_PER_BATCH,
    PSEUDO_CELLS,
    RIDGE,
    align,
    draw_cells,
    n_clusters,
    shifts,
)
from sc_vaenb.metrics import score
from sc_vaenb.model.alignment import Alignment


def states(n=600, dims=6, seed=0):
    """Latent states of three types in two batches, shifted differently in each type."""
    rng = np.random.default_rng(seed)
    kind, batch = rng.integers(3, size=n), rng.integers(2, size=n)
    centre, shift = 4 * rng.normal(size=(3, dims)), rng.normal(size=(3, dims))
    z = centre[kind] + batch[:, None] * shift[kind] + 0.3 * rng.normal(size=(n, dims))
    return z.astype(np.float32), batch, kind


def fitted(z, batch, group=None, seed=0):
    group = np.zeros(batch.max() + 1, np.int64) if group is None else np.array(group)
    alignment = Alignment(n_clusters(len(z)), len(group), z.shape[1])
    align(alignment, z, batch, group, seed)
    return alignment


def apply(alignment, z, batch):
    return alignment(torch.from_numpy(z), torch.from_numpy(batch)).numpy()


def gaps(z, batch, kind):
    """Distance between the batches' means of each type."""
    means = [[z[(kind == k) & (batch == b)].mean(0) for b in range(2)] for k in range(3)]
    return np.array([np.linalg.norm(a - b) for a, b in means])


def test_unfitted_it_changes_nothing():
    z, batch, _ = states()
    np.testing.assert_array_equal(apply(Alignment(5, 2, 6), z, batch), z)


@pytest.mark.slow
def test_batches_are_laid_over_each_other_type_by_type():
    z, batch, kind = states()
    result = apply(fitted(z, batch), z, batch)
    assert (gaps(z, batch, kind) > 1.5).all()
    assert (gaps(result, batch, kind) < 0.5 * gaps(z, batch, kind)).all()
    before, after = (score(x, kind.astype(str), batch) for x in (z, result))
    assert after["batch"] > before["batch"] + 0.2
    assert after["bio"] > before["bio"] - 0.02


def test_batches_of_different_groups_stay_apart():
    z, batch, kind = states()
    np.testing.assert_allclose(apply(fitted(z, batch, [0, 1]), z, batch), z, atol=1e-5)
    both = np.concatenate([z, z + np.float32(0.5)])  # batches 2 and 3: the same once more, elsewhere
    batches, kinds = np.concatenate([batch, batch + 2]), np.concatenate([kind, kind])
    result = apply(fitted(both, batches, [0, 0, 1, 1]), both, batches)
    for first in (0, 2):
        own = (batches == first) | (batches == first + 1)
        assert (gaps(result[own], batches[own] - first, kinds[own]) < 0.5 * gaps(z, batch, kind)).all()
    between = result[batches >= 2].mean(0) - result[batches < 2].mean(0)
    np.testing.assert_allclose(between, 0.5, atol=0.1)


def test_a_type_that_one_batch_lacks_is_not_drawn_to_others():
    z, batch, kind = states()
    kept = ~((kind == 2) & (batch == 1))
    z, batch, kind = z[kept], batch[kept], kind[kept]
    result = apply(fitted(z, batch), z, batch)
    own = kind == 2
    assert np.linalg.norm(result[own].mean(0) - z[own].mean(0)) < 0.3
    nearest = np.array([np.linalg.norm(result[own].mean(0) - result[kind == k].mean(0)) for k in (0, 1)])
    assert (nearest > 4).all()


def test_new_cells_are_aligned_as_the_fitted_ones_were():
    z, batch, _ = states()
    half = np.arange(len(z)) % 2 == 0
    alignment = fitted(z[half], batch[half])
    together = apply(alignment, z, batch)
    np.testing.assert_allclose(apply(alignment, z[~half], batch[~half]), together[~half], atol=1e-5)
    np.testing.assert_allclose(together, apply(fitted(z, batch), z, batch), atol=0.5)


def test_a_few_cells_are_hardly_moved():
    """Two cells of a third batch say nothing of its effect."""
    z, batch, _ = states()
    z = np.concatenate([z, z[:2] + np.float32(1.0)])
    batch = np.concatenate([batch, [2, 2]])
    moved = np.linalg.norm(apply(fitted(z, batch), z, batch) - z, axis=1)
    assert moved[-2:].max() < moved[:-2].mean()


def test_many_batches_are_laid_over_each_other():
    """Two kinds of batches, 10 of each; a batch has few cells in each cluster, so its shifts are shrunk more."""
    z, side, kind = states(6000)
    batch = 2 * np.random.default_rng(1).integers(10, size=len(z)) + side
    result = apply(fitted(z, batch), z, batch)
    assert (gaps(result, side, kind) < 0.6 * gaps(z, side, kind)).all()


def test_shifts_are_differences_from_the_group_shrunk_where_cells_are_few():
    """Beside the formula, one batch and cluster at a time."""
    rng = np.random.default_rng(0)
    observed, expected, group = 50 * rng.random((5, 3)), 50 * rng.random((5, 3)), np.array([0, 1, 0, 1, 1])
    mean = rng.normal(size=(5, 3, 4))
    found = shifts(*map(torch.from_numpy, (mean * observed[:, :, None], observed, expected, group)))
    for b in range(5):
        for k in range(3):
            weight = observed[:, k] / (observed[:, k] + RIDGE * expected[:, k] + PSEUDO_CELLS)
            of_group = np.average(mean[group == group[b], k], axis=0, weights=weight[group == group[b]])
            np.testing.assert_allclose(found[b, k], weight[b] * (mean[b, k] - of_group), atol=1e-12)


def test_large_data_are_drawn_from_batch_by_batch():
    batch = np.repeat([0, 1, 2], [60_000, 30, 120])
    sizes = np.bincount(batch[draw_cells(batch, np.random.default_rng(0))])
    assert sizes[0] == pytest.approx(20_000, rel=0.01)
    assert sizes.tolist()[1:] == [30, MIN_CELLS_PER_BATCH]


@pytest.mark.parametrize(("n", "expected"), [(4, 2), (300, 10), (10**6, MAX_CLUSTERS)])
def test_clusters_follow_the_cells(n, expected):
    assert n_clusters(n) == expected


def test_degenerate_states_stay_numbers():
    z, batch = np.zeros((50, 3), np.float32), np.arange(50) % 2
    np.testing.assert_array_equal(apply(fitted(z, batch), z, batch), 0)
    few = np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32)
    assert np.isfinite(apply(fitted(few, np.array([0, 1])), few, np.array([0, 1]))).all()


def test_the_same_seed_gives_the_same():
    z, batch, _ = states()
    np.testing.assert_array_equal(apply(fitted(z, batch), z, batch), apply(fitted(z, batch), z, batch))


def test_it_is_fitted_on_one_thread(monkeypatch):
    """So that it rounds alike on every machine."""
    seen, before = [], torch.get_num_threads()
    monkeypatch.setattr(
        "sc_vaenb.fit.align.shifts", lambda *args: seen.append(torch.get_num_threads()) or shifts(*args)
    )
    z, batch, _ = states()
    torch.set_num_threads(2)
    try:
        fitted(z, batch)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert set(seen) == {1}
