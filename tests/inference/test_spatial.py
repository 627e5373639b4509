"""Neighbours are of the same slice, means are over cells and neighbours, and kinds are shares."""

import numpy as np
from scipy import sparse
from threadpoolctl import threadpool_limits

from sc_vaenb.inference import spatial


def test_neighbours_are_the_nearest_cells_of_the_same_slice_in_both_directions():
    rng = np.random.default_rng(0)
    slices = rng.integers(3, size=90)
    coordinates = rng.uniform(size=(90, 2))  # the slices overlap
    graph = spatial.build_graph(coordinates, slices).toarray()
    distance = np.linalg.norm(coordinates[:, None] - coordinates, axis=2)
    distance[(slices[:, None] != slices) | np.eye(90, dtype=bool)] = np.inf
    nearest = np.zeros((90, 90), bool)
    np.put_along_axis(nearest, distance.argsort(axis=1)[:, : spatial.N_NEIGHBORS], True, axis=1)
    np.testing.assert_array_equal(graph, nearest | nearest.T)


def test_slices_of_one_and_two_cells_and_cells_in_one_place():
    slices = np.array([0, 1, 1, 2, 2, 2])
    coordinates = np.array([[0, 0], [0, 0], [0, 0], [1, 1], [1, 1], [1, 1]], float)
    graph = spatial.build_graph(coordinates, slices).toarray().astype(int)
    same_slice = (slices[:, None] == slices) & ~np.eye(6, dtype=bool)
    np.testing.assert_array_equal(graph, same_slice)
    alone = spatial.build_graph(coordinates[:1], slices[:1])
    assert alone.nnz == 0
    assert spatial.default_hops(alone) >= 1


def test_the_default_number_of_hops_reaches_about_thirty_cells():
    rng = np.random.default_rng(0)
    place = rng.uniform(size=(2_000, 2))
    graph = spatial.build_graph(place, np.zeros(2_000, int))
    hops = spatial.default_hops(graph)
    weight = spatial.mean_around(np.eye(2_000, dtype=np.float32), graph, hops)
    n_cells = np.median(1 / np.square(weight).sum(axis=1))  # that count as much as they would alone
    assert 20 < n_cells < 45


def test_the_mean_is_over_a_cell_and_its_neighbours():
    graph = sparse.csr_array(np.array([[0, 1, 1, 0], [1, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]], bool))
    x = np.array([[0.0], [3.0], [6.0], [5.0]], np.float32)
    np.testing.assert_array_equal(spatial.mean_around(x, graph, 0), x)
    once, twice = (spatial.mean_around(x, graph, hops) for hops in (1, 2))
    np.testing.assert_allclose(once, [[3], [1.5], [3], [5]], rtol=1e-6)  # the last has no neighbours
    np.testing.assert_allclose(twice, [[2.5], [2.25], [3], [5]], rtol=1e-6)
    assert twice.dtype == np.float32


def test_kinds_are_the_groups_of_states(monkeypatch):
    rng = np.random.default_rng(0)
    group = rng.integers(4, size=400)
    states = (10 * np.eye(4)[group] + rng.normal(size=(400, 4))).astype(np.float32)
    share = spatial.kinds(states, np.zeros(400, int), 4, 0)
    np.testing.assert_allclose(share.sum(axis=1), 1, rtol=1e-5)
    assert share.max(axis=1).min() > 0.99
    kind = share.argmax(axis=1)
    assert len({*zip(kind.tolist(), group.tolist(), strict=True)}) == 4
    monkeypatch.setattr(spatial, "CELLS_ASSIGNED_AT_ONCE", 37)
    np.testing.assert_allclose(spatial.kinds(states, np.zeros(400, int), 4, 0), share, rtol=1e-5)


def test_kinds_of_few_or_equal_cells():
    assert spatial.kinds(np.zeros((3, 2), np.float32), np.zeros(3, int), 20, 0).shape == (3, 3)
    np.testing.assert_allclose(spatial.kinds(np.ones((50, 2), np.float32), np.zeros(50, int), 5, 0).sum(axis=1), 1)


def test_surroundings_of_equal_cells_are_finite():
    graph = spatial.build_graph(np.random.default_rng(0).uniform(size=(20, 2)), np.zeros(20, int))
    states, shares = np.ones((20, 3), np.float32), np.full((20, 2), 0.5, np.float32)
    np.testing.assert_allclose(spatial.surroundings(states, shares, graph, 2), 0, atol=1e-5)


def test_kinds_do_not_depend_on_the_number_of_threads():
    states = np.random.default_rng(0).normal(size=(5_000, 20)).astype(np.float32)
    found = []
    for n_threads in (1, 2, 4):
        with threadpool_limits(n_threads):
            found.append(spatial.kinds(states, np.zeros(5_000, np.int64), 20, 0))
    np.testing.assert_array_equal(found[1], found[0])
    np.testing.assert_array_equal(found[2], found[0])
