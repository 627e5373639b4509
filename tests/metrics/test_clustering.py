import random

import igraph
import numpy as np
import pytest

from sc_vaenb.metrics import RESOLUTIONS, ClusterScore, best_nmi, cluster_scores, fuzzy_graph, knn, leiden


@pytest.fixture
def graph(two_types):
    return fuzzy_graph(knn(two_types[0], 15))


@pytest.mark.slow
def test_agrees_with_scib_metrics_over_seeds(case_and_stored):
    """One Leiden run depends on its random path; the means over 10 seeds agree within their spread."""
    case, stored = case_and_stored
    graph = fuzzy_graph(knn(case["embedding"], 15))
    runs = [cluster_scores(graph, case["labels"], seed=seed) for seed in range(10)]
    best = [best_nmi(run) for run in runs]
    fixed = [run[RESOLUTIONS.index(1.0)] for run in runs]
    found = {
        "nmi": [score.nmi for score in best],
        "ari": [score.ari for score in best],
        "nmi_resolution_1": [score.nmi for score in fixed],
        "ari_resolution_1": [score.ari for score in fixed],
    }
    for name, ours in found.items():
        theirs = stored["leiden_over_seeds"][name][:10]
        error = np.sqrt((np.var(ours) + np.var(theirs)) / 10)
        assert abs(np.mean(ours) - np.mean(theirs)) < 4 * error + 0.005, name


def test_separated_types_are_found(two_types, graph):
    _, labels, batch = two_types
    assert best_nmi(cluster_scores(graph, labels)) == ClusterScore(1.0, 1.0, 0.2)
    unrelated = best_nmi(cluster_scores(graph, batch))
    assert unrelated.nmi < 0.05
    assert unrelated.ari < 0.05


def test_higher_resolution_finds_more_clusters(graph):
    few, many = leiden(graph, (0.1, 3.0))
    assert len(np.unique(few)) < len(np.unique(many))


def test_scores_follow_the_resolutions(two_types, graph):
    scores = cluster_scores(graph, two_types[1], resolutions=(0.3, 2.5))
    assert [score.resolution for score in scores] == [0.3, 2.5]
    assert scores[1] == cluster_scores(graph, two_types[1], resolutions=(2.5,))[0]


def test_best_nmi_brings_its_own_ari():
    scores = [ClusterScore(0.5, 0.9, 0.2), ClusterScore(0.8, 0.3, 0.4), ClusterScore(0.8, 0.4, 0.6)]
    assert best_nmi(scores) == ClusterScore(0.8, 0.3, 0.4)


def test_seed_decides_and_global_random_states_stay(graph):
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    before, numpy_before = random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002
    first = leiden(graph, (2.0,), seed=5)[0]
    assert random.getstate() == before
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_before)  # noqa: NPY002
    random.seed(99)
    np.testing.assert_array_equal(leiden(graph, (2.0,), seed=5)[0], first)
    generated = [leiden(graph, (2.0,), seed=np.random.default_rng(5))[0] for _ in range(2)]
    np.testing.assert_array_equal(*generated)


def test_igraph_draws_from_python_random_again_afterwards(graph):
    leiden(graph)
    random.seed(3)
    first = igraph.Graph.Erdos_Renyi(20, 0.3).get_edgelist()
    random.seed(3)
    assert igraph.Graph.Erdos_Renyi(20, 0.3).get_edgelist() == first


def test_errors(graph):
    with pytest.raises(ValueError, match="labels has 3 entries but there are 300 cells"):
        cluster_scores(graph, ["a", "b", "a"])
    with pytest.raises(ValueError, match="labels has 1 distinct value"):
        cluster_scores(graph, ["a"] * 300)
