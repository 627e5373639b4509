import random
import subprocess
import sys

import numpy as np
import pytest
from scipy.sparse import csr_array

from sc_vaenb.metrics import METRICS, READINGS, SCIB, aggregate, fuzzy_graph, knn, score, summarize

LEIDEN = {"nmi", "ari", "nmi_resolution_1", "ari_resolution_1"}


def run(case, **kwargs):
    return score(case["embedding"], case["labels"], case["batch"], reference=case["reference"], **kwargs)


@pytest.mark.slow
def test_agrees_with_scib_metrics(case_and_stored):
    case, stored = case_and_stored
    values = run(case)
    for name, expected in stored["scib_metrics"].items():
        if name not in LEIDEN:  # these agree over seeds, see test_clustering
            assert values[name] == pytest.approx(expected, abs=1e-3 if name == "kbet" else 1e-8), name


@pytest.mark.slow
def test_keys_and_order(cases):
    values = run(cases["moderate"])
    assert list(values) == [*METRICS, *(name + end for end in ("", "_scib") for name in ("bio", "batch", "total"))]
    assert not any(np.isnan(value) for value in values.values())
    assert all(type(value) is float for value in values.values())


@pytest.mark.slow
def test_cases_are_ranked(cases):
    mixed, moderate, apart = (run(cases[name]) for name in ("mixed", "moderate", "separated"))
    assert mixed["batch"] > 0.8 > moderate["batch"] > 0.4 > apart["batch"]
    assert abs(mixed["same_batch_excess"]) < 0.05 < moderate["same_batch_excess"] < apart["same_batch_excess"]
    assert apart["same_batch_excess"] > 0.95
    assert np.isnan(mixed["private_purity"])


@pytest.mark.slow
def test_order_of_cells_and_names_do_not_matter(cases):
    case = cases["moderate"]
    values = run(case)
    order = np.random.default_rng(0).permutation(len(case["labels"]))
    shuffled = run({name: array[order] for name, array in case.items()})
    names = {name: f"t{i}" for i, name in enumerate("DBAC")} | {"b0": "z", "b1": "y", "b2": "x"}
    renamed = case | {key: np.array([names[name] for name in case[key]]) for key in ("labels", "batch")}
    for other in (shuffled, run(renamed)):
        for name in METRICS:
            assert other[name] == pytest.approx(values[name], abs=0.1 if name in LEIDEN else 1e-9), name


@pytest.mark.slow
def test_rotation_and_scale_do_not_matter(cases):
    case = cases["moderate"]
    rotation = np.linalg.qr(np.random.default_rng(0).standard_normal((10, 10)))[0]
    values, rotated = run(case), run(case | {"embedding": 3 * case["embedding"] @ rotation})
    # LISI's bisection stops within a tolerance; the trimmed means of `geometry` are by dimension, as in scGraph
    for name in set(METRICS) - LEIDEN - {"ilisi", "clisi", "cilisi", "geometry"}:
        assert rotated[name] == pytest.approx(values[name], abs=1e-6), name
    assert rotated["ilisi"] == pytest.approx(values["ilisi"], abs=1e-3)


@pytest.mark.slow
def test_inputs_decide_what_is_scored(cases):
    case = cases["moderate"]
    x, labels, batch = case["embedding"], case["labels"], case["batch"]
    assert set(score(x, batch=batch)) == {"ilisi", "same_batch_share", "same_batch_excess", "batch_scib"}
    assert {"pcr_comparison", "neighborhood_overlap"} < set(score(x, batch=batch, reference=case["reference"]))
    bio = score(x, labels)
    assert set(bio) == {"silhouette_label", "clisi", "label_purity", "bio", "bio_scib"} | LEIDEN
    assert score(x, labels, batch, metrics=["ilisi"]).keys() == {"ilisi", "batch_scib"}


