import numpy as np
import pytest
from scipy.sparse import csr_array
from scipy.spatial.distance import cdist

from sc_vaenb.metrics import fuzzy_graph, graph_neighbors, knn
from sc_vaenb.metrics._check import check_groups
from sc_vaenb.metrics.neighbors import capped_k, knn_within


def test_neighbors_are_those_of_the_full_distance_matrix():
    x = np.random.default_rng(0).standard_normal((200, 6)) + 1e7  # far from the origin: cancellation would show
    found = knn(x, 12)
    distances = cdist(x, x)
    np.testing.assert_array_equal(found.indices, np.argsort(distances, axis=1)[:, :12])
    np.testing.assert_allclose(found.distances, np.sort(distances, axis=1)[:, :12], atol=1e-7)


def test_known_line():
    found = knn([[0.0], [1.0], [3.0], [7.0]], 3)
    assert found.indices.tolist() == [[0, 1, 2], [1, 0, 2], [2, 1, 0], [3, 2, 1]]
    assert found.distances.tolist() == [[0, 1, 3], [0, 1, 2], [0, 2, 3], [0, 4, 6]]


def test_a_cell_is_its_own_first_neighbor_among_duplicates():
    found = knn(np.zeros((40, 3)), 5)
    assert found.indices[:, 0].tolist() == list(range(40))
    assert all(len(set(row)) == 5 for row in found.indices.tolist())


def test_k_is_capped_and_first_takes_the_nearest():
    found = knn(np.random.default_rng(0).standard_normal((8, 2)), 90)
    assert found.k == 8
    np.testing.assert_array_equal(found.first(3).indices, found.indices[:, :3])


def test_neighbors_within_a_group_stay_there():
    x = np.random.default_rng(0).standard_normal((60, 3))
    groups = check_groups(np.repeat(["a", "b", "lonely"], [40, 19, 1]), 60, "batch")
    seen = []
    for code, cells, neighbors in knn_within(x, groups, 30):
        distances = cdist(x[cells], x[cells])
        k = capped_k(30, len(cells))
        np.testing.assert_array_equal(neighbors, np.argsort(distances, axis=1)[:, 1 : k + 1])
        seen.append((code, len(cells), k))
    assert seen == [(0, 40, 9), (1, 19, 4)]


def test_fuzzy_graph_agrees_with_umap(case_and_stored):
    case, stored = case_and_stored
    graph = fuzzy_graph(knn(case["embedding"], 15))
    np.testing.assert_allclose(graph.sum(), stored["fuzzy_graph_sum"], rtol=1e-5)
    np.testing.assert_allclose(graph.sum(axis=1)[:20], stored["fuzzy_graph_degree"], rtol=1e-4)
    assert abs(graph - graph.T).max() < 1e-12
    assert graph.diagonal().max() == 0


def test_fuzzy_graph_weights_sum_to_log2_k_before_union():
    # two cells: each other's nearest, weight 1 in both directions, union 1
    assert fuzzy_graph(knn([[0.0], [5.0]], 2)).toarray().tolist() == [[0, 1], [1, 0]]
    # all cells on one point: every weight 1
    assert fuzzy_graph(knn(np.zeros((6, 2)), 6)).toarray().tolist() == (1 - np.eye(6)).tolist()


def test_bad_k():
    with pytest.raises(ValueError, match=r"k=0 is not possible. Give a whole number at least 1"):
        knn(np.zeros((5, 2)), 0)


def test_a_graph_must_be_of_cells_by_cells():
    with pytest.raises(ValueError, match=r"graph has shape \(3, 2\): pass a square one"):
        graph_neighbors(csr_array(np.ones((3, 2))))
