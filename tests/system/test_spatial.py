"""The spatial benchmark does what it says, on small tissues."""

import runpy
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

pytestmark = pytest.mark.slow

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "spatial.py"
LINE = sparse.csr_matrix(np.eye(4, k=1) + np.eye(4, k=-1))  # four cells, each beside the next


@pytest.fixture(scope="module")
def spatial():
    return runpy.run_path(str(BENCHMARK))


def test_smoothing_is_the_mean_over_a_cell_and_its_neighbours(spatial):
    graph = sparse.csr_matrix(np.array([[0, 1, 1, 0], [1, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]))
    x = np.array([[0.0], [3.0], [6.0], [5.0]])
    np.testing.assert_array_equal(spatial["smoothed"](x, graph, 0), x)
    np.testing.assert_allclose(spatial["smoothed"](x, graph, 1), [[3], [1.5], [3], [5]])  # the last has no neighbours
    np.testing.assert_allclose(spatial["smoothed"](x, graph, 2), [[2.5], [2.25], [3], [5]])


def test_rings_are_the_cells_at_a_number_of_hops(spatial):
    x = np.array([[0.0], [1.0], [4.0], [9.0]])
    rings = spatial["cellcharter"](x, LINE, 2)
    expected = np.column_stack([[0, 1, 4, 9], [1, 2, 5, 4], [4, 9, 0, 1]])
    expected = (expected - expected.mean(0)) / expected.std(0)
    np.testing.assert_allclose(rings, expected)


def test_the_gradient_of_banksy_is_zero_where_states_are_equal_and_largest_at_a_border(spatial):
    place = np.column_stack([np.arange(20.0), np.zeros(20)])
    graph = sparse.csr_matrix(np.eye(20, k=1) + np.eye(20, k=-1))
    own, mean, gradient = spatial["banksy"]((place[:, :1] >= 10) * 1.0, graph, place).T
    assert gradient.argmax() in (9, 10)
    np.testing.assert_allclose(gradient[:7], gradient.min())
    np.testing.assert_allclose(np.square(np.stack([own, mean, gradient])).mean(1), [0.2, 0.8 * 2 / 3, 0.8 / 3])


@pytest.mark.parametrize("design", ["regions", "layers"])
def test_neighbours_tell_domains_and_single_cells_types(spatial, design):
    tissue = spatial["simulate"](0, design, 300, 0.3, side=15)
    table = pd.DataFrame(spatial["evaluate"](tissue, 0, n_latent=8, hidden=(32,), n_steps=80)).set_index("view")
    assert set(table["embedding"]) == {"PCA", "Harmony", "tl.cvae"}
    mean = table[table["embedding"] == "tl.cvae"].select_dtypes("number")
    assert mean.loc["tl.spatial", "ari"] > mean.loc["own", "ari"] + 0.05
    assert mean["types"].idxmax() == "own"


def test_a_seed_makes_a_tissue_of_slices(spatial):
    first, again, other = (spatial["simulate"](seed, "regions", 100, 0.0, side=12) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.X.toarray(), again.X.toarray())
    assert first.obs["domain"].tolist() != other.obs["domain"].tolist()
    graph = spatial["neighbours"](first).tocoo()
    batch = first.obs["batch"].to_numpy()
    assert (batch[graph.row] == batch[graph.col]).all()