def test_totals_leave_out_what_misleads():
    values = dict.fromkeys(METRICS, 0.0) | {"nmi": 0.8, "geometry": 0.4, "cilisi": 0.6, "unknown": 9.0}
    misleading = {"silhouette_label": 1.0, "isolated_labels": 1.0, "bras": 1.0, "pcr_comparison": 1.0, "ilisi": 1.0}
    parts = summarize(values | misleading)
    assert parts["bio"] == pytest.approx(1.2 / 5)
    assert parts["batch"] == pytest.approx(0.6 / 3)
    assert parts["total"] == pytest.approx(0.6 * 1.2 / 5 + 0.4 * 0.2)
    assert parts["bio_scib"] == pytest.approx((0.8 + 2) / 5)
    assert parts["batch_scib"] == pytest.approx(3 / 5)
    for names in READINGS.values():  # the embedding before correction would start with 0 in each
        assert "pcr_comparison" not in names
    assert aggregate(values, bio_weight=0.5)["total"] == pytest.approx(0.5 * 1.2 / 5 + 0.5 * 0.2)


def test_older_totals_are_scib_means():
    values = dict.fromkeys(METRICS, 0.0) | {"nmi": 0.8, "ari": 0.4, "ilisi": 0.5, "unknown": 9.0}
    parts = aggregate(values, SCIB)
    assert parts["bio"] == pytest.approx(1.2 / 5)
    assert parts["batch"] == pytest.approx(0.5 / 5)
    assert parts["total"] == pytest.approx(0.6 * 1.2 / 5 + 0.4 * 0.1)
    assert aggregate(values | {"kbet": float("nan")}, SCIB)["batch"] == pytest.approx(0.5 / 4)
    assert aggregate({"nmi": 1.0, "label_purity": 0.0, "nmi_resolution_1": 0.0}) == {"bio": 1.0}
    assert aggregate({}) == {}


@pytest.mark.slow
def test_a_graph_is_scored_by_what_needs_only_a_graph(cases):
    """The graph of an embedding says of its clusters and neighbourhoods what the embedding does."""
    case = cases["moderate"]
    graph = fuzzy_graph(knn(case["embedding"], 15))
    found = score(None, case["labels"], case["batch"], graph=graph)
    values = run(case)
    only_embedding = {name for name, metric in METRICS.items() if "embedding" in metric.needs}
    assert set(found) == set(values) - only_embedding
    assert found["nmi"] == pytest.approx(values["nmi"], abs=0.02)
    for name in ("clisi", "cross_batch_accuracy", "label_purity", "graph_connectivity", "cilisi"):
        assert found[name] == pytest.approx(values[name], abs=0.1), name
    apart = cases["separated"]
    worse = score(None, apart["labels"], apart["batch"], graph=fuzzy_graph(knn(apart["embedding"], 15)))
    assert worse["cilisi"] < 0.1 < found["cilisi"]


@pytest.mark.slow
def test_draws_give_mean_and_spread(cases):
    case = cases["moderate"]
    whole, drawn = run(case, max_cells=700), run(case, max_cells=400)
    assert set(drawn) == set(whole) | {f"{name}_sd" for name in whole}
    assert drawn == run(case, max_cells=400)
    assert drawn != run(case, max_cells=400, rng=1)
    for name in ("silhouette_label", "bras", "pcr_comparison", "label_purity", "total"):
        assert drawn[name] == pytest.approx(whole[name], abs=0.06), name
    assert 0 < drawn["silhouette_label_sd"] < 0.05
    assert drawn["private_purity"] > 0  # the rare label is in each draw
    assert np.isnan(run(case, max_cells=400, n_draws=1, metrics=["ilisi"])["ilisi_sd"])


def test_spread_is_that_of_the_draws(cases):
    case = cases["moderate"]
    drawn = run(case, max_cells=400, n_draws=3, metrics=["silhouette_label"])
    generator = np.random.default_rng(0)
    from sc_vaenb.metrics import silhouette_label
    from sc_vaenb.metrics.subsample import stratified_draw

    _, strata = np.unique(np.char.add(case["labels"], case["batch"]), return_inverse=True)
    values = []
    for _ in range(3):
        cells = stratified_draw(strata, 400, generator)
        generator.integers(2**31)  # the draw's seed for Leiden
        values.append(silhouette_label(case["embedding"][cells], case["labels"][cells]))
    assert drawn["silhouette_label"] == pytest.approx(np.mean(values))
    assert drawn["silhouette_label_sd"] == pytest.approx(np.std(values, ddof=1))


