"""The plot of scores shows the means and their parts, darker where better, and does not blow up a difference."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from sc_vaenb import pl
from sc_vaenb.metrics import METRICS


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


@pytest.fixture
def adata():
    """Two methods, the second of two seeds, as tl.compare records them."""
    adata = AnnData(np.ones((3, 2), np.float32))
    values = pd.DataFrame(
        {
            "nmi": [0.9, 0.70, 0.72], "ilisi": [0.1, 0.5, 0.5], "same_batch_excess": [0.4, 0.0, 0.1],
            "private_purity": np.nan, "bio": [0.9, 0.70, 0.72], "batch": [0.1, 0.5, 0.5], "total": [0.58, 0.62, 0.64],
        },
        index=["X_pca", "X_cvae", "X_cvae_seed1"],
    )  # fmt: skip
    metrics = pd.DataFrame(
        {
            "kind": ["bio", "batch", "batch", "overcorrection"],
            "higher_is_better": [True, True, False, True],
            "in_total": [True, True, False, False],
        },
        index=["nmi", "ilisi", "same_batch_excess", "private_purity"],
    )
    methods = pd.DataFrame(
        {"method": ["PCA", "CVAE", "CVAE"], "seed": [0, 0, 1], "embedding": values.index, "seconds": [1.0, 8.0, 10.0]}
    )
    adata.uns["compare"] = {"scores": {"values": values, "metrics": metrics}, "methods": methods}
    return adata


def numbers(ax):
    return [text.get_text() for text in ax.texts if "." in text.get_text()]


def darkness(ax):
    """How dark each cell of the table is, methods x columns."""
    return 1 - ax.images[0].get_array()[..., :3] @ (0.299, 0.587, 0.114)


def test_the_means_and_their_parts_best_method_first(adata):
    axes = pl.scores(adata, show=False)
    assert [t.get_text() for t in axes["means"].get_yticklabels()] == ["CVAE", "PCA"]
    assert [t.get_text() for t in axes["means"].get_xticklabels()] == ["total", "bio", "batch"]
    assert numbers(axes["means"]) == [
        *("0.63", "±0.01", "0.71", "±0.01", "0.50", "±0.00"),  # of two seeds
        *("0.58", "0.90", "0.10"),
    ]
    assert [t.get_text() for t in axes["table"].get_xticklabels()] == ["nmi", "ilisi"]
    assert numbers(axes["table"]) == ["0.71", "0.50", "0.90", "0.10"]
    assert [t.get_text() for t in axes["table"].texts][-2:] == ["parts of bio", "parts of batch"]
    (times,) = axes["table"].child_axes
    assert [t.get_text() for t in times.get_yticklabels()] == ["9 s", "1 s"]


def test_the_rest_on_request(adata):
    table = pl.scores(adata, metrics="all", show=False)["table"]
    assert [t.get_text() for t in table.get_xticklabels()] == ["nmi", "ilisi", "same batch excess ↓"]  # no empty column
    assert numbers(table) == ["0.71", "0.50", "0.05", "0.90", "0.10", "0.40"]


def test_swapped_axes_show_the_same_table_with_a_row_for_each_score(adata):
    plain = pl.scores(adata, metrics="all", show=False)
    axes = pl.scores(adata, metrics="all", swap_axes=True, show=False)
    assert [t.get_text() for t in axes["means"].get_yticklabels()] == ["total", "bio", "batch"]
    assert [t.get_text() for t in axes["means"].get_xticklabels()] == ["CVAE", "PCA"]
    assert [t.get_text() for t in axes["table"].get_yticklabels()] == ["nmi", "ilisi", "same batch excess ↓"]
    for part in ("means", "table"):
        np.testing.assert_array_equal(darkness(axes[part]), darkness(plain[part]).T)
    assert numbers(axes["means"])[:3] == ["0.63 ±0.01", "0.71 ±0.01", "0.50 ±0.00"]
    assert numbers(axes["table"]) == numbers(plain["table"])
    assert [t.get_position()[::-1] for t in axes["table"].texts[:6]] == [
        t.get_position() for t in plain["table"].texts[:6]
    ]
    (times,) = axes["table"].child_axes
    assert [t.get_text() for t in times.get_xticklabels()] == ["9 s", "1 s"]


def test_darker_is_better_also_where_smaller_is(adata):
    axes = pl.scores(adata, metrics="all", show=False)
    cvae, pca = darkness(axes["table"])
    assert cvae[0] < pca[0]  # nmi
    assert cvae[1] > pca[1]  # ilisi
    assert cvae[2] > pca[2]  # same_batch_excess, of which less is better
    assert (np.maximum(cvae, pca) == max(cvae)).all()  # the best of each column is as dark
    for ax in axes.values():
        for text, dark in zip([t for t in ax.texts if "±" not in t.get_text()], darkness(ax).ravel(), strict=False):
            assert text.get_color() == ("white" if dark > 0.5 else "black")


def test_a_difference_of_a_hundredth_looks_small(adata):
    values = adata.uns["compare"]["scores"]["values"]
    values["nmi"] = [0.71, 0.70, 0.70]
    cvae, pca = darkness(pl.scores(adata, show=False)["table"])[:, 0]
    assert 0 < pca - cvae < 0.05


def test_half_a_page_is_enough_for_all_parts_of_the_total():
    """Ten methods and the eight metrics of the total: letters of 8 points on at most 6 inches."""
    names = [name for name, metric in METRICS.items() if metric.in_total]
    rng, methods = np.random.default_rng(0), [f"method {i}" for i in range(10)]
    values = pd.DataFrame(rng.random((10, len(names) + 3)), methods, [*names, "bio", "batch", "total"])
    metrics = pd.DataFrame(
        [[METRICS[name].kind, True, True] for name in names], names, ["kind", "higher_is_better", "in_total"]
    )
    adata = AnnData(np.ones((3, 2), np.float32))
    adata.uns["scores"] = {"values": values, "metrics": metrics}
    axes = pl.scores(adata, "scores", show=False)
    assert axes["table"].figure.get_figwidth() < 6
    assert min(text.get_fontsize() for text in axes["table"].texts) >= 8


def test_scores_alone_are_drawn_too(adata):
    adata.uns["scores"] = adata.uns["compare"]["scores"]
    axes = pl.scores(adata, "scores", show=False)
    assert [t.get_text() for t in axes["means"].get_yticklabels()] == ["cvae_seed1", "cvae", "pca"]
    adata.uns["scores"]["values"] = adata.uns["scores"]["values"][["same_batch_excess"]]  # no labels: no means
    axes = pl.scores(adata, "scores", show=False)
    assert set(axes) == {"table"}
    assert [t.get_text() for t in axes["table"].get_xticklabels()] == ["same batch excess ↓"]
    assert [t.get_text() for t in axes["table"].get_yticklabels()] == ["pca", "cvae", "cvae_seed1"]


@pytest.mark.parametrize("key", ["no", "other"])
def test_what_holds_no_scores_is_refused(adata, key):
    adata.uns["other"] = {"values": 1}
    with pytest.raises(KeyError, match=f"uns\\['{key}'\\] holds no scores"):
        pl.scores(adata, key, show=False)


def test_scores_without_a_number_are_refused(adata):
    scores = adata.uns["compare"]["scores"]
    adata.uns["scores"] = scores | {"values": scores["values"] * np.nan}
    with pytest.raises(ValueError, match=r"uns\['scores'\] holds no score that is a number"):
        pl.scores(adata, "scores", show=False)
    assert not plt.get_fignums()
