"""The confusion of clusters and labels: every cell counted once, the mass on the diagonal, each number readable."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from sc_vaenb import pl
from sc_vaenb.pl import _confusion


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


@pytest.fixture
def adata():
    """T cells (10) in clusters 2 and 0, B cells (20) in 1 but for one, NK cells (4) with the T cells of 2."""
    cells = [
        ("T", "2", 7),
        ("T", "0", 3),
        ("B", "1", 19),
        ("B", "0", 1),
        ("NK", "2", 4),
        (None, "1", 5),
        ("B", None, 2),
    ]
    label, cluster, n = zip(*cells, strict=True)
    obs = pd.DataFrame({"type": np.repeat(label, n), "leiden_cvae": np.repeat(cluster, n)})
    obs["type"] = pd.Categorical(obs["type"], ["T", "B", "NK", "never"])
    obs["leiden_cvae"] = obs["leiden_cvae"].astype("category")
    obs["leiden_pca"] = pd.Categorical(np.arange(len(obs)) % 2)
    obs.index = [f"cell{i}" for i in range(len(obs))]
    adata = AnnData(np.ones((len(obs), 2), np.float32), obs=obs)
    embeddings = ["X_pca", "X_cvae", "X_cvae_seed1"]
    values = pd.DataFrame({"bio": [0.8, 0.7, 0.7], "total": [0.62, 0.60, 0.66]}, index=embeddings)
    methods = pd.DataFrame({"method": ["PCA", "CVAE", "CVAE"], "embedding": embeddings, "seconds": 1.0})
    adata.uns["compare"] = {
        "scores": {"values": values, "metrics": pd.DataFrame()},
        "methods": methods,
        "params": {"batch_key": "batch", "label_key": "type"},
    }
    return adata


def ticks(ax):
    """Names of rows and columns, and the numbers of cells beside them."""
    top = next(margin for margin in ax.child_axes if margin.get_xlabel() == "cells")
    right = next(margin for margin in ax.child_axes if margin.get_ylabel() == "cells")
    found = ax.get_yticklabels(), right.get_yticklabels(), ax.get_xticklabels(), top.get_xticklabels()
    return [[tick.get_text() for tick in labels] for labels in found]


def numbers(ax):
    return {text.get_position()[::-1]: text.get_text() for text in ax.texts}


def title(ax):
    return ax.figure.get_suptitle()


def test_shares_of_each_label_with_the_mass_on_the_diagonal(adata, unchanged):
    with unchanged(adata):
        ax = pl.confusion(adata, "leiden_cvae", "type", show=False)
    # NK, all of it in cluster 2, leads that cluster; T, most of which is there too, stands beside it
    assert ticks(ax) == [["B", "NK", "T"], ["20", "4", "10"], ["1", "2", "0"], ["19", "11", "4"]]
    assert numbers(ax) == {(0, 0): "0.95", (0, 2): "0.05", (1, 1): "1.00", (2, 1): "0.70", (2, 2): "0.30"}
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("leiden_cvae", "type")
    assert "34 cells; 7 without label or cluster are left out" in title(ax)


def test_the_darker_the_more_and_text_can_be_read(adata):
    ax = pl.confusion(adata, "leiden_cvae", "type", show=False)
    light = ax.images[0].get_array()[..., :3] @ (0.299, 0.587, 0.114)
    shares = np.array([[0.95, 0, 0.05], [0, 1, 0], [0, 0.7, 0.3]])
    order = np.argsort(-shares, axis=None, kind="stable")
    assert (np.diff(light.ravel()[order]) >= 0).all()
    np.testing.assert_allclose(light[shares == 0], 1)
    for text in ax.texts:
        column, row = text.get_position()
        assert text.get_color() == ("white" if light[row, column] < 0.5 else "black")


def test_the_best_method_is_the_default(adata):
    best = pl.confusion(adata, show=False)
    assert best.get_xlabel() == "leiden_cvae"  # 0.63 on average, of the first seed
    assert title(best).startswith("CVAE, best by the total score\n")
    other = pl.confusion(adata, method="PCA", show=False)
    assert other.get_xlabel() == "leiden_pca"
    assert title(other).startswith("PCA\n")
    assert pl.confusion(adata, "leiden_pca", show=False).get_ylabel() == "type"


def test_columns_that_were_never_categories_and_nothing_missing(adata):
    adata.obs["doublet"] = np.arange(adata.n_obs) < 10
    ax = pl.confusion(adata, "doublet", "leiden_pca", show=False)
    assert ticks(ax)[0::2] == [["0", "1"], ["False", "True"]]
    assert "left out" not in title(ax)


@pytest.mark.slow
@pytest.mark.parametrize("length", [1, 45])
def test_many_types_of_any_length_stay_within_the_page_and_on_the_diagonal(length):
    rng = np.random.default_rng(0)
    label, scrambled = rng.integers(0, 30, 20_000), rng.permutation(30) % 25
    obs = pd.DataFrame({"type": [f"{i:02} {'x' * length}" for i in label], "cluster": scrambled[label]})
    ax = pl.confusion(AnnData(obs=obs.set_index(obs.index.astype(str))), "cluster", "type", show=False)
    place = np.array(sorted((row, column) for row, column in numbers(ax)))
    assert len(place) == 30
    assert (np.diff(place, axis=0) >= 0).all()  # a staircase
    ax.figure.draw_without_rendering()
    page, box = ax.figure.bbox, ax.get_tightbbox()
    assert page.x0 <= box.x0 < box.x1 <= page.x1
    assert page.y0 <= box.y0 < box.y1 <= page.y1
    assert max(text.get_window_extent().width for text in ax.texts) < ax.get_window_extent().width / 25


def test_draws_into_a_figure_of_the_user(adata):
    figure = plt.figure(figsize=(9, 4))
    left, right = figure.subfigures(1, 2)
    ax = pl.confusion(adata, fig=right, show=False)
    assert right.axes == [ax]
    assert not left.axes
    assert plt.get_fignums() == [figure.number]


@pytest.mark.parametrize(
    ("kwargs", "error", "text"),
    [
        ({"clusters": "no"}, KeyError, "clusters='no' is not in adata.obs. Its columns are"),
        ({"label_key": "no"}, KeyError, "label_key='no' is not in adata.obs. Its columns are"),
        ({"key": "no"}, KeyError, r"uns\['no'\] holds no scores"),
        ({"key": "scores"}, ValueError, r"uns\['scores'\] holds scores of embeddings, .* Name two columns of obs"),
        ({"clusters": "leiden_pca", "key": "no"}, ValueError, "label_key is None, and .* Name a column of obs"),
        ({"clusters": "leiden_pca", "method": "PCA"}, ValueError, "are both given. Leave one of them out"),
        ({"method": "VAE"}, ValueError, r"method='VAE' is not in the comparison .* Choose one of \['PCA', 'CVAE'\]"),
        ({"clusters": "many"}, ValueError, r"obs\['many'\] holds 41 categories; .* Choose another column as clusters"),
        ({"clusters": "half", "label_key": "rest"}, ValueError, r"no cell has a value in both obs\['rest'\] and"),
    ],
)
def test_what_cannot_be_drawn_is_refused(adata, refused, monkeypatch, kwargs, error, text):
    monkeypatch.setattr(_confusion, "MAX_CATEGORIES", adata.n_obs - 1)
    first = np.arange(adata.n_obs) < 20
    adata.obs["many"] = adata.obs_names
    adata.obs["half"], adata.obs["rest"] = np.where(first, "a", None), np.where(first, None, "a")
    adata.uns["scores"] = adata.uns["compare"]["scores"]
    with refused(adata, error, text):
        pl.confusion(adata, show=False, **kwargs)
    assert not plt.get_fignums()


def test_without_labels_no_method_is_best(adata, refused):
    record = adata.uns["compare"]
    record["scores"]["values"] = record["scores"]["values"].drop(columns="total")
    del record["params"]["label_key"]
    with refused(adata, ValueError, r"was made without labels, .* Pass one of \['PCA', 'CVAE'\] as method"):
        pl.confusion(adata, show=False)
    assert pl.confusion(adata, method="CVAE", label_key="type", show=False).get_xlabel() == "leiden_cvae"


def test_a_large_table_is_small_and_has_no_numbers():
    n = _confusion.DENSE_ABOVE + 1
    obs = pd.DataFrame({"a": np.arange(10 * n) % n, "b": np.arange(10 * n) // 2 % n}, dtype="str").astype("category")
    obs.index = [f"cell{i}" for i in range(10 * n)]
    ax = pl.confusion(AnnData(np.ones((10 * n, 2), np.float32), obs=obs), "a", "b", show=False)
    assert not numbers(ax)
    assert len(ax.get_xticklabels()) == len(ax.get_yticklabels()) == n
    assert max(ax.figure.get_size_inches()) < 8
