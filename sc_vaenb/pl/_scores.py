"""Plot scores as a table of methods against metrics, in which darker is better."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import matplotlib as mpl
import numpy as np
import pandas as pd

from .._checks import checked
from .._results import check_result
from ._colors import BLUE, ORANGE, ink
from ._figure import bare, get_figure, show_or_return
from ._text import as_labels, two_decimals

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

MEANS = "total", "bio", "batch"
PARTS_OF = {"bio": "parts of bio", "batch": "parts of batch", "": "in no mean"}
GROUP_COLOURS = {"bio": BLUE, "batch": ORANGE}
CELL_WIDTH, ROW_HEIGHT, LETTER_WIDTH = 0.35, 0.33, 0.075  # inches
METHOD_WIDTH, METRIC_HEIGHT = 0.5, 0.22  # inches, of a table with a row for each score
SLANTED: dict[str, Any] = {"rotation": 45, "ha": "left", "rotation_mode": "anchor", "fontsize": "small"}
MIN_SPAN = 0.3  # of the values of a column from the palest to the darkest colour: a difference of 0.01 looks small


@checked
def scores(
    adata: AnnData,
    key: str = "compare",
    *,
    metrics: Literal["main", "all"] = "main",
    swap_axes: bool = False,
    fig: Figure | SubFigure | None = None,
    show: bool | None = None,
) -> dict[str, Axes] | None:
    """Plot the scores of embeddings as a table: a row for each method, a column for each score.

    The columns are the means (total, bio, batch), the metrics that the means are of, and the time that the method took.
    In each column, darker is better, also where an arrow says that smaller is better. Colours fade from the best score
    of the column to the worst, or to 0.3 below the best if all are closer, so that a difference of 0.01 looks small.
    With several seeds, numbers are means over seeds, and those of total, bio and batch have the standard deviation
    below them.

    Parameters
    ----------
    adata
        Annotated data with the scores of :func:`sc_vaenb.tl.compare` or :func:`sc_vaenb.tl.score`.
    key
        Where they are in ``adata.uns``: the ``key_added`` of that call.
    metrics
        Which metrics: `main` are those that bio and batch are the means of, or all if there are none such.
    swap_axes
        Draw a row for each score and a column for each method. With all metrics, this suits a column of a paper.
    fig
        Figure or subfigure to draw into, laid out with constrained layout unless it has a layout engine already.
        A new figure by default.
    show
        Show the figure; by default as :attr:`scanpy.settings.autoshow` says.

    Returns
    -------
    The axes by part (``'table'``, and where there are means ``'means'``), or `None` if shown.

    Raises
    ------
    KeyError
        If there are no scores.
    ValueError
        If no score is a number.

    See Also
    --------
    sc_vaenb.tl.score : Computes the scores.
    sc_vaenb.pl.tradeoff : Biology against batch mixing.
    """
    values, properties, seconds = read_scores(adata, key)
    by_method = values.groupby("method", sort=False)
    mean, spread = by_method.mean(numeric_only=True), by_method.std(numeric_only=True)
    order = mean.sort_values("total", ascending=False).index if "total" in mean else mean.index
    mean, spread = mean.loc[order], spread.loc[order]
    means = [name for name in MEANS if name in mean and mean[name].notna().any()]
    group_of = {
        str(name): str(properties.loc[name, "kind"]) if properties.loc[name, "in_total"] else ""
        for name in properties.index
        if name in mean and mean[name].notna().any()
    }
    if not (means or group_of):
        raise ValueError(f"uns[{key!r}] holds no score that is a number: there is nothing to plot.")
    if metrics == "main" and any(group_of.values()):
        group_of = {name: group for name, group in group_of.items() if group}
    columns = sorted(group_of, key=lambda name: list(PARTS_OF).index(group_of[name]))
    n_scores = {"means": len(means), "table": len(columns)}
    axes = _tables(fig, {part: n for part, n in n_scores.items() if n}, as_labels(order), swap_axes)
    if means:
        _draw_table(axes["means"], mean[means], dict.fromkeys(means, True), spread[means], swap_axes=swap_axes)
    if columns:
        _draw_table(axes["table"], mean[columns], properties["higher_is_better"], swap_axes=swap_axes)
        _draw_groups(axes["table"], [group_of[name] for name in columns], swap_axes=swap_axes)
    times = [f"{seconds[method]:,.3g} s" if seconds.get(method, 0) > 0 else "" for method in order]
    _name_methods(axes, as_labels(order), times, swap_axes=swap_axes)
    return show_or_return(axes, show)


def _tables(
    fig: Figure | SubFigure | None, n_scores: dict[str, int], names: list[str], swap_axes: bool
) -> dict[str, Axes]:
    """Axes for a table of each part: side by side, or one below the other if the axes are swapped."""
    if swap_axes:
        ratios = [METRIC_HEIGHT * n for n in n_scores.values()]
        figure = get_figure(fig, (METHOD_WIDTH * len(names) + 2.8, sum(ratios) + 1.3))
        grid = figure.add_gridspec(len(ratios), 1, height_ratios=ratios)
    else:
        ratios = [CELL_WIDTH * n for n in n_scores.values()]
        width = sum(ratios) + LETTER_WIDTH * max(map(len, names)) + 1.2
        figure = get_figure(fig, (width, 1.7 + ROW_HEIGHT * len(names)))
        grid = figure.add_gridspec(1, len(ratios), width_ratios=ratios)
    text = f"darker is better in each {'row' if swap_axes else 'column'}"
    figure.supxlabel(text, x=0.01, ha="left", fontsize="x-small", color=ink(0.7))
    return {part: figure.add_subplot(grid[i]) for i, part in enumerate(n_scores)}


def _name_methods(axes: dict[str, Axes], names: list[str], times: list[str], *, swap_axes: bool) -> None:
    """Write the names of methods at the first table, and their times at the last one."""
    first, last = next(iter(axes.values())), [*axes.values()][-1]
    if swap_axes:
        first.set_xticks(range(len(names)), names, **SLANTED)
        first.xaxis.tick_top()
    else:
        first.set_yticks(range(len(names)), names, fontsize="small")
    if any(times):
        other = last.secondary_xaxis("bottom") if swap_axes else last.secondary_yaxis("right")
        ticks = other.set_xticks if swap_axes else other.set_yticks
        ticks(range(len(names)), times, fontsize="x-small" if swap_axes else "small", color=ink(0.7))
        bare(other)


def read_scores(adata: AnnData, key: str) -> tuple[pd.DataFrame, pd.DataFrame, pd.Series]:
    """The scores with the method of each row, the properties of the metrics, and the run time of each method."""
    record: Any = adata.uns.get(key)
    stored_scores = record.get("scores", record) if isinstance(record, dict) else {}
    if not (isinstance(stored_scores, dict) and isinstance(stored_scores.get("values"), pd.DataFrame)):
        msg = f"uns[{key!r}] holds no scores; uns has {list(adata.uns)}. Run sc_vaenb.tl.compare(adata, ...) first."
        raise KeyError(msg)
    if stored_scores is record:
        stored_scores = check_result(record, key, "scores")
    else:
        record = check_result(record, key, "compare", "methods")
        stored_scores = record["scores"]
    values, seconds = stored_scores["values"].copy(), pd.Series(dtype=float)
    values["method"] = values.index.str.removeprefix("X_")
    if "methods" in record:
        methods = record["methods"].set_index("embedding")
        values["method"] = methods["method"].reindex(values.index).astype(str)
        seconds = methods.groupby("method")["seconds"].mean()
    return values, stored_scores["metrics"], seconds


def _draw_table(
    ax: Axes,
    mean: pd.DataFrame,
    higher_is_better: Mapping[str, bool] | pd.Series,
    spread: pd.DataFrame | None = None,
    *,
    swap_axes: bool,
) -> None:
    """Draw a number for each method and score on a colour that is darker the better it is, and its spread below it."""
    signed = mean * [1 if higher_is_better[name] else -1 for name in mean]
    behind = signed.max() - signed
    goodness = (1 - behind / behind.max().clip(lower=MIN_SPAN)).to_numpy()
    colours = mpl.colormaps["Blues"](0.05 + 0.75 * np.nan_to_num(goodness))
    colours[np.isnan(goodness)] = (1, 1, 1, 1)
    ax.imshow(colours.swapaxes(0, 1) if swap_axes else colours, aspect="auto")
    ax.autoscale(False)  # what is drawn below the table does not stretch it
    for (row, column), number in np.ndenumerate(mean.to_numpy()):
        dark = np.dot(colours[row, column, :3], (0.299, 0.587, 0.114)) < 0.5
        style: dict[str, Any] = {"ha": "center", "color": "white" if dark else "black"}
        deviation = np.nan if spread is None else spread.iloc[row, column]
        has_spread = np.isfinite(deviation)
        text = "n/a" if np.isnan(number) else two_decimals(number)
        if swap_axes:
            text += f" ±{deviation:.2f}" if has_spread else ""
            ax.text(row, column, text, va="center", fontsize="xx-small" if has_spread else "small", **style)
            continue
        ax.text(column, row, text, va="baseline" if has_spread else "center", fontsize="small", **style)
        if has_spread:
            ax.text(column, row + 0.1, f"±{deviation:.2f}", va="top", fontsize="xx-small", **style)
    names = [str(name).replace("_", " ") + ("" if higher_is_better[name] else " ↓") for name in mean]
    ax.set(xticks=[], yticks=[])
    if swap_axes:
        ax.set_yticks(range(len(names)), names, fontsize="small")
    else:
        ax.set_xticks(range(len(names)), names, **SLANTED)
        ax.xaxis.tick_top()
    bare(ax)


def _draw_groups(ax: Axes, groups: list[str], *, swap_axes: bool) -> None:
    """Draw a line along the scores of each group, below or at the right, with what they are parts of."""
    if not any(groups):
        return
    edge = ax.get_xlim()[1] if swap_axes else ax.get_ylim()[0]
    for group, text in PARTS_OF.items():
        n = groups.count(group)
        if n:
            start = groups.index(group) - 0.5
            along, across = [start + 0.1, start + n - 0.1], [edge + 0.2] * 2
            line: dict[str, Any] = {"color": GROUP_COLOURS.get(group, ink(0.7)), "linewidth": 2, "clip_on": False}
            ax.plot(*((across, along) if swap_axes else (along, across)), **line)
            style: dict[str, Any] = {"fontsize": "small", "color": ink(0.7)}
            if swap_axes:
                ax.text(edge + 0.35, start + n / 2, text, va="center", **style)
            else:
                ax.text(start + n / 2, edge + 0.35, text, ha="center", va="top", **style)
