"""Figures are readable in light and dark styles of matplotlib, and with scanpy's settings of figures."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from anndata import AnnData
from matplotlib.colors import to_rgb, to_rgba
from matplotlib.lines import Line2D
from matplotlib.text import Text

from sc_vaenb import pl
from sc_vaenb.pl._colors import PALETTE, ink, palette_of_style

from ..contract import table

CALLS = {
    "confusion": {"clusters": "batch", "label_key": "cell_type"},
    "embedding": {"keys": "X_two", "color": "cell_type", "legend_loc": "on data"},
    "factors": {},
    "history": {},
    "interpolation": {},
    "latent": {"groupby": "cell_type"},
    "posterior_check": {},
    "scores": {"key": "scores"},
    "tradeoff": {"key": "scores"},
    "trajectory": {"genes": "gene_0", "time_key": "score", "sample_key": "batch", "layer": "counts"},
}


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def adata():
    return table.small(whole=False)


def contrast(colour, background):
    """From 1, the same, to 21, black on white, as the Web Content Accessibility Guidelines define it."""
    luminance = []
    for rgb in (colour, background):
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(rgb)]
        luminance.append(np.dot(linear, (0.2126, 0.7152, 0.0722)) + 0.05)
    return max(luminance) / min(luminance)


def is_drawn(artist):
    """Text or a line on the background: not in a table, which has its own."""
    ax = artist.axes
    return artist.get_visible() and (ax is None or not ax.images)


@pytest.mark.parametrize("style", ["default", "dark_background"])
@pytest.mark.parametrize("name", CALLS)
def test_text_and_lines_stand_out_from_the_background(adata, name, style):
    with plt.style.context(style):
        getattr(pl, name)(adata, show=False, **CALLS[name])
        figure = plt.gcf()
        background = figure.get_facecolor()
        texts = [text for text in figure.findobj(Text) if is_drawn(text) and text.get_text().strip()]
        lines = [line for line in figure.findobj(Line2D) if is_drawn(line) and line.get_linestyle() != "None"]
    assert texts
    faint = {text.get_text() for text in texts if contrast(text.get_color(), background) < 3}
    assert not faint
    assert not [line.get_label() for line in lines if contrast(line.get_color(), background) < 1.2]


def test_names_on_cells_have_an_outline_of_the_background(adata):
    with plt.style.context("dark_background"):
        (ax,) = pl.embedding(adata, "X_two", color="cell_type", legend_loc="on data", show=False).flat
        assert {to_rgba(effect._gc["foreground"]) for t in ax.texts for effect in t.get_path_effects()} == {
            (0, 0, 0, 1)
        }


def test_names_on_cells_do_not_cover_each_other():
    types = [f"a type of cells {i}" for i in range(12)]
    adata = AnnData(obs=pd.DataFrame({"type": 5 * types}, index=np.arange(60).astype(str)))
    adata.obsm["X_umap"] = np.random.default_rng(0).normal(size=(60, 2))
    (ax,) = pl.embedding(adata, "X_umap", color="type", legend_loc="on data", show=False).flat
    assert sorted(text.get_text() for text in ax.texts) == sorted(types)
    boxes = [text.get_window_extent() for text in ax.texts]
    assert sum(box.count_overlaps(boxes) for box in boxes) == len(boxes)  # each with itself
    assert all(ax.bbox.y0 <= box.y0 + 1 and box.y1 <= ax.bbox.y1 + 1 for box in boxes)


def test_a_figure_grows_with_the_letters_of_the_style(adata):
    width = {}
    for size in (10, 14):
        with plt.rc_context({"font.size": size}):
            pl.history(adata, show=False)
            width[size] = plt.gcf().get_figwidth()
    assert width[14] == pytest.approx(1.4 * width[10])


@pytest.mark.parametrize(
    ("name", "columns"),
    [("history", {"ncols": 2}), ("posterior_check", {"ncols": 2}), ("scores", {"metrics": "all", "swap_axes": True})],
)
def test_letters_of_seven_points_fit_a_column_of_a_paper(adata, name, columns):
    with plt.rc_context({"font.size": 7}):
        getattr(pl, name)(adata, show=False, **CALLS[name], **columns)
        figure = plt.gcf()
        figure.draw_without_rendering()
    axes = figure.axes
    words = [*figure.texts, *(ax._left_title for ax in axes), *(ax.xaxis.label for ax in axes)]
    words += [text for ax in axes if ax.get_legend() for text in ax.get_legend().get_texts()]
    assert figure.get_figwidth() <= 3.5
    assert min(text.get_fontsize() for text in figure.findobj(Text) if text.get_text().strip()) > 4.8
    ends = {text.get_text(): text.get_window_extent().x1 for text in words if text.get_text().strip()}
    assert ends
    assert not [text for text, end in ends.items() if end > figure.bbox.x1 + 1]


@pytest.mark.parametrize("name", sorted(set(CALLS) - {"scores", "tradeoff", "embedding"}))
def test_the_title_ends_within_a_narrow_figure(adata, name):
    figure = plt.figure(figsize=(5, 6))
    getattr(pl, name)(adata, fig=figure, show=False, **CALLS[name])
    (title,) = (text for text in figure.texts if text.get_text() == figure.get_suptitle())
    assert title.get_window_extent().x1 < figure.bbox.x1


def grey(colour):
    return np.dot(to_rgb(colour), (0.299, 0.587, 0.114))


def test_curves_and_points_can_be_told_apart_in_grey(adata):
    colours = {line.get_label(): line.get_color() for line in pl.history(adata, show=False)["loss"].lines}
    assert abs(grey(colours["train"]) - grey(colours["validation"])) > 0.2
    axes = pl.posterior_check(adata, show=False)
    colours = {line.get_label(): line.get_color() for line in axes["zeros"].lines}
    assert abs(grey(colours["data"]) - grey(colours["replicates"])) > 0.2
    marked = [line for line in axes["coverage"].lines if line.get_marker() != "None"]
    assert len({(line.get_marker(), line.get_color()) for line in marked}) == len(marked) == 8


def test_no_category_is_black_on_black():
    assert palette_of_style() == PALETTE
    with plt.style.context("dark_background"):
        assert palette_of_style() == [*PALETTE[:7], "#ffffff", *PALETTE[8:]]
        assert (ink(), ink(0)) == ("#ffffff", "#000000")
    with plt.rc_context({"figure.facecolor": "none"}):
        assert (ink(), ink(0)) == ("#000000", "#ffffff")


@pytest.mark.parametrize("name", ["confusion", "factors", "scores", "interpolation"])
def test_tables_have_no_grid_lines_of_a_style(adata, name):
    with plt.rc_context():
        sc.settings.set_figure_params()  # turns grids on
        getattr(pl, name)(adata, show=False, **CALLS[name])
        plt.gcf().draw_without_rendering()
        tables = [ax for ax in plt.gcf().axes if ax.images]
        assert tables
        for ax in tables:
            assert not any(line.get_visible() for line in [*ax.get_xgridlines(), *ax.get_ygridlines()])
