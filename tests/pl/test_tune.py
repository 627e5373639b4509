"""The figure of a search shows every trial where it is, and marks the default and the chosen one."""

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
    kept, mixed = np.array([0.70, 0.71, 0.68, np.nan]), np.array([0.50, 0.52, 0.53, np.nan])
    trials = pd.DataFrame({
        "trial": range(4), "beta": [0.5, 0.1, 2.0, 1.0], "n_latent": [30, 10, 10, 10], "n_steps": [5, 5, 5, 5],
        "prior": ["normal", "normal", "conditional", "normal"], "score": 0.6 * kept + 0.4 * mixed, "kept": kept,
        "mixed": mixed, "default": [True, False, False, False], "chosen": [False, True, False, False],
    })  # fmt: skip
    adata = AnnData(np.ones((3, 2), np.float32))
    seeds = pd.DataFrame({"trial": [0, 1], "seed": [1, 1], "score": [0.62, 0.63]})
    adata.uns["tune"] = {"trials": trials, "seeds": seeds, "verdict": "Because.\nRecommended call: f(adata)"}
    return adata


def drawn(ax, label):
    (line,) = (line for line in ax.lines if line.get_label() == label)
    return line.get_xydata()


def test_trials_default_and_choice_are_where_they_are(adata, unchanged):
    with unchanged(adata):
        axes = pl.tune(adata, show=False)
    assert list(axes) == ["criteria", "beta", "n_latent", "prior"]  # n_steps did not vary
    ax = axes["criteria"]
    np.testing.assert_allclose(drawn(ax, "trial"), [[0.50, 0.70], [0.52, 0.71], [0.53, 0.68]])
    np.testing.assert_allclose(drawn(ax, "defaults"), [[0.50, 0.70]])
    np.testing.assert_allclose(drawn(ax, "chosen"), [[0.52, 0.71]])
    assert ax.get_xlabel() == "mixed (iLISI of batches)"
    np.testing.assert_allclose(drawn(axes["beta"], "trial")[:, 0], [0.5, 0.1, 2.0])
    assert [text.get_text() for text in axes["beta"].get_xticklabels()] == ["0.1", "0.5", "2"]
    assert [text.get_text() for text in axes["prior"].get_xticklabels()] == ["normal", "conditional"]
    np.testing.assert_allclose(drawn(axes["prior"], "defaults"), [[0, 0.62]])
    (crosses,) = (line for line in axes["beta"].lines if line.get_marker() == "x")
    np.testing.assert_allclose(crosses.get_xydata(), [[0.5, 0.62], [0.1, 0.63]])
    assert ax.figure.get_suptitle() == "Recommended call: f(adata)"
    assert [text.get_text() for text in ax.figure.legends[0].get_texts()] == [
        *("trial", "defaults", "chosen", "other seeds"),
    ]


def test_axes_do_not_zoom_in_and_lines_have_equal_scores(adata):
    axes = pl.tune(adata, show=False)
    for low, high in (axes["criteria"].get_xlim(), axes["criteria"].get_ylim(), axes["beta"].get_ylim()):
        assert high - low > 0.0999
    lines = [line.get_xydata() for line in axes["criteria"].lines if len(line.get_label()) and line.get_zorder() == 0.5]
    assert len(lines) > 2
    for (x0, y0), (x1, y1) in lines:
        assert 0.6 * y0 + 0.4 * x0 == pytest.approx(0.6 * y1 + 0.4 * x1)


def test_a_wide_range_has_a_logarithmic_axis(adata):
    table = pd.concat([adata.uns["tune"]["trials"].iloc[:1]] * 8, ignore_index=True)
    adata.uns["tune"]["trials"] = table.assign(beta=np.geomspace(0.1, 2, 8), dropout=np.linspace(0, 0.3, 8))
    axes = pl.tune(adata, show=False)
    assert axes["beta"].get_xscale() == "log"
    assert axes["dropout"].get_xscale() == "linear"


def test_without_batches_trials_follow_each_other(adata):
    adata.uns["tune"]["trials"] = adata.uns["tune"]["trials"].drop(columns="mixed")
    ax = pl.tune(adata, show=False)["criteria"]
    np.testing.assert_allclose(drawn(ax, "trial"), [[0, 0.70], [1, 0.71], [2, 0.68]])
    assert ax.get_xlabel() == "trial"


def test_draws_a_single_configuration_into_a_figure_of_the_user(adata):
    adata.uns["tune"]["trials"] = adata.uns["tune"]["trials"].iloc[:1]
    figure = plt.figure()
    assert list(pl.tune(adata, fig=figure, show=False)) == ["criteria"]
    assert plt.get_fignums() == [figure.number]


def test_without_a_search_the_way_out_is_named(adata, refused):
    with refused(adata, KeyError, r"uns\['no'\] holds no search; uns has \['tune'\]\. Run sc_vaenb\.tl\.tune"):
        pl.tune(adata, "no", show=False)
    assert not plt.get_fignums()


def test_a_search_whose_defaults_are_best_has_no_other_seeds(adata):
    adata.uns["tune"]["seeds"] = pd.DataFrame([], columns=["trial", "seed", "score"])
    axes = pl.tune(adata, show=False)
    assert not [line for line in axes["beta"].lines if line.get_marker() == "x"]


def test_the_legend_names_all_marks_and_the_diamond_has_room_at_the_ends(adata):
    axes = pl.tune(adata, show=False)
    (legend,) = plt.gcf().legends
    assert [text.get_text() for text in legend.get_texts()] == ["trial", "defaults", "chosen", "other seeds"]
    for name in ("beta", "n_latent"):
        ends = axes[name].transAxes.inverted().transform(axes[name].transData.transform(drawn(axes[name], "trial")))
        assert ends[:, 0].min() > 0.08
        assert ends[:, 0].max() < 0.92
