"""What batches do to all kinds of cells alike: found by a median over clusters, whatever a disease does to a few."""

import numpy as np
import pytest
from scipy import sparse

from sc_vaenb.inference.offsets import _weighted_median, batch_offsets

N_GENES, N_BATCHES, N_CLUSTERS = 60, 6, 5


@pytest.fixture(scope="module")
def cells():
    """Six batches, of which the last three are cases: in one of five clusters 20 genes are changed fourfold."""
    rng = np.random.default_rng(0)
    profile = rng.gamma(1.0, size=(N_CLUSTERS, N_GENES)) + 0.1
    shift = rng.normal(0, 0.4, (N_BATCHES, N_GENES))
    cluster, batch = np.repeat(np.arange(N_CLUSTERS), 600), np.tile(np.repeat(np.arange(N_BATCHES), 100), N_CLUSTERS)
    rate = profile[cluster] * np.exp(shift[batch])
    rate[np.ix_((batch >= 3) & (cluster == 0), np.arange(20))] *= 4
    counts = rng.poisson(600 * rate / rate.sum(1, keepdims=True))
    return sparse.csr_matrix(counts, dtype=np.float32), cluster, batch, shift


def centred(offset):
    """Offsets without what no share of the depth can show: a shift of all genes of a batch."""
    return offset - offset.mean(1, keepdims=True)


def test_the_effects_of_batches_are_found_and_the_disease_is_not_among_them(cells):
    counts, cluster, batch, shift = cells
    offset = batch_offsets(counts, cluster, batch, batch < 3, N_BATCHES)
    expected = centred(shift - shift[:3].mean(0))
    error = centred(offset) - expected
    assert np.abs(error[:3]).mean() < 0.06
    assert np.abs(error[3:]).mean() < 0.09
    changed = error[3:, :20].mean() - error[3:, 20:].mean()
    assert abs(changed) < 0.12 * np.log(4)


def test_a_cluster_without_controls_has_no_say(cells):
    counts, cluster, batch, _ = cells
    control = (batch < 3) & (cluster > 0)
    with_it = batch_offsets(counts, cluster, batch, control, N_BATCHES)
    kept = cluster > 0
    without = batch_offsets(counts[kept], cluster[kept], batch[kept], control[kept], N_BATCHES)
    np.testing.assert_allclose(with_it, without, atol=1e-6)


def test_a_batch_that_shares_no_cluster_with_the_controls_has_no_offset(cells):
    counts, cluster, batch, _ = cells
    apart = np.where(batch == 5, N_CLUSTERS, cluster)
    assert not batch_offsets(counts, apart, batch, batch < 3, N_BATCHES)[5].any()


def test_in_strata_of_cluster_and_time_an_offset_is_the_difference_from_the_time_point(cells):
    """Batches 0 to 2 are of one time and 3 to 5 of another: that the disease changes one cluster is no part of them."""
    counts, cluster, batch, shift = cells
    offset = batch_offsets(counts, 2 * cluster + (batch >= 3), batch, np.ones(len(batch), bool), N_BATCHES)
    for time in (slice(0, 3), slice(3, 6)):
        expected = centred(shift[time] - shift[time].mean(0))
        assert np.corrcoef(centred(offset)[time].ravel(), expected.ravel())[0, 1] > 0.97
        assert np.abs(offset[time].mean(0)).mean() < 0.3 * np.abs(offset[time]).mean()


def test_the_weighted_median_is_that_of_repeated_values():
    rng = np.random.default_rng(1)
    values, weight = rng.normal(size=(7, 40)), rng.integers(0, 5, (7, 40)).astype(float)
    weight[:, 0] = 0
    found = _weighted_median(values, weight)
    assert found[0] == 0
    for column in range(1, 40):
        repeated = np.sort(np.repeat(values[:, column], weight[:, column].astype(int)))
        assert found[column] == repeated[(len(repeated) - 1) // 2]
