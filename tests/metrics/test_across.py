import numpy as np
import pytest

from sc_vaenb.metrics import cross_batch_accuracy, cross_batch_hits, fuzzy_graph, graph_neighbors, knn


def test_types_that_lie_on_each_other_across_batches_are_right(two_types):
    x, labels, batch = two_types
    assert cross_batch_accuracy(x, labels, batch) == 1
    swapped = np.where(batch == "x", labels, np.where(labels == "T", "B", "T"))
    assert cross_batch_accuracy(x, swapped, batch) == 0  # pure neighbourhoods in each batch, and yet all wrong


def test_a_rare_label_can_win_and_a_private_one_has_no_vote():
    """Three cells of a label in the other batch are as many votes as a cell of it asks for."""
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(0, 1, (40, 2)), rng.normal(30, 1, (6, 2)), rng.normal(60, 1, (10, 2))])
    labels = np.repeat(["often", "rare", "private"], [40, 6, 10])
    batch = np.concatenate([np.tile(["x", "y"], 23), np.repeat("x", 10)])
    hits = cross_batch_hits(x, labels, batch)
    assert hits[labels == "rare"].tolist() == [1] * 6
    assert np.isnan(hits[labels == "private"]).all()
    assert cross_batch_accuracy(x, labels, batch) == 1
    assert np.isnan(cross_batch_accuracy(x, batch, batch))  # no label is in two batches


def test_every_label_counts_the_same():
    x = np.concatenate([np.zeros((90, 1)), np.ones((10, 1))])
    labels = np.repeat(["often", "rare"], [90, 10])
    batch = np.tile(["x", "y"], 50)
    lost = np.where(labels == "rare", 0.0, x[:, 0])[:, None] + np.random.default_rng(0).normal(0, 1e-3, (100, 1))
    assert cross_batch_accuracy(lost, labels, batch) == pytest.approx(0.5, abs=0.06)


def test_neighbours_of_a_graph_give_the_same_vote(two_types):
    x, labels, batch = two_types
    neighbors = graph_neighbors(fuzzy_graph(knn(x, 15)), 60)
    assert neighbors.indices[:, 0].tolist() == list(range(300))
    assert (np.diff(neighbors.distances[:, 1:], axis=1) >= 0).all()
    assert cross_batch_accuracy(neighbors, labels, batch) == 1


def test_few_cells_of_other_batches_do_not_crash():
    x = np.arange(12.0)[:, None]
    labels, batch = np.repeat(["a", "b"], 6), np.array(["x"] * 10 + ["y"] * 2)
    hits = cross_batch_hits(x, labels, batch)
    assert np.isnan(hits[:6]).all()
    assert hits[6:].tolist() == [1] * 6
