import numpy as np
import pandas as pd
import pytest
import scanpy as sc

import sc_vaenb
from sc_vaenb.metrics import METRICS
from sc_vaenb.metrics import score as score_arrays


@pytest.fixture
def scored(adata):
    rng = np.random.default_rng(0)
    types = adata.obs["cell_type"].cat.codes.to_numpy()
    adata.obsm["X_pca"] = rng.normal(size=(300, 4)) + 3 * types[:, None]
    adata.obsm["X_noise"] = rng.normal(size=(300, 4))
    adata.obsm["X_umap"] = rng.normal(size=(300, 2))
    return adata


@pytest.mark.slow
def test_values_are_those_of_the_metrics(scored, unchanged, log):
    with unchanged(scored):
        result = sc_vaenb.tl.score(scored, batch_key="batch", label_key="cell_type", copy=True)
    record = result.uns["scores"]
    assert record["values"].index.tolist() == ["X_pca", "X_noise"]  # not the plane
    expected = score_arrays(
        scored.obsm["X_noise"].astype(np.float32),
        scored.obs["cell_type"].to_numpy(str),
        scored.obs["batch"].to_numpy(str),
        reference=scored.obsm["X_pca"].astype(np.float32),
        rng=0,
    )
    found = record["values"].loc["X_noise"]
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-6, err_msg=name)
    assert record["values"].loc["X_pca", "nmi"] > found["nmi"] + 0.5
    assert (record["values"]["seconds"] > 0).all()
    assert all(record["values"].dtypes == np.float64)
    assert record["params"] == {
        "batch_key": "batch", "label_key": "cell_type", "max_cells": 20_000, "rng": 0, "reference": "X_pca",
        "n_cells": 300,
    }  # fmt: skip
    for name, row in record["metrics"].iterrows():
        assert row["higher_is_better"] == METRICS[name].higher_is_better
        assert (row["in_total"], row["in_scib"]) == (METRICS[name].in_total, METRICS[name].in_scib)
    assert "scoring 2 embeddings of 300 cells" in log.getvalue()


def test_the_pca_of_scanpy_2_is_the_reference(scored):
    """It is `pca` there, and `X_pca` in scanpy 1; what both have is that of scanpy 1."""
    arguments = {"batch_key": "batch", "copy": True}
    expected = sc_vaenb.tl.score(scored, "X_noise", **arguments).uns["scores"]
    scored.obsm["pca"] = scored.obsm["X_noise"]
    assert sc_vaenb.tl.score(scored, **arguments).uns["scores"]["values"].index.tolist() == ["X_pca", "X_noise"]
    scored.obsm["pca"] = scored.obsm.pop("X_pca")
    record = sc_vaenb.tl.score(scored, **arguments).uns["scores"]
    assert sorted(record["values"].index) == ["X_noise", "pca"]
    assert record["params"]["reference"] == "pca"
    assert record["values"].loc["X_noise", "neighborhood_overlap"] == expected["values"]["neighborhood_overlap"].item()


def test_without_labels_the_batch_metrics_remain(scored):
    sc_vaenb.tl.score(scored, "X_noise", batch_key="batch", key_added="mine")
    values = scored.uns["mine"]["values"]
    assert {"ilisi", "same_batch_excess", "neighborhood_overlap"} <= set(values)
    assert not {"nmi", "total", "kbet"} & set(values)


