"""Recompute the values that tests/metrics compares with: scib-metrics, scikit-learn, umap-learn on synthetic cells.

Needs an environment of its own: `pip install scib-metrics==0.5.10`, then
`python benchmarks/metrics_reference.py [tests/metrics/reference.json]`. The tests import `make_cases` from here (numpy
only) and read the JSON, so that they need none of these packages.

scib-metrics is run in float64 (JAX's x64 mode) and on exact neighbours, so that differences are differences in the
definition, not rounding. What it gives as users run it (float32, approximate neighbours) is stored beside it.
"""

from __future__ import annotations

import json
import sys
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

OUTPUT = Path(__file__).parent.parent / "tests" / "metrics" / "reference.json"
LEIDEN_SEEDS = 20
SEEDS = {"moderate": 1, "mixed": 2, "separated": 3, "tiny_labels": 4}


def make_case(name: str) -> dict[str, NDArray[Any]]:
    """Make one synthetic embedding: `embedding`, `reference` (before integration), `labels`, `batch`.

    Types are overlapping normal clouds of unequal size in 10 dimensions; the batches shift them. "moderate": type D
    only in batch b0, type C missing from b2, some effect left. "mixed": none left. "separated": batches far apart.
    "tiny_labels": as moderate, with labels of 1, 4 and 12 cells, and a batch of 2 cells within another label.
    """
    rng = np.random.default_rng(SEEDS[name])
    n = 700
    labels = rng.choice(np.array(["A", "B", "C", "D"]), n, p=[0.4, 0.25, 0.2, 0.15])
    batch = rng.choice(np.array(["b0", "b1", "b2"]), n, p=[0.5, 0.3, 0.2])
    if name in ("moderate", "tiny_labels"):
        batch[labels == "D"] = "b0"
        batch[(labels == "C") & (batch == "b2")] = "b1"
    if name == "tiny_labels":
        for label, cells in {"X": slice(0, 1), "Y": slice(1, 5), "Z": slice(5, 17)}.items():
            labels[cells] = label
            batch[cells] = np.resize(np.array(["b0", "b1"]), len(labels[cells]))
        batch[(labels == "B") & (batch == "b2")] = "b1"
        batch[np.flatnonzero(labels == "B")[:2]] = "b2"
    spread = {"moderate": 0.7, "mixed": 0.5, "separated": 1.0, "tiny_labels": 0.8}[name]
    centres = {label: spread * rng.standard_normal(10) for label in "ABCDXYZ"}
    noise = rng.standard_normal((n, 10)) * rng.uniform(0.7, 1.3, (n, 1))
    cloud = np.stack([centres[label] for label in labels]) + noise
    shifts = {name: rng.standard_normal(10) for name in ("b0", "b1", "b2")}
    shift = np.stack([shifts[b] for b in batch])
    left = {"moderate": 0.35, "mixed": 0.0, "separated": 6.0, "tiny_labels": 0.35}[name]
    before = {"separated": 8.0}.get(name, 2.0)
    reference = np.concatenate([cloud + before * shift, 0.5 * rng.standard_normal((n, 5))], axis=1)
    return {"embedding": cloud + left * shift + 1.0, "reference": reference, "labels": labels, "batch": batch}


def make_cases() -> dict[str, dict[str, NDArray[Any]]]:
    """Make all synthetic cases by name."""
    return {name: make_case(name) for name in SEEDS}


def _by_size(labels: NDArray[Any]) -> NDArray[Any]:
    """Rename labels such that larger ones sort first: scib-metrics' kBET depends on that order (metrics/kbet.py)."""
    names, codes, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    rank = np.empty(len(names), dtype=int)
    rank[np.argsort(-sizes, kind="stable")] = np.arange(len(names))
    return np.array([f"{r:03d}" for r in rank[codes]])


def _exact(x: NDArray[Any], n_neighbors: int, **_: Any) -> Any:
    from scib_metrics.nearest_neighbors import NeighborsResults
    from sklearn.neighbors import NearestNeighbors

    x = np.asarray(x, dtype=np.float64)
    distances, indices = NearestNeighbors(n_neighbors=n_neighbors, algorithm="kd_tree").fit(x).kneighbors(x)
    return NeighborsResults(indices=indices, distances=distances)


