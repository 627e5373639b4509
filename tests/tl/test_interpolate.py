"""`tl.interpolate`: markers fall and rise on the way, the way along cells keeps to them, and files keep it all."""

import anndata as ad
import numpy as np
import pytest

import sc_vaenb
from sc_vaenb.inference.interpolate import along_cells, equal_steps, straight


@pytest.fixture(scope="session")
def _learned(simulated):
    """A fit that has seen enough to know types and batches."""
    options = {"n_latent": 4, "hidden": (32,), "n_steps": 200, "device": "cpu"}
    return sc_vaenb.tl.cvae(simulated, "batch", copy=True, **options)


@pytest.fixture
def learned(_learned):
    return _learned.copy()


def walked(adata, *args, **options):
    sc_vaenb.tl.interpolate(adata, *args, device="cpu", **options)
    return adata.uns[options.get("key_added", "interpolation")]


def marker_sums(adata, expression, label):
    """Summed expression of the true markers of a type at each point."""
    return expression[(adata.var["marker_of"] == label).to_numpy()].sum().to_numpy()


def test_markers_of_the_start_fall_and_of_the_end_rise(learned):
    found = walked(learned, "type_0", "type_2", groupby="cell_type")
    expression = found["expression"]
    assert expression.shape == (100, 50)
    np.testing.assert_allclose(expression.sum(), 1e4, rtol=1e-4)  # all genes of the model
    before, after = marker_sums(learned, expression, "type_0"), marker_sums(learned, expression, "type_2")
    assert (np.diff(before) < 0).all()
    assert (np.diff(after) > 0).all()
    assert before[0] > 1.5 * before[-1]
    assert after[-1] > 1.5 * after[0]


def test_the_ends_are_the_mean_states_and_steps_are_equal(learned, latent_states):
    found, states = walked(learned, "type_0", "type_2", groupby="cell_type", n_points=11), latent_states(learned)
    for end, label in ((0, "type_0"), (-1, "type_2")):
        mean = states[(learned.obs["cell_type"] == label).to_numpy()].mean(0)
        np.testing.assert_allclose(found["states"][end], mean, atol=1e-5)
    steps = np.diff(found["states"], axis=0)
    np.testing.assert_allclose(steps, np.broadcast_to(steps.mean(0), steps.shape), atol=1e-5)
    assert found["params"]["length"] == pytest.approx(10 * np.linalg.norm(steps[0]), rel=1e-4)
    np.testing.assert_allclose(found["points"]["position"], np.linspace(0, 1, 11))


def test_cells_by_name_are_their_own_nearest_cells(learned, latent_states):
    found, states = walked(learned, "cell_3", "cell_8"), latent_states(learned)
    points = found["points"]
    assert points["nearest_cell"].iloc[[0, -1]].tolist() == ["cell_3", "cell_8"]
    np.testing.assert_allclose(points["distance"].iloc[[0, -1]], 0, atol=1e-3)
    distances = np.linalg.norm(found["states"][:, None] - states, axis=2)
    np.testing.assert_allclose(points["distance"], distances.min(1), atol=1e-3)
    assert points["nearest_cell"].tolist() == learned.obs_names[distances.argmin(1)].tolist()


def test_stops_on_the_way_are_passed(learned, latent_states):
    found = walked(learned, "type_0", "type_2", groupby="cell_type", via=["type_1"], n_points=201)
    assert found["stops"]["name"].tolist() == ["type_0", "type_1", "type_2"]
    assert found["stops"]["position"].iloc[[0, -1]].tolist() == [0, 1]
    at = round(200 * found["stops"]["position"].iloc[1])
    mean = latent_states(learned)[(learned.obs["cell_type"] == "type_1").to_numpy()].mean(0)
    assert np.linalg.norm(found["states"][at] - mean) < found["params"]["length"] / 200
    there = marker_sums(learned, found["expression"], "type_1")
    assert abs(there.argmax() - at) < 30


def test_the_batch_asked_for_shows_and_the_default_is_the_mean_over_batches(learned):
    ways = [walked(learned, "cell_3", "cell_8", batch=batch)["expression"] for batch in ("batch_0", "batch_1", None)]
    np.testing.assert_allclose((ways[0] + ways[1]) / 2, ways[2], rtol=1e-4)
    effect = learned.uns["truth"]["batch_log_effect"]
    log_fold = np.log(ways[1] / ways[0]).mean(axis=1)
    assert np.corrcoef(log_fold, effect[1] - effect[0])[0, 1] > 0.7
    assert learned.uns["interpolation"]["params"].get("batch") is None


