"""The heat map of a way: genes in the order of their peaks, ends named, every name readable."""

from itertools import pairwise

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
    """Five genes that peak along 21 points one after the other, one that does not vary, and a faint one."""
    position = np.linspace(0, 1, 21)
    peaks = {"fourth": 0.7, "first": 0.1, "third": 0.5, "last": 1.0, "second": 0.3}
    expression = {name: 1 + 50 * np.exp(-0.5 * ((position - at) / 0.1) ** 2) for name, at in peaks.items()}
    expression |= {"constant": np.full(21, 7000.0), "faint": 0.01 * position}
    labels = [str(i) for i in range(21)]
    adata = AnnData(np.ones((2, 1), np.float32))
    adata.uns["interpolation"] = {
        "expression": pd.DataFrame(expression, index=labels).T,
        "points": pd.DataFrame({"position": position}, index=labels),
        "states": np.zeros((21, 2), np.float32),
        "stops": pd.DataFrame({"name": ["B", "between", "a T cell"], "position": [0, 0.4, 1]}),
        "params": {"key": "vae", "path": "linear"},
    }
    return adata


def drawn(ax):
    """Names of the rows from above, and what is in them."""
    return [tick.get_text() for tick in ax.get_yticklabels()], np.asarray(ax.images[0].get_array())


def test_genes_stand_in_the_order_of_their_peaks(adata, unchanged):
    with unchanged(adata):
        ax = pl.interpolation(adata, n_genes=5, show=False)
    names, scores = drawn(ax)
    assert names == ["first", "second", "third", "fourth", "last"]  # not the constant one, however high it is
    assert scores.argmax(1).tolist() == [2, 6, 10, 14, 20]
    assert ax.get_ylim() == (4.5, -0.5)  # the first on top
    np.testing.assert_allclose(scores.mean(1), 0, atol=1e-12)
    np.testing.assert_allclose(scores.std(1), 1)


def test_genes_that_only_fall_or_rise_stand_by_where_they_do(adata):
    position = np.linspace(0, 1, 21)
    table = adata.uns["interpolation"]["expression"]
    late, early, up = 1 / (1 + np.exp(20 * (position - 0.7))), np.exp(-9 * position), np.exp(5 * position)
    for name, values in (("late fall", late), ("early fall", early), ("rise", up)):
        table.loc[name] = 10 * values
    names, _ = drawn(pl.interpolation(adata, genes=["rise", "late fall", "early fall"], show=False))
    assert names == ["early fall", "late fall", "rise"]


def test_genes_asked_for_are_drawn_and_one_that_does_not_vary_is_blank(adata):
    ax = pl.interpolation(adata, genes=["last", "constant", "faint", "last"], show=False)
    names, scores = drawn(ax)
    assert sorted(names) == ["constant", "faint", "last"]
    assert not scores[names.index("constant")].any()
    assert scores[names.index("faint")].std() == pytest.approx(1)
    highest = next(axis for axis in ax.child_axes if axis.get_ylabel() == "highest, per 10,000")
    values = dict(zip(names, [tick.get_text() for tick in highest.get_yticklabels()], strict=True))
    assert values == {"constant": "7e+03", "faint": "0.01", "last": "51"}
    assert drawn(pl.interpolation(adata, genes="last", show=False))[0] == ["last"]


def test_the_ends_and_stops_are_named_where_they_are(adata):
    ax = pl.interpolation(adata, show=False)
    found = [(tick.get_text(), at) for tick, at in zip(ax.get_xticklabels(), ax.get_xticks(), strict=True)]
    assert found == [("B", 0), ("between", 0.4), ("a T cell", 1)]
    left, right = ax.images[0].get_extent()[:2]
    assert (left, right) == (-0.025, 1.025)  # centres of the outer columns at 0 and 1
    assert [line.get_xdata()[0] for line in ax.lines] == [0.4]
    assert ax.figure.get_suptitle() == "linear way in the latent space of vae; averaged over batches"
    adata.uns["interpolation"]["params"]["batch"] = "b1"
    assert pl.interpolation(adata, show=False).figure.get_suptitle().endswith("as in batch b1")


