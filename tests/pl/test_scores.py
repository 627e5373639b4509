"""The plot of scores shows every number, on scales that neither hide nor blow up a difference."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from sc_vaenb import pl


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


def test_the_table_holds_the_means_best_method_first(adata):
    table = pl.scores(adata, show=False)["table"]
    assert [t.get_text() for t in table.get_yticklabels()] == ["CVAE", "PCA"]
    assert [t.get_text() for t in table.get_xticklabels()] == ["nmi", "ilisi", "same batch excess ↓"]  # no empty column
    assert [t.get_text() for t in table.texts] == ["0.71", "0.50", "0.05", "0.90", "0.10", "0.40"]


def test_colours_are_on_one_scale_and_text_can_be_read(adata):
    table = pl.scores(adata, show=False)["table"]
    colours = table.images[0].get_array()
    brightness = colours[..., :3] @ (0.299, 0.587, 0.114)
    numbers = [0.71, 0.5, 0.05, 0.9, 0.1, 0.4]
    assert np.argsort(brightness.ravel()).tolist() == np.argsort(numbers)[::-1].tolist()
    for text, light in zip(table.texts, brightness.ravel(), strict=True):
        assert text.get_color() == ("white" if light < 0.5 else "black")


def test_bars_begin_at_zero_with_a_point_for_each_seed(adata):
    axes = pl.scores(adata, show=False)["means"]
    assert axes.get_xlim()[0] == 0
    widths = [bar.get_width() for bar in axes.patches]
    np.testing.assert_allclose(widths, [0.71, 0.9, 0.5, 0.1, 0.63, 0.58])
    assert all(bar.get_x() == 0 for bar in axes.patches)
    np.testing.assert_allclose(np.sort(np.concatenate([line.get_xdata() for line in axes.lines])),
                               [0.5, 0.5, 0.62, 0.64, 0.70, 0.72])  # fmt: skip
    assert [t.get_text() for t in axes.get_yticklabels()] == ["9.0 s", "1.0 s"]
    assert [t.get_text() for t in axes.get_legend().get_texts()] == ["bio", "batch", "total"]


def test_scores_alone_are_drawn_too(adata):
    adata.uns["scores"] = adata.uns["compare"]["scores"]
    axes = pl.scores(adata, "scores", show=False)
    assert [t.get_text() for t in axes["table"].get_yticklabels()] == ["cvae_seed1", "cvae", "pca"]
    adata.uns["scores"]["values"] = adata.uns["scores"]["values"][["ilisi"]]  # no labels: no means
    assert set(pl.scores(adata, "scores", show=False)) == {"table"}


@pytest.mark.parametrize("key", ["no", "other"])
def test_what_holds_no_scores_is_refused(adata, key):
    adata.uns["other"] = {"values": 1}
    with pytest.raises(KeyError, match=f"uns\\['{key}'\\] holds no scores"):
        pl.scores(adata, key, show=False)