def test_chosen_genes_come_in_the_order_asked_for(learned):
    every = walked(learned, "cell_3", "cell_8")["expression"]
    some = walked(learned, "cell_3", "cell_8", genes=["gene_40", "gene_7"])["expression"]
    assert some.index.tolist() == ["gene_40", "gene_7"]
    np.testing.assert_array_equal(some, every.loc[["gene_40", "gene_7"]])


def arc(n_cells, noise, seed=0):
    """Cells around three quarters of a circle in three dimensions, the first and the last at its ends."""
    rng = np.random.default_rng(seed)
    angle = np.sort(rng.uniform(0, 1.5 * np.pi, n_cells))
    circle = np.stack([np.cos(angle), np.sin(angle), np.zeros(n_cells)], 1)
    return (circle + rng.normal(scale=noise, size=circle.shape)).astype(np.float32)


def test_the_way_along_cells_keeps_to_a_bent_manifold_that_a_line_leaves():
    states = arc(600, 0.03)
    far = []
    for legs in (straight(states[[0, -1]]), along_cells(states, [0, 599], 10)[0]):
        points, _, length = equal_steps(legs, 60)
        far.append(np.linalg.norm(points[:, None] - states, axis=2).min(1))
        steps = np.linalg.norm(np.diff(points, axis=0), axis=1)
        np.testing.assert_allclose(steps, length / 59, rtol=0.05)
    assert far[0].max() > 0.5
    assert far[1].max() < 0.12
    assert 1.5 * np.pi * 0.85 < length < 1.5 * np.pi * 1.15
    assert np.abs(np.hypot(points[:, 0], points[:, 1]) - 1).mean() < 0.03  # smoother than the cells it comes from
    np.testing.assert_allclose(points[[0, -1]], states[[0, -1]], atol=1e-6)


def test_cells_without_a_link_are_said_to_have_no_path():
    apart = np.concatenate([arc(50, 0.01), arc(50, 0.01) + 100])
    legs, broken = along_cells(apart, [0, 20, 80], 5)
    assert (len(legs), broken) == (1, 1)
    assert along_cells(apart, [0, 80], 99)[1] is None


def test_cells_on_one_point_and_more_cells_than_the_graph_takes(monkeypatch):
    monkeypatch.setattr("sc_vaenb.inference.interpolate.MAX_CELLS_IN_GRAPH", 100)
    doubled = np.repeat(arc(400, 0.0), 2, axis=0)
    legs, broken = along_cells(doubled, [1, 798], 10)
    assert broken is None
    np.testing.assert_array_equal(legs[0][[0, -1]], doubled[[1, 798]])
    assert len(legs[0]) <= 102


def test_the_way_along_cells_begins_at_the_cell_nearest_to_the_mean(learned, latent_states):
    found = walked(learned, "type_0", "type_2", groupby="cell_type", path="manifold", n_neighbors=20)
    states, labels = latent_states(learned), learned.obs["cell_type"].to_numpy(str)
    for end, label in ((0, "type_0"), (-1, "type_2")):
        own = np.flatnonzero(labels == label)
        medoid = own[np.linalg.norm(states[own] - states[own].mean(0), axis=1).argmin()]
        np.testing.assert_allclose(found["states"][end], states[medoid], atol=1e-5)
    straight_on = walked(learned, "type_0", "type_2", groupby="cell_type", key_added="line")
    assert found["points"]["distance"].mean() < straight_on["points"]["distance"].mean()
    assert found["params"]["n_neighbors"] == 20
    assert "n_neighbors" not in straight_on["params"]
    before = marker_sums(learned, found["expression"], "type_0")
    assert before[0] > 1.5 * before[-1]


