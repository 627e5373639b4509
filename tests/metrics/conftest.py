"""Synthetic cells and the values that scib-metrics, scikit-learn and umap-learn gave for them."""

import json
import runpy
from pathlib import Path

import numpy as np
import pytest

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "metrics_reference.py"


@pytest.fixture(scope="session")
def cases():
    """The synthetic cases by name: embedding, reference, labels, batch."""
    return runpy.run_path(str(BENCHMARK))["make_cases"]()


@pytest.fixture(scope="session")
def stored(cases):
    """The stored values by case; fails if the cases are not the cells that they were computed from."""
    values = json.loads((Path(__file__).parent / "reference.json").read_text())["cases"]
    for name, case in cases.items():
        np.testing.assert_allclose(case["embedding"].sum(), values[name]["sum"], rtol=1e-12)
    return values


@pytest.fixture(params=["moderate", "mixed", "separated", "tiny_labels"])
def case_and_stored(request, cases, stored):
    """Each case with its stored values."""
    return cases[request.param], stored[request.param]


@pytest.fixture
def two_types():
    """300 cells, two types far apart, two batches perfectly mixed within them: embedding, labels, batch."""
    rng = np.random.default_rng(0)
    labels = np.repeat(["T", "B"], 150)
    batch = np.tile(["x", "y"], 150)
    embedding = rng.standard_normal((300, 5)) + np.where(labels == "T", 20.0, 0.0)[:, None]
    return embedding, labels, batch
