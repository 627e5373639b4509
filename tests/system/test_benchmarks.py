"""Benchmarks run on small data, so that they do not rot."""

import ast
import importlib.util
from pathlib import Path

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

import sc_vaenb

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def benchmark_of(monkeypatch):
    """A function that imports a benchmark by its name."""

    def load(name):
        monkeypatch.setenv("OMP_NUM_THREADS", "1")  # set where it was not, for the processes it starts
        monkeypatch.setenv("NUMBA_NUM_THREADS", "1")
        spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


@pytest.mark.slow
def test_out_of_core(benchmark_of, tmp_path, monkeypatch):
    benchmark = benchmark_of("out_of_core")
    adata = sc_vaenb.datasets.simulate(200, 80, n_types=2, rng=0)
    adata.write_h5ad(tmp_path / "data.h5ad")
    monkeypatch.setattr(benchmark, "AT_ONCE", 150)
    benchmark.make(tmp_path / "data.h5ad", 400, tmp_path)
    rows = [benchmark.measure(way, tmp_path, 5) for way in benchmark.WAYS]
    benchmark.judge(rows, tmp_path, [5, 5, 5])
    assert [row["cells"] for row in rows] == [400, 400, 400]
    assert all(row["equal"] for row in rows)
    assert rows[0]["waited"] == 0 < rows[1]["waited"] < rows[1]["seconds"]
    assert rows[0]["bio"] == rows[2]["bio"]


@pytest.mark.parametrize("path", sorted(BENCHMARKS.rglob("*.py")), ids=lambda path: path.stem)
def test_what_a_benchmark_imports_of_the_package_is_there(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sc_vaenb"):
            module = importlib.import_module(node.module)
            for alias in node.names:
                assert hasattr(module, alias.name) or importlib.import_module(f"{node.module}.{alias.name}")


def test_chromatin_counts_neighbours_in_a_graph_as_in_an_embedding(benchmark_of):
    benchmark, rng = benchmark_of("chromatin"), np.random.default_rng(0)
    kind = rng.integers(3, size=60)
    x = np.c_[kind, rng.normal(size=(60, 2))]
    graph = NearestNeighbors(n_neighbors=20).fit(x).kneighbors_graph(mode="distance")  # more than are counted
    shuffled = rng.permuted(np.arange(20)[None].repeat(60, 0), axis=1)
    graph.indices = np.take_along_axis(graph.indices.reshape(60, 20), shuffled, 1).ravel()
    graph.data = np.take_along_axis(graph.data.reshape(60, 20), shuffled, 1).ravel()
    distance = np.linalg.norm(x[:, None] - x, axis=2) + np.diag([np.inf] * 60)
    expected = (kind[np.argsort(distance, 1)[:, :15]] == kind[:, None]).mean()
    assert 0.4 < expected < 0.9
    assert benchmark.purity(x, kind) == benchmark.purity(graph, kind) == pytest.approx(expected)
