import numpy as np
import pytest
from scipy.sparse import block_diag, csr_array
from scipy.stats import chisquare
from threadpoolctl import threadpool_info

from sc_vaenb.metrics import fuzzy_graph, kbet_label, kbet_per_label, knn
from sc_vaenb.metrics import kbet as module


def test_agrees_with_scib_metrics(case_and_stored):
    case, stored = case_and_stored
    graph = fuzzy_graph(knn(case["embedding"], 50))
    found = kbet_per_label(graph, case["labels"], case["batch"])
    # eigenvectors are rounded to float32 there, so a cell may fall on the other side of the test's level
    np.testing.assert_allclose(found, stored["scib_metrics"]["kbet"], atol=1e-3)


def test_acceptance_is_a_chi_square_test():
    rng = np.random.default_rng(0)
    batch = rng.integers(0, 3, 200)
    indices = np.array([rng.choice(200, 21, replace=False) for _ in range(200)])
    share = np.bincount(batch) / 200
    accepted = [chisquare(np.bincount(batch[row], minlength=3), 21 * share).pvalue >= 0.3 for row in indices]
    assert 0.1 < np.mean(accepted) < 0.9
    assert module._acceptance(indices, batch, 0.3) == np.mean(accepted)


def test_lanczos_and_lapack_embed_alike(monkeypatch):
    rng = np.random.default_rng(0)
    graph = fuzzy_graph(knn(rng.standard_normal((300, 5)), 30))
    dense = module._diffusion_map(graph, 40)
    monkeypatch.setattr(module, "_DENSE", 0)
    threads = [pool["num_threads"] for pool in threadpool_info()]
    lanczos = module._diffusion_map(graph, 40)
    assert [pool["num_threads"] for pool in threadpool_info()] == threads
    np.testing.assert_allclose(dense @ dense.T, lanczos @ lanczos.T, atol=1e-8)


def test_from_zero_to_one(two_types):
    embedding, labels, batch = two_types
    assert kbet_per_label(fuzzy_graph(knn(embedding, 50)), labels, batch) > 0.9
    shifted = embedding + np.where(batch == "x", 3.0, 0.0)[:, None]
    assert kbet_per_label(fuzzy_graph(knn(shifted, 50)), labels, batch) < 0.1


def test_order_and_names_of_labels_do_not_matter(cases):
    case = cases["tiny_labels"]
    graph = fuzzy_graph(knn(case["embedding"], 50))
    value = kbet_per_label(graph, case["labels"], case["batch"])
    renamed = np.array([{"A": "Z9", "Z": "A0"}.get(name, name) for name in case["labels"]])
    assert kbet_per_label(graph, renamed, case["batch"]) == pytest.approx(value, abs=1e-12)


def test_tiny_labels_and_single_batches_are_left_out():
    rng = np.random.default_rng(0)
    graph = fuzzy_graph(knn(rng.standard_normal((60, 3)), 15))
    batch = np.tile([0, 1], 30)
    assert np.isnan(kbet_label(csr_array(graph[:9][:, :9]), batch[:9]))
    assert np.isnan(kbet_label(graph, np.zeros(60)))
    labels = np.array(["big"] * 51 + ["tiny"] * 9)
    big = labels == "big"
    assert kbet_per_label(graph, labels, batch) == kbet_label(csr_array(graph[big][:, big]), batch[big])
    assert np.isnan(kbet_per_label(graph, np.arange(60), batch))


def test_a_label_in_pieces():
    rng = np.random.default_rng(0)
    pieces = [fuzzy_graph(knn(rng.standard_normal((n, 3)), 15)) for n in (120, 40)]
    halves = csr_array(block_diag(pieces))
    mixed = np.tile([0, 1], 80)
    # k0 = 20: the piece of 40 is below 3 k0; 120 of 160 cells are enough to go on without it
    alone = module._acceptance(knn(module._diffusion_map(pieces[0], 100), 21).indices, mixed[:120], 0.05)
    assert kbet_label(halves, mixed) == alone > 0.8
    # the piece left over holds one batch only: the other one is apart
    assert kbet_label(halves, np.repeat([0, 1], [120, 40])) == 0
    crumbs = csr_array(block_diag([fuzzy_graph(knn(rng.standard_normal((20, 3)), 10)) for _ in range(6)]))
    assert kbet_label(crumbs, np.tile([0, 1], 60)) == 0


def test_errors():
    graph = fuzzy_graph(knn(np.random.default_rng(0).standard_normal((30, 3)), 10))
    with pytest.raises(ValueError, match="batch has 1 distinct value"):
        kbet_per_label(graph, [0, 1] * 15, [0] * 30)
    with pytest.raises(ValueError, match="labels has 2 entries but there are 30 cells"):
        kbet_per_label(graph, [0, 1], [0, 1] * 15)
