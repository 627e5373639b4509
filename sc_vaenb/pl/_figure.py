"""The figure of a plot: a new one or the user's, and whether it is shown or returned."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import matplotlib.pyplot as plt
import scanpy as sc

if TYPE_CHECKING:
    from matplotlib.figure import Figure, SubFigure


T = TypeVar("T")


def get_figure(fig: Figure | SubFigure | None, size: tuple[float, float]) -> Figure | SubFigure:
    """The figure to draw into: the user's, or a new one of ``size`` inches."""
    if fig is None:
        return plt.figure(figsize=size, layout="constrained")
    root = fig.figure
    if root.get_layout_engine() is None:
        root.set_layout_engine("constrained")
    return fig


def show_or_return(axes: T, show: bool | None) -> T | None:
    """Show the current figure if ``show`` (by default: scanpy's setting) is True; else return the axes."""
    if sc.settings.autoshow if show is None else show:
        plt.show()
        return None
    return axes