def test_small_data_do_not_crash():
    rng = np.random.default_rng(0)
    values = score(rng.standard_normal((12, 2)), list("aaaabbbbcccc"), list("xy" * 6), reference=np.eye(12))
    assert np.isnan(values["kbet"])
    assert 0 <= values["total"] <= 1


@pytest.mark.slow
def test_global_random_states_stay(cases):
    random.seed(4)
    np.random.seed(4)  # noqa: NPY002
    python, numpy = random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002
    run(cases["mixed"], max_cells=300)
    assert random.getstate() == python
    np.testing.assert_array_equal(np.random.get_state()[1], numpy)  # noqa: NPY002


@pytest.mark.slow
def test_inputs_are_not_changed(cases):
    case = cases["moderate"]
    copies = {name: array.copy() for name, array in case.items()}
    run(case)
    for name, array in case.items():
        np.testing.assert_array_equal(array, copies[name])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": None, "batch": None}, "labels and batch are both None"),
        ({"labels": ["a"] * 5}, "labels has 5 entries but there are 40 cells"),
        ({"labels": ["a"] * 40}, r"labels has 1 distinct value \('a'\) but at least 2 are needed"),
        ({"batch": ["x"] * 40}, r"batch has 1 distinct value \('x'\)"),
        ({"reference": np.ones((39, 2))}, "reference has 39 cells but embedding has 40"),
        ({"embedding": np.full((40, 2), np.nan)}, r"embedding holds 80 non-finite values \(first: cell 0"),
        ({"embedding": np.ones((9, 2))}, "embedding has 9 cells: at least 10 are needed"),
        ({"metrics": ["nmy"]}, "metrics names 'nmy', which does not exist: choose from nmi, ari"),
        ({"batch": None, "metrics": ["pcr_comparison"]}, "'pcr_comparison' needs batch and reference: pass them"),
        ({"k": 5}, "k=5 is not possible. Give a whole number at least 6"),
        ({"max_cells": 0}, "max_cells=0 is not possible. Give a whole number at least 1"),
        ({"max_cells": 7}, "max_cells is 7 but batch and labels form 4 combinations: pass max_cells of at least 8"),
        ({"n_draws": 0}, "n_draws=0 is not possible"),
        ({"embedding": None}, "embedding and graph are both given, or neither"),
        (
            {"embedding": None, "graph": np.eye(40)},
            r"graph=<ndarray of shape \(40, 40\)> is not possible",
        ),
        ({"embedding": None, "graph": csr_array(-np.eye(40))}, "pass connectivities, not distances"),
    ],
)
def test_errors(change, message):
    rng = np.random.default_rng(0)
    inputs = {"embedding": rng.standard_normal((40, 2)), "labels": list("aabb" * 10), "batch": list("xy" * 20)}
    with pytest.raises(ValueError, match=message):
        score(**inputs | change)


@pytest.mark.slow
def test_no_anndata_scanpy_or_jax_and_a_light_import():
    code = (
        "import sys, sc_vaenb.metrics as m, numpy as np\n"
        "assert not {'sklearn', 'igraph'} & set(sys.modules), 'import is not light'\n"
        "rng = np.random.default_rng(0)\n"
        "m.score(rng.standard_normal((60, 3)), [0, 1] * 30, [0, 0, 1] * 20, reference=rng.standard_normal((60, 4)))\n"
        "assert not {'anndata', 'scanpy', 'jax', 'umap'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("names", ["nmi2", ["nmi", "no such"]])
def test_a_metric_that_does_not_exist_is_named(names):
    with pytest.raises(ValueError, match=r"metrics names '(nmi2|no such)', which does not exist: choose from"):
        aggregate({"nmi": 0.5}, names)
