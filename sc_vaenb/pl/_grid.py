"""A grid of panels of cells, with the legends of each column of panels at its right or on the cells."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Literal, NamedTuple

import matplotlib.patheffects as effects
import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.transforms import BboxTransformTo, ScaledTranslation

from ._colors import MISSING, PALETTE, Colouring, ink
from ._text import as_label

if TYPE_CHECKING:
    from matplotlib.figure import Figure, SubFigure
    from matplotlib.gridspec import GridSpec
    from numpy.typing import NDArray

PANEL_WIDTH, PANEL_HEIGHT = 3.2, 3.3  # inches
TITLE_LETTERS = 38  # of a line of a title, in the width of a panel
MAX_ENTRIES = 60  # of a legend; more categories get a note
SMALL_ABOVE = 14  # entries; above it the letters are smaller, and more of them are in a column
ENTRIES_PER_COLUMN, SMALL_PER_COLUMN = 14, 18  # in the height of one panel
MAX_MOVES = 300  # of labels on cells

LegendLoc = Literal["right margin", "on data", "none"]


class Panel(NamedTuple):
    """One panel of the grid."""

    title: str
    plane: NDArray[np.float64]
    colouring: Colouring
    cells: slice | NDArray[np.intp] = slice(None)  # those that are drawn


def draw_grid(
    figure: Figure | SubFigure,
    panels: Sequence[Sequence[Panel | None]],
    *,
    fit_width: bool,
    size: float | None = None,
    rng: int = 0,
    legend_loc: LegendLoc = "right margin",
) -> NDArray[np.object_]:
    """Draw panels of the same size (rows x columns; None is left empty). `fit_width` makes room for the legends."""
    n_rows, n_columns = len(panels), len(panels[0])
    # beside each column of panels is a strip of almost no width, which anchors the legends
    grid = figure.add_gridspec(n_rows, 2 * n_columns, width_ratios=[1, 1e-3] * n_columns)
    axes = np.full((n_rows, n_columns), None, dtype=object)
    for i, row in enumerate(panels):
        for j, panel in enumerate(row):
            if panel is not None:
                axes[i, j] = figure.add_subplot(grid[i, 2 * j])
                _draw_cells(axes[i, j], panel, size, rng)
                if legend_loc == "on data":
                    _write_on_cells(axes[i, j], panel)
    widths = []
    columns = list(zip(*panels, strict=True))
    for j in range(n_columns):
        coloured_alike = j + 1 < n_columns and _colourings(columns[j]) == _colourings(columns[j + 1])
        # the next column shows the same legend
        strips = [] if coloured_alike else list(_draw_legends(figure, grid, j, columns[j], legend_loc))
        boxes = [box for strip in strips if (box := strip.get_tightbbox()) is not None]
        widths.append(max((box.width for box in boxes), default=0) / figure.figure.dpi)
    if fit_width:
        figure.figure.set_figwidth(figure.figure.get_figwidth() + sum(widths))
    if legend_loc == "on data":
        figure.figure.draw_without_rendering()  # so that the places of labels are known
        for ax in filter(None, axes.flat):
            _separate(ax)
    return axes


def _colourings(panels: Sequence[Panel | None]) -> set[int]:
    """The colourings of a column of panels."""
    return {id(panel.colouring) for panel in panels if panel is not None}


def _draw_cells(ax: Axes, panel: Panel, size: float | None, rng: int) -> None:
    """Draw the cells in random order, those with missing values below all others."""
    plane, colouring = panel.plane, panel.colouring
    shuffled = np.random.default_rng(rng).permutation(np.arange(len(plane))[panel.cells])
    area = np.clip(24_000 / len(shuffled), 0.4, 16) if size is None else size
    order = shuffled[np.argsort(~colouring.missing[shuffled], kind="stable")]
    ax.scatter(plane[order, 0], plane[order, 1], c=colouring.rgba[order], s=area, linewidths=0, rasterized=True)
    ax.set_title(textwrap.fill(panel.title, TITLE_LETTERS), fontsize="medium")
    ax.set(xticks=[], yticks=[])
    ax.set_aspect("equal", adjustable="datalim")
    ax.spines[:].set_color(ink(0.2))


def _write_on_cells(ax: Axes, panel: Panel) -> None:
    """Write each label at the median of its cells."""
    codes = panel.colouring.codes
    if len(panel.colouring.categories) > MAX_ENTRIES:
        return  # the legend has a note
    for label, code in zip(panel.colouring.categories, np.unique(codes[codes >= 0]), strict=False):
        x, y = np.median(panel.plane[codes == code], axis=0)
        outline = [effects.withStroke(linewidth=2, foreground=ink(0))]
        ax.text(x, y, as_label(label), ha="center", va="center", fontsize="x-small", path_effects=outline)


def _separate(ax: Axes) -> None:
    """Move labels into the panel, then up or down until none covers another, as far as there is room."""
    if not ax.texts:
        return
    boxes = np.array([text.get_window_extent().get_points() for text in ax.texts])  # labels x 2 corners x 2
    size = boxes[:, 1] - boxes[:, 0] + 1  # a pixel between them
    lowest, highest = ax.bbox.p0 + size / 2, ax.bbox.p1 - size / 2
    centre = np.clip(boxes.mean(axis=1), lowest, highest)
    centre[:, 1] += 1e-3 * np.arange(len(centre))  # so that one of two at the same place is above
    touching = (size[:, None] + size) / 2  # distance at which two labels touch, in each direction
    for _ in range(MAX_MOVES):
        distance = centre[:, None] - centre
        overlap = (touching - np.abs(distance)).clip(min=0)
        overlap[np.diag_indices(len(centre))] = 0
        covered = np.where(overlap[..., 0] > 0, overlap[..., 1], 0)
        if not covered.any():
            break
        centre[:, 1] += (np.sign(distance[..., 1]) * covered).sum(axis=1) / 4
        centre = np.clip(centre, lowest, highest)
    for text, position in zip(ax.texts, ax.transData.inverted().transform(centre), strict=True):
        text.set_position(position)


def _draw_legends(
    figure: Figure | SubFigure, grid: GridSpec, column: int, panels: Sequence[Panel | None], legend_loc: LegendLoc
) -> Iterator[Axes]:
    """Draw one legend for each run of panels that are coloured alike."""
    first = 0
    for _, run in groupby(panels, key=lambda panel: None if panel is None else id(panel.colouring)):
        alike = list(run)
        if alike[0] is not None and (legend_loc != "none" or alike[0].colouring.scale is not None):
            strip = figure.add_subplot(grid[first : first + len(alike), 2 * column + 1])
            _draw_legend(strip, alike[0].colouring, len(alike), in_margin=legend_loc == "right margin")
            yield strip
        first += len(alike)


def _draw_legend(strip: Axes, colouring: Colouring, n_rows: int, *, in_margin: bool) -> None:
    """Draw the legend or colour bar of a column of panels, anchored at ``strip``, with an entry for missing values."""
    strip.set_axis_off()
    figure = strip.figure
    # from the top of the strip
    inch_transform = figure.dpi_scale_trans + ScaledTranslation(0, 1, BboxTransformTo(strip.bbox))
    legend_top, title = 0.0, as_label(colouring.name)
    if colouring.scale is not None:
        bar = figure.colorbar(
            colouring.scale,
            cax=strip.inset_axes((0, -1.65, 0.12, 1.3), transform=inch_transform),
            extend=colouring.extend,
        )
        bar.ax.set_title(title, loc="left", fontsize="small")
        bar.ax.tick_params(labelsize="small")
        bar.outline.set_visible(False)
        legend_top, title = -1.8, ""
    n = len(colouring.categories)
    entries = colouring.categories if in_margin and n <= MAX_ENTRIES else {}
    if n > MAX_ENTRIES:
        title += f"\n{n:,} categories: too\nmany for a legend" + (";\ncolours repeat" if n > len(PALETTE) else "")
    if colouring.missing.any():
        entries = entries | {"missing": MISSING}
    if not entries and n <= MAX_ENTRIES:
        return
    small = len(entries) > SMALL_ABOVE * n_rows
    strip.legend(
        handles=[
            Line2D([], [], color=colour, marker="o", markersize=4 if small else 5, linestyle="", label=as_label(name))
            for name, colour in entries.items()
        ],
        title=title or None,
        ncols=max(1, -(-len(entries) // ((SMALL_PER_COLUMN if small else ENTRIES_PER_COLUMN) * n_rows))),
        loc="upper left",
        bbox_to_anchor=(0, legend_top),
        bbox_transform=inch_transform,
        alignment="left",
        frameon=False,
        fontsize="x-small" if small else "small",
        title_fontsize="small",
        borderaxespad=0,
        borderpad=0,
        handlelength=1,
        handletextpad=0.4,
        columnspacing=1.0,
    )