@pytest.mark.slow
@pytest.mark.parametrize("key", ["bbknn", "bbknn_connectivities"])
def test_a_graph_is_scored(scored, key):
    """By the key of uns that scanpy gives it, or that of obsp."""
    sc.pp.neighbors(scored, use_rep="X_pca", key_added="bbknn", transformer="sklearn")
    sc_vaenb.tl.score(scored, batch_key="batch", label_key="cell_type", neighbors_key=key)
    values = scored.uns["scores"]["values"]
    assert values.index.tolist() == [key]  # no embedding was named
    sc_vaenb.tl.score(scored, "X_noise", batch_key="batch", label_key="cell_type", neighbors_key=[key])
    values = scored.uns["scores"]["values"]
    assert values.index.tolist() == ["X_noise", key]
    assert values.loc[key, "nmi"] > values.loc["X_noise", "nmi"] + 0.5
    assert np.isnan(values.loc[key, "silhouette_label"])
    assert values.loc[key, "total"] > values.loc["X_noise", "total"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "told", ["the labels", "a copy", "other names", "a refinement", "half of the cells", "something else"]
)
def test_a_fit_that_was_told_the_labels_is_named(scored, log, told):
    types = scored.obs["cell_type"].astype(str)
    scored.obs["told"] = {
        "other names": types.map({name: f"x{i}" for i, name in enumerate(types.unique())}),
        "a refinement": types + np.where(np.arange(300) % 2, "a", "b"),
        "half of the cells": types.where(np.arange(300) % 2 == 0, "unknown"),
        "something else": np.where(np.arange(300) % 2, "a", "b"),
    }.get(told, types)
    key = "cell_type" if told == "the labels" else "told"
    scored.uns["noise"] = {"params": {"labels_key": key, "unlabeled": "unknown"}}
    sc_vaenb.tl.score(scored, "X_noise", batch_key="batch", label_key="cell_type")
    assert (f"X_noise is from a fit that used these labels (labels_key={key!r})" in log.getvalue()) == (
        told != "something else"
    )


def test_cells_without_a_label_are_left_out(scored):
    known = np.arange(300) % 3 > 0
    scored.obs["partly"] = pd.Categorical(np.where(known, scored.obs["cell_type"].astype(str), None))
    sc_vaenb.tl.score(scored, "X_pca", batch_key="batch", label_key="partly")
    part = scored[known].copy()
    sc_vaenb.tl.score(part, "X_pca", batch_key="batch", label_key="cell_type")
    first, second = (a.uns["scores"]["values"].drop(columns="seconds") for a in (scored, part))
    pd.testing.assert_frame_equal(first, second)
    assert scored.uns["scores"]["params"]["n_cells"] == known.sum()


@pytest.mark.slow
def test_scores_survive_a_file(scored, tmp_path):
    import anndata

    sc_vaenb.tl.score(scored, batch_key="batch", label_key="cell_type")
    scored.write_h5ad(tmp_path / "a.h5ad")
    again = anndata.read_h5ad(tmp_path / "a.h5ad").uns["scores"]
    pd.testing.assert_frame_equal(again["values"], scored.uns["scores"]["values"])


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({}, ValueError, "nothing to score by"),
        ({"batch_key": "batch", "label_key": "batch"}, ValueError, "batch_key and label_key both name 'batch'"),
        ({"batch_key": "no"}, KeyError, "batch_key='no'"),
        ({"label_key": "no"}, KeyError, "label_key='no'"),
        ({"batch_key": "batch", "embeddings": ["X_no"]}, KeyError, "'X_no' is not in adata.obsm"),
        ({"batch_key": "batch", "embeddings": []}, ValueError, "there is no embedding to score"),
        ({"batch_key": "batch", "embeddings": "X_bad"}, ValueError, "finite"),
        ({"batch_key": "batch", "embeddings": "X_words"}, ValueError, "is not a matrix of numbers"),
        ({"batch_key": "batch", "key_added": "a/b"}, ValueError, "key_added='a/b'"),
        ({"batch_key": "batch", "neighbors_key": "no"}, KeyError, "neighbors_key='no' is neither in uns"),
        ({"label_key": "none"}, ValueError, r"obs\['none'\] labels 0 cells"),
    ],
)
def test_what_cannot_be_scored_is_refused(scored, unchanged, arguments, error, text):
    scored.obsm["X_bad"] = np.full((300, 3), np.nan)
    scored.obsm["X_words"] = pd.DataFrame({"a": ["x"] * 300}, index=scored.obs_names)
    scored.obs["none"] = pd.Categorical([None] * 300)
    with unchanged(scored), pytest.raises(error, match=text):
        sc_vaenb.tl.score(scored, **arguments)