def test_the_colour_bar_is_even_around_zero_and_says_what_lies_beyond(adata):
    ax = pl.interpolation(adata, genes=["faint", "constant"], show=False)
    bar = ax.images[0].colorbar
    assert bar.ax.get_ylabel() == "z-score along the way"
    assert ax.images[0].get_clim() == (-2, 2)
    assert bar.extend == "neither"
    adata.uns["interpolation"]["expression"].loc["spike"] = [0.0] * 20 + [50.0]
    assert pl.interpolation(adata, genes=["spike"], show=False).images[0].colorbar.extend == "max"


def test_names_of_any_length_stay_on_the_page_and_apart(adata):
    rng = np.random.default_rng(0)
    names = [f"{i:02}-{'LONG' * 6}" for i in range(60)]
    table = pd.DataFrame(rng.gamma(2, 5, (60, 21)), index=names, columns=[str(i) for i in range(21)])
    adata.uns["interpolation"]["expression"] = table
    adata.uns["interpolation"]["stops"].loc[[0, 2], "name"] = ["a long name of a cell type", "another long name of one"]
    ax = pl.interpolation(adata, n_genes=60, show=False)
    ax.figure.draw_without_rendering()
    page, box = ax.figure.bbox, ax.get_tightbbox()
    assert page.x0 <= box.x0 < box.x1 <= page.x1
    assert page.y0 <= box.y0 < box.y1 <= page.y1
    rows = [tick.get_window_extent() for tick in ax.get_yticklabels()]
    assert all(above.y0 > below.y1 - 1 for above, below in pairwise(rows))


def test_draws_into_a_figure_of_the_user(adata):
    figure = plt.figure(figsize=(9, 4))
    left, right = figure.subfigures(1, 2)
    ax = pl.interpolation(adata, fig=right, show=False)
    assert ax in right.axes
    assert not left.axes
    assert plt.get_fignums() == [figure.number]


def test_what_tl_interpolate_writes_can_be_drawn(fitted):
    from sc_vaenb import tl

    tl.interpolate(fitted, "type_0", "type_1", groupby="cell_type", key_added="way", device="cpu")
    ax = pl.interpolation(fitted, "way", n_genes=12, show=False)
    assert len(drawn(ax)[0]) == 12
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["type_0", "type_1"]


@pytest.mark.parametrize(
    ("kwargs", "error", "text"),
    [
        ({"key": "no"}, KeyError, r"uns\['no'\] holds no interpolation; uns has \['interpolation', 'other'\]\. Run"),
        ({"key": "other"}, KeyError, r"uns\['other'\] holds no interpolation"),
        ({"genes": ["CD3D", "last"]}, ValueError, r"genes=\['CD3D'\] are not among the 7 genes in uns\['interpol"),
        ({"genes": []}, ValueError, r"genes=\[\] are not among the 7 genes"),
        ({"n_genes": 0}, ValueError, r"n_genes=0 is not possible\. Give a whole number at least 1"),
    ],
)
def test_what_cannot_be_drawn_is_refused(adata, refused, kwargs, error, text):
    adata.uns["other"] = {"params": {}}
    with refused(adata, error, text):
        pl.interpolation(adata, show=False, **kwargs)
    assert not plt.get_fignums()


def test_long_names_of_stops_are_slanted(adata):
    assert {tick.get_rotation() for tick in pl.interpolation(adata, show=False).get_xticklabels()} == {0}
    adata.uns["interpolation"]["stops"]["name"] = ["CD14+ monocyte", "CD8+ T effector memory", "B naive"]
    assert {tick.get_rotation() for tick in pl.interpolation(adata, show=False).get_xticklabels()} == {30}
