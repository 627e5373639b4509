"""The spatial benchmark does what it says, on a small tissue."""

import runpy
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

pytestmark = pytest.mark.slow

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "spatial.py"


@pytest.fixture(scope="module")
def spatial():
    return runpy.run_path(str(BENCHMARK))


def test_smoothing_is_the_mean_over_a_cell_and_its_neighbours(spatial):
    graph = sparse.csr_matrix(np.array([[0, 1, 1, 0], [1, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]))
    x = np.array([[0.0], [3.0], [6.0], [5.0]])
    np.testing.assert_array_equal(spatial["smoothed"](x, graph, 0), x)
    np.testing.assert_allclose(spatial["smoothed"](x, graph, 1), [[3], [1.5], [3], [5]])  # the last has no neighbours
    np.testing.assert_allclose(spatial["smoothed"](x, graph, 2), [[2.5], [2.25], [3], [5]])


def test_neighbours_tell_domains_and_single_cells_types(spatial):
    tissue = spatial["simulate"](0, 300, 0.3, side=20)
    table = pd.DataFrame(spatial["evaluate"](tissue, 0, n_latent=8, hidden=(32,), n_steps=80))
    assert set(table["method"]) == {"PCA", "tl.vae"}
    by_hops = table.groupby("hops").mean(numeric_only=True)
    assert by_hops["domains"].max() > by_hops.loc[0, "domains"] + 0.3
    assert by_hops["types"].idxmax() == 0


def test_a_seed_makes_a_tissue(spatial):
    first, again, other = (spatial["simulate"](seed, 100, 0.0, side=12) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.X.toarray(), again.X.toarray())
    assert first.obs["domain"].tolist() != other.obs["domain"].tolist()
