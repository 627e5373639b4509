import numpy as np
import pytest

from sc_vaenb.metrics import (
    Neighbors,
    knn,
    label_purity,
    neighborhood_overlap,
    overlap_per_batch,
    purity_kept,
    purity_per_label,
)


def test_overlap_is_one_if_only_batches_moved(cases):
    x, batch = cases["moderate"]["embedding"], cases["moderate"]["batch"]
    shift = np.array([{"b0": 0.0, "b1": 50.0, "b2": -7.0}[name] for name in batch])[:, None]
    assert neighborhood_overlap(x + shift, x, batch) == 1


def test_overlap_of_noise_is_chance(two_types):
    embedding, _, batch = two_types
    noise = np.random.default_rng(1).standard_normal((300, 5))
    shares = overlap_per_batch(noise, embedding, batch, k=30)
    assert set(shares) == {"x", "y"}
    # types are apart in the embedding, not in noise
    np.testing.assert_allclose(list(shares.values()), 30 / 149, atol=0.03)


def test_overlap_by_hand():
    # within batch of 9, k = 2; a swap of cells 0 and 8 on the line changes known neighbourhoods
    x = np.arange(9.0)[:, None] ** 1.1
    swapped = x.copy()
    swapped[[0, 8]] = x[[8, 0]]
    nearest = [set(row) for row in np.argsort(np.abs(x - x.T), axis=1)[:, 1:3].tolist()]
    after = [set(row) for row in np.argsort(np.abs(swapped - swapped.T), axis=1)[:, 1:3].tolist()]
    expected = np.mean([len(old & new) / 2 for old, new in zip(nearest, after, strict=True)])
    assert 0 < expected < 1
    assert neighborhood_overlap(swapped, x, ["one"] * 9) == pytest.approx(expected)


def test_overlap_weighs_batches_equally_and_skips_single_cells():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((241, 3))
    batch = np.array(["big"] * 200 + ["small"] * 40 + ["one"])
    after = x.copy()
    after[200:] = rng.standard_normal((41, 3))
    shares = overlap_per_batch(after, x, batch)
    assert set(shares) == {"big", "small"}
    assert shares["big"] == 1
    assert shares["small"] < 0.5
    assert neighborhood_overlap(after, x, batch) == pytest.approx((1 + shares["small"]) / 2)


def test_purity_by_hand():
    # columns: itself, then neighbours; label r has 2 cells, so only its nearest neighbour counts; s has one
    indices = np.array([[0, 1, 2], [1, 0, 3], [2, 0, 1], [3, 4, 0], [4, 3, 1], [5, 0, 1]])
    neighbors = Neighbors(indices, np.zeros((6, 3)))
    purity = purity_per_label(neighbors, list("ppprrs"))
    assert purity["p"] == pytest.approx((1 + 0.5 + 1) / 3)
    assert purity["r"] == 1
    assert np.isnan(purity["s"])
    assert label_purity(neighbors, list("ppprrs")) == pytest.approx((5 / 6 + 1) / 2)


@pytest.fixture
def forced():
    """T only in batch x, U only in y, B in both; 'forced' lays T over U as an over-correcting method does."""
    rng = np.random.default_rng(0)
    labels = np.repeat(["T", "U", "B"], 60)
    batch = np.concatenate([np.repeat(["x", "y"], 60), np.tile(["x", "y"], 30)])
    centre = np.array([{"T": 0.0, "U": 10.0, "B": 20.0}[name] for name in labels])[:, None]
    noise = rng.standard_normal((180, 4))
    return labels, batch, noise + centre, noise + np.where(labels == "U", 0.0, centre[:, 0])[:, None]


def test_overcorrection_shows_in_confounded_labels_only(forced):
    labels, batch, kept, lost = forced
    good, bad = knn(kept, 15), knn(lost, 15)
    assert label_purity(good, labels, batch, which="confounded") == 1
    assert label_purity(good, labels, batch, which="private") == 1
    assert label_purity(bad, labels, batch, which="confounded") == pytest.approx(0.5, abs=0.1)
    assert label_purity(bad, labels) == pytest.approx((1 + 2 * label_purity(bad, labels, batch, which="private")) / 3)
    assert purity_kept(bad, good, labels, batch) == label_purity(bad, labels, batch, which="private")
    assert purity_kept(good, bad, labels, batch) == 1  # purer than before is no more than kept


def test_private_is_stricter_than_confounded(forced):
    labels, batch, _, lost = forced
    batch = np.where(batch == "y", np.tile(["y", "z"], 90), batch)  # U now in y and z, of three batches
    neighbors = knn(lost, 15)
    purity = purity_per_label(neighbors, labels)
    assert label_purity(neighbors, labels, batch, which="private") == pytest.approx(purity["T"])
    n_batches = {name: len(set(batch[labels == name])) for name in "TUB"}
    expected = np.mean([purity[name] for name, n in n_batches.items() if n < 3])
    assert label_purity(neighbors, labels, batch, which="confounded") == pytest.approx(expected)


def test_no_such_label_is_nan(two_types):
    embedding, labels, batch = two_types
    neighbors = knn(embedding, 15)
    assert np.isnan(label_purity(neighbors, labels, batch, which="private"))
    assert np.isnan(purity_kept(neighbors, neighbors, labels, batch, which="confounded"))


def test_errors(two_types):
    embedding, labels, batch = two_types
    neighbors = knn(embedding, 15)
    with pytest.raises(ValueError, match="which='private' depends on the batches but batch is None"):
        label_purity(neighbors, labels, which="private")
    known = r"^which='rare' is not known\. Choose one of \['all', 'confounded', 'private'\]\.$"
    with pytest.raises(ValueError, match=known):
        label_purity(neighbors, labels, batch, which="rare")
    with pytest.raises(ValueError, match="neighbors is 300 cells x 15 but reference_neighbors is 300 x 10"):
        purity_kept(neighbors, neighbors.first(10), labels, batch)
    with pytest.raises(ValueError, match="reference has 299 cells but embedding has 300"):
        neighborhood_overlap(embedding, embedding[1:], batch)