def _leiden_over_seeds(neighbors: Any, labels: NDArray[Any]) -> dict[str, list[float]]:
    import scib_metrics as scib

    best = [scib.nmi_ari_cluster_labels_leiden(neighbors, labels, seed=seed) for seed in range(LEIDEN_SEEDS)]
    fixed = [
        scib.nmi_ari_cluster_labels_leiden(neighbors, labels, optimize_resolution=False, resolution=1.0, seed=seed)
        for seed in range(LEIDEN_SEEDS)
    ]
    return {
        "nmi": [float(score["nmi"]) for score in best],
        "ari": [float(score["ari"]) for score in best],
        "nmi_resolution_1": [float(score["nmi"]) for score in fixed],
        "ari_resolution_1": [float(score["ari"]) for score in fixed],
    }


def _values(case: dict[str, NDArray[Any]], search: Any) -> dict[str, float]:
    import scib_metrics as scib

    x, labels, batch = case["embedding"], case["labels"], case["batch"]
    shared = search(x, n_neighbors=90, random_state=0)
    k15, k50 = shared.subset_neighbors(15), shared.subset_neighbors(50)
    best = scib.nmi_ari_cluster_labels_leiden(k15, labels)
    fixed = scib.nmi_ari_cluster_labels_leiden(k15, labels, optimize_resolution=False, resolution=1.0)
    values = {
        "isolated_labels": scib.isolated_labels(x, labels, batch),
        "nmi": best["nmi"],
        "ari": best["ari"],
        "silhouette_label": scib.silhouette_label(x, labels),
        "clisi": scib.clisi_knn(shared, labels),
        "nmi_resolution_1": fixed["nmi"],
        "ari_resolution_1": fixed["ari"],
        "bras": scib.bras(x, labels, batch),
        "ilisi": scib.ilisi_knn(shared, batch),
        "kbet": scib.kbet_per_label(k50, batch, _by_size(labels)),
        "graph_connectivity": scib.graph_connectivity(k15, labels),
        "pcr_comparison": scib.pcr_comparison(case["reference"], x, batch, categorical=True),
    }
    return {name: float(value) for name, value in values.items()}


def reference(case: dict[str, NDArray[Any]]) -> dict[str, Any]:
    """Compute one case's reference values."""
    import jax
    import scib_metrics.utils._diffusion_nn as diffusion
    from scib_metrics.metrics import lisi_knn
    from scib_metrics.nearest_neighbors import pynndescent
    from sklearn.metrics import silhouette_samples

    jax.config.update("jax_enable_x64", False)
    default = _values(case, pynndescent)
    jax.config.update("jax_enable_x64", True)
    original = diffusion.nearest_neighbors.pynndescent
    diffusion.nearest_neighbors.pynndescent = _exact
    try:
        exact = _values(case, _exact)
    finally:
        diffusion.nearest_neighbors.pynndescent = original
    x = case["embedding"]
    graph = _exact(x, 15).knn_graph_connectivities.tocsr()
    rows = slice(0, 20)
    return {
        "sum": float(x.sum()),
        "scib_metrics": exact,
        "scib_metrics_default": default,
        "silhouette_samples": silhouette_samples(x, case["labels"])[rows].tolist(),
        "lisi_batch": lisi_knn(_exact(x, 90), case["batch"])[rows].tolist(),
        "leiden_over_seeds": _leiden_over_seeds(_exact(x, 15), case["labels"]),
        "fuzzy_graph_sum": float(graph.sum()),
        "fuzzy_graph_degree": np.asarray(graph.sum(axis=1)).ravel()[rows].tolist(),
    }


def main(output: Path = OUTPUT) -> None:
    """Write the JSON."""
    warnings.filterwarnings("ignore", message="PCR comparison score is negative")
    packages = ("scib-metrics", "scikit-learn", "umap-learn", "igraph", "jax", "numpy", "scipy")
    document = {
        "versions": {package: version(package) for package in packages},
        "cases": {name: reference(case) for name, case in make_cases().items()},
    }
    output.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:2]))
