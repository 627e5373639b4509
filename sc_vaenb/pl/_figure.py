"""The figure of a plot: a new one or the user's, and whether it is shown or returned."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any, TypeVar

import matplotlib as mpl
import matplotlib.pyplot as plt
import scanpy as sc
from matplotlib.font_manager import FontProperties

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axes._secondary_axes import SecondaryAxis
    from matplotlib.figure import Figure, SubFigure


T = TypeVar("T")
FONT_SIZE = 10  # points; for it, all sizes in inches are made
LETTER_WIDTH = 0.58  # of the size of the font
PANEL_WIDTH = 2.5  # inches; two panels are as wide as a column of a paper (3.5 inches) with letters of 7 points


def get_figure(fig: Figure | SubFigure | None, size: tuple[float, float]) -> Figure | SubFigure:
    """The figure to draw into: the user's, or a new one of ``size`` inches, larger if the style's letters are."""
    if fig is None:
        scale = mpl.rcParams["font.size"] / FONT_SIZE
        return plt.figure(figsize=(scale * size[0], scale * size[1]), layout="constrained")
    root = fig.figure
    if root.get_layout_engine() is None:
        root.set_layout_engine("constrained")
    return fig


def n_letters_in(figure: Figure | SubFigure, share: float, fontsize: str = "medium") -> int:
    """The number of letters in a share of the width of a figure."""
    points = FontProperties(size=fontsize).get_size_in_points()
    return max(10, int(72 * share * figure.bbox.width / figure.figure.dpi / (LETTER_WIDTH * points)))


def set_title(figure: Figure | SubFigure, text: str, *, fontsize: str = "medium", **style: Any) -> None:
    """A title at the left, each line broken where the figure ends."""
    n_letters = n_letters_in(figure, 1, fontsize)
    lines = [part for line in text.split("\n") for part in textwrap.wrap(line, n_letters, break_on_hyphens=False)]
    figure.suptitle("\n".join(lines), x=0.01, ha="left", fontsize=fontsize, linespacing=1.4, **style)


def bare(ax: Axes | SecondaryAxis) -> None:
    """Hide the frame, ticks and grid of a table, which a style may turn on; the names at its sides stay."""
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.grid(False)


def show_or_return(axes: T, show: bool | None) -> T | None:
    """Show the current figure if ``show`` (by default: scanpy's setting) is True; else return the axes."""
    if sc.settings.autoshow if show is None else show:
        plt.show()
        return None
    return axes
