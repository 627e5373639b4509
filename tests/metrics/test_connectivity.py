import numpy as np

from sc_vaenb.metrics import Neighbors, graph_connectivity, knn


def test_agrees_with_scib_metrics(case_and_stored):
    case, stored = case_and_stored
    found = graph_connectivity(knn(case["embedding"], 15), case["labels"])
    np.testing.assert_allclose(found, stored["scib_metrics"]["graph_connectivity"], atol=1e-12)


def test_by_hand():
    # edges 0-1 both ways, 2 -> 0 one way only, 3-4 both ways; label p = {0, 1, 2}, q = {3, 4}
    neighbors = Neighbors(np.array([[0, 1], [1, 0], [2, 0], [3, 4], [4, 3]]), np.zeros((5, 2)))
    np.testing.assert_allclose(graph_connectivity(neighbors, list("pppqq")), (2 / 3 + 1) / 2)
    np.testing.assert_allclose(graph_connectivity(neighbors, list("ppppp")), 2 / 5)


def test_a_label_torn_into_batches_is_half_connected(two_types):
    embedding, labels, batch = two_types
    whole = graph_connectivity(knn(embedding, 30), labels)
    torn = graph_connectivity(knn(embedding + np.where(batch == "x", 100.0, 0.0)[:, None], 30), labels)
    assert whole > 0.95
    assert 0.45 < torn <= 0.5