def test_it_writes_where_it_says_and_a_file_keeps_it(learned, unchanged, tmp_path, log):
    learned.var_names = [f"{name}/x" for name in learned.var_names]  # a name that no file could hold as a key
    learned.uns["vae"]["model"]["genes"] = np.array(learned.var_names, dtype=object)
    with unchanged(learned):
        new = sc_vaenb.tl.interpolate(
            learned, "cell_3", "cell_8", via="cell_5", path="manifold", key_added="way", copy=True, device="cpu"
        )
    assert set(new.uns) - set(learned.uns) == {"way"}
    assert "interpolating from cell_3 over cell_5 to cell_8 with uns['vae']" in log.getvalue()
    new.write_h5ad(tmp_path / "a.h5ad")
    read = ad.read_h5ad(tmp_path / "a.h5ad")
    kept, again = read.uns["way"], walked(read, "cell_3", "cell_8", via=["cell_5"], path="manifold")
    for found in (kept, again):
        for part in ("expression", "points", "stops"):
            assert found[part].index.tolist() == new.uns["way"][part].index.tolist()
            assert found[part].columns.tolist() == new.uns["way"][part].columns.tolist()
        np.testing.assert_allclose(found["expression"], new.uns["way"]["expression"], rtol=1e-5)
        np.testing.assert_allclose(found["states"], new.uns["way"]["states"], atol=1e-6)
        assert found["points"]["nearest_cell"].tolist() == new.uns["way"]["points"]["nearest_cell"].tolist()
    params = kept["params"]
    assert params["via"].tolist() == ["cell_5"]
    assert (params["key"], params["start"], params["end"], params["path"]) == ("vae", "cell_3", "cell_8", "manifold")
    assert params["version"] == sc_vaenb.__version__


def test_a_model_without_batches_has_but_one_way(adata, fast, refused):
    sc_vaenb.tl.vae(adata, **fast)
    np.testing.assert_allclose(walked(adata, "cell_3", "cell_8")["expression"].sum(), 1e4, rtol=1e-4)
    with refused(adata, ValueError, r"batch='batch_0' is no batch .* which knows no batches\. Leave it out"):
        sc_vaenb.tl.interpolate(adata, "cell_3", "cell_8", batch="batch_0")


# refusals


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"start": "no"}, ValueError, r"'no' is not in obs_names\. Give the name of a cell, or with groupby a label"),
        ({"end": "cell_1"}, ValueError, r"'cell_1' follows itself on the way, .* Name two that differ"),
        ({"via": ["cell_5", "cell_5"]}, ValueError, r"'cell_5' follows itself on the way"),
        ({"groupby": "no"}, KeyError, r"groupby='no' is not in adata\.obs\. Its columns are"),
        ({"groupby": "cell_type"}, ValueError, r"no cell has the label 'cell_1' in obs\['cell_type'\], which holds"),
        ({"path": "curve"}, ValueError, r"path='curve' is not known\. Choose one of \['linear', 'manifold'\]"),
        ({"n_points": 1}, ValueError, r"n_points=1 is not possible\. Give a whole number at least 2"),
        ({"n_neighbors": 0}, ValueError, r"n_neighbors=0 is not possible\. Give a whole number at least 1"),
        ({"genes": ["gene_1", "CD3D"]}, ValueError, r"genes=\['CD3D'\] are not among the 100 genes of the model in"),
        ({"genes": []}, ValueError, r"genes=\[\] are not among the 100 genes"),
        ({"batch": "b9"}, ValueError, r"batch='b9' is no batch of the model in uns\['vae'\], which knows \['batch_0',"),
        ({"key": "no"}, KeyError, r"uns\['no'\] holds no model fitted by sc_vaenb; uns has \['vae'\]"),
        ({"key_added": "a/b"}, ValueError, r"key_added='a/b' is not possible"),
        ({"device": "tpu9"}, ValueError, r"device='tpu9' is not available here"),
    ],
)
def test_what_cannot_be_is_refused(learned, refused, options, error, text):
    with refused(learned, error, text):
        sc_vaenb.tl.interpolate(learned, **({"start": "cell_1", "end": "cell_2"} | options))


def test_groups_without_cells_between_are_refused(learned, refused):
    text = r"no path leads from 'cell_0' to 'cell_1' in the graph of 1 nearest neighbours: .* Raise n_neighbors, or"
    with refused(learned, ValueError, text):
        sc_vaenb.tl.interpolate(learned, "cell_0", "cell_1", path="manifold", n_neighbors=1, device="cpu")


def test_missing_genes_and_no_anndata_are_refused(learned, refused):
    part = learned[:, 2:].copy()
    with refused(part, ValueError, r"2 of the 100 genes of the model in uns\['vae'\] are not in var_names"):
        sc_vaenb.tl.interpolate(part, "cell_1", "cell_2")
    with pytest.raises(TypeError, match="adata is a dict, not an AnnData"):
        sc_vaenb.tl.interpolate({}, "cell_1", "cell_2")
