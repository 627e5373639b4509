"""A grid of panels of cells, with the legends of each column of panels at its right, below the grid or on the cells."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import matplotlib.patheffects as effects
import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.transforms import BboxTransformTo, ScaledTranslation

from ._colors import MISSING, PALETTE, Colouring, ink
from ._figure import PANEL_WIDTH, n_letters_in
from ._text import as_label

if TYPE_CHECKING:
    from matplotlib.figure import Figure, SubFigure
    from matplotlib.gridspec import GridSpec
    from matplotlib.transforms import Bbox
    from numpy.typing import NDArray

TITLE_HEIGHT = 0.1  # inches by which a panel is higher than wide
MAX_ENTRIES = 60  # of a legend; more categories get a note
ENTRIES_PER_COLUMN, SMALL_PER_COLUMN = 12, 15  # in the height of one panel; letters are smaller if there are more
ENTRY_LETTERS = 4  # of the width of an entry beside its name
POINT_AREA = 2_400, 0.04, 1.6  # of the cells of a panel of one inch: together, and the least and the most of each
MAX_MOVES = 300  # of labels on cells

LegendLoc = Literal["right margin", "below", "on data", "none"]


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
    fit: bool,
    size: float | None = None,
    rng: int = 0,
    legend_loc: LegendLoc = "right margin",
) -> NDArray[np.object_]:
    """Draw panels of the same size (rows x columns; None is left empty). `fit` makes room for the legends.

    With legends below, categories that differ from row to row are written on the cells.
    """
    n_rows, n_columns = len(panels), len(panels[0])
    columns = list(zip(*panels, strict=True))
    of_all_rows = {id(column[0].colouring): column[0].colouring for column in columns if len(_colourings(column)) == 1}
    below = [c for c in of_all_rows.values() if c.categories] if legend_loc == "below" else []
    # beside each column of panels and below the grid are strips of almost no size, which anchor the legends
    grid = figure.add_gridspec(
        n_rows + len(below),
        2 * n_columns,
        width_ratios=[1, 1e-3] * n_columns,
        height_ratios=[1] * n_rows + [1e-3] * len(below),
    )
    panel_width = figure.bbox.width / figure.figure.dpi / n_columns
    axes = np.full((n_rows, n_columns), None, dtype=object)
    locs = [_loc_of(column, legend_loc, below) for column in columns]
    for i, row in enumerate(panels):
        for j, panel in enumerate(row):
            if panel is not None:
                axes[i, j] = figure.add_subplot(grid[i, 2 * j])
                _draw_cells(axes[i, j], panel, _point_area(panel, panel_width) if size is None else size, rng)
                axes[i, j].set_title(textwrap.fill(panel.title, n_letters_in(figure, 1 / n_columns)), fontsize="medium")
                if locs[j] == "on data":
                    _write_on_cells(axes[i, j], panel)
    widths = []
    for j in range(n_columns):
        coloured_alike = j + 1 < n_columns and _colourings(columns[j]) == _colourings(columns[j + 1])
        # the next column shows the same legend
        strips = [] if coloured_alike else list(_draw_legends(figure, grid, j, columns[j], locs[j]))
        widths.append(max((box.width for box in _boxes(strips)), default=0))
    strips = [figure.add_subplot(grid[n_rows + k, :]) for k in range(len(below))]
    for strip, colouring in zip(strips, below, strict=True):
        _draw_legend_below(strip, colouring)
    if fit:
        width, height = figure.figure.get_size_inches()
        added_height = sum(box.height for box in _boxes(strips))
        figure.figure.set_size_inches(
            width + sum(widths) / figure.figure.dpi, height + added_height / figure.figure.dpi
        )
    if "on data" in locs:
        figure.figure.draw_without_rendering()  # so that the places of labels are known
        for ax in filter(None, axes.flat):
            _separate(ax)
    return axes


def grid_size(n_rows: int, n_columns: int, width: float = PANEL_WIDTH) -> tuple[float, float]:
    """Inches of a grid of panels without its legends."""
    return n_columns * width, n_rows * (width + TITLE_HEIGHT)


def _boxes(strips: Sequence[Axes]) -> list[Bbox]:
    return [box for strip in strips if (box := strip.get_tightbbox()) is not None]


def _loc_of(column: Sequence[Panel | None], legend_loc: LegendLoc, below: Sequence[Colouring]) -> LegendLoc:
    """Where the legend of a column is, if it is not one of those below."""
    first = column[0]
    if legend_loc != "below" or (first is not None and first.colouring.scale is not None):
        return "right margin" if legend_loc == "below" else legend_loc
    return "none" if any(first is not None and first.colouring is colouring for colouring in below) else "on data"


def _colourings(panels: Sequence[Panel | None]) -> set[int]:
    """The colourings of a column of panels."""
    return {id(panel.colouring) for panel in panels if panel is not None}


def _point_area(panel: Panel, width: float) -> float:
    """Square points of a cell in a panel of so many inches; smaller the more cells there are."""
    n_cells = np.arange(len(panel.plane))[panel.cells].size
    together, least, most = POINT_AREA
    return float(width**2 * np.clip(together / n_cells, least, most))


def _draw_cells(ax: Axes, panel: Panel, area: float, rng: int) -> None:
    """Draw the cells in random order, those with missing values below all others."""
    plane, colouring = panel.plane, panel.colouring
    shuffled = np.random.default_rng(rng).permutation(np.arange(len(plane))[panel.cells])
    order = shuffled[np.argsort(~colouring.missing[shuffled], kind="stable")]
    ax.scatter(plane[order, 0], plane[order, 1], c=colouring.rgba[order], s=area, linewidths=0, rasterized=True)
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
        text = ax.text(x, y, as_label(label), ha="center", va="center", fontsize="x-small", path_effects=outline)
        text.set_in_layout(False)  # panels have the same size whatever the labels


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
    note, entries = _entries(colouring, named=in_margin)
    if not (note or entries):
        return
    title += note
    small = len(entries) > ENTRIES_PER_COLUMN * n_rows
    n_columns = max(1, -(-len(entries) // ((SMALL_PER_COLUMN if small else ENTRIES_PER_COLUMN) * n_rows)))
    _legend(strip, entries, title, n_columns, small, bbox_to_anchor=(0, legend_top), bbox_transform=inch_transform)


def _draw_legend_below(strip: Axes, colouring: Colouring) -> None:
    """Draw the legend of categories in as many columns as the figure has room for."""
    strip.set_axis_off()
    note, entries = _entries(colouring, named=True)
    n_letters = max(len(as_label(name)) for name in [*entries, ""]) + ENTRY_LETTERS
    n_columns = max(1, n_letters_in(strip.figure, 1, "small") // n_letters)
    _legend(strip, entries, as_label(colouring.name) + note, n_columns, small=False, bbox_to_anchor=(0, 1))


def _entries(colouring: Colouring, *, named: bool) -> tuple[str, dict[str, str]]:
    """A note if there are too many categories for a legend, and the entries: categories if named, missing values."""
    n, note = len(colouring.categories), ""
    entries = colouring.categories if named and n <= MAX_ENTRIES else {}
    if n > MAX_ENTRIES:
        note = f"\n{n:,} categories: too\nmany for a legend" + (";\ncolours repeat" if n > len(PALETTE) else "")
    return note, entries | {"missing": MISSING} if colouring.missing.any() else entries


def _legend(strip: Axes, entries: dict[str, str], title: str, n_columns: int, small: bool, **place: Any) -> None:
    strip.legend(
        handles=[
            Line2D([], [], color=colour, marker="o", markersize=4 if small else 5, linestyle="", label=as_label(name))
            for name, colour in entries.items()
        ],
        title=title or None,
        ncols=n_columns,
        loc="upper left",
        alignment="left",
        frameon=False,
        fontsize="x-small" if small else "small",
        title_fontsize="small",
        borderaxespad=0,
        borderpad=0,
        handlelength=1,
        handletextpad=0.4,
        columnspacing=1.0,
        **place,
    )
