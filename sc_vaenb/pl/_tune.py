"""Plot a search over parameters: the criteria of each trial, and the score against each parameter."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from .._checks import checked
from .._results import check_result
from ._colors import BLUE, VERMILION, ink
from ._figure import get_figure, set_title, show_or_return
from ._text import as_labels, plain

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

RESULTS = ("trial", "score", "kept", "mixed", "log_likelihood", "seconds", "default", "chosen")
MIN_SPAN = 0.1  # of an axis of scores, so that small differences do not look large
PANELS_PER_ROW = 3  # panels of parameters in a row, beside the panel of the criteria


@checked
def tune(
    adata: AnnData, key: str = "tune", *, fig: Figure | SubFigure | None = None, show: bool | None = None
) -> dict[str, Axes] | None:
    """Plot a search over parameters: the criteria of its trials, and the score against each parameter.

    A dot is a trial, the square is the defaults, the diamond is the chosen trial (around the square if the defaults
    were chosen). If the best trial and the defaults were fitted again with other seeds, small crosses show these scores
    at the parameters of the trial: their spread is the difference by chance. Axes of scores span at least 0.1. If the
    dots of a parameter form no slope or step, it matters little here.

    Parameters
    ----------
    adata
        Annotated data with a search by :func:`sc_vaenb.tl.tune`.
    key
        Where it is in ``adata.uns``: the ``key_added`` of that call.
    fig
        Figure or subfigure to draw into, laid out with constrained layout unless it has a layout engine already.
        A new figure by default.
    show
        Show the figure; by default as :attr:`scanpy.settings.autoshow` says.

    Returns
    -------
    The axes by part (``'criteria'``, and each parameter searched by its name), or `None` if shown.

    Raises
    ------
    KeyError
        If there is no search.

    See Also
    --------
    sc_vaenb.tl.tune : Computes the search.
    """
    table, seeds, verdict = _read(adata, key)
    names = [str(name) for name in table if name not in RESULTS and table[name].nunique() > 1]
    n_rows = max(1, -(-len(names) // PANELS_PER_ROW))
    n_columns = min(len(names), PANELS_PER_ROW)
    figure = get_figure(fig, (3.6 + 2.3 * n_columns, 0.7 + max(3.2, 2.5 * n_rows)))
    grid = figure.add_gridspec(n_rows, 1 + n_columns, width_ratios=[1.6] + [1] * n_columns)
    axes = {"criteria": figure.add_subplot(grid[:, 0])}
    _criteria(axes["criteria"], table)
    for i, name in enumerate(names):
        ax = axes[name] = figure.add_subplot(grid[i // PANELS_PER_ROW, 1 + i % PANELS_PER_ROW])
        _parameter(ax, name, table, seeds)
        ax.set_ylabel("score" if i % PANELS_PER_ROW == 0 else "")
    for ax in axes.values():
        ax.spines[["top", "right"]].set_visible(False)
    labelled = [pair for ax in axes.values() for pair in zip(*ax.get_legend_handles_labels(), strict=True)]
    handles = {label: handle for handle, label in labelled}
    figure.legend(handles.values(), handles.keys(), loc="outside lower left", ncols=4, frameon=False)
    set_title(figure, plain(verdict.splitlines()[-1]))
    return show_or_return(axes, show)


def _read(adata: AnnData, key: str) -> tuple[pd.DataFrame, pd.DataFrame, str]:
    record: Any = adata.uns.get(key)
    if not (isinstance(record, dict) and isinstance(record.get("trials"), pd.DataFrame)):
        msg = f"uns[{key!r}] holds no search; uns has {list(adata.uns)}. Run sc_vaenb.tl.tune(adata, ...) first."
        raise KeyError(msg)
    search = check_result(record, key, "tune", "seeds", "verdict")
    return search["trials"][search["trials"]["score"].notna()], search["seeds"], search["verdict"]


def _draw_trials(ax: Axes, x: Any, y: Any, table: pd.DataFrame) -> None:
    styles: list[tuple[Any, dict[str, Any]]] = [
        (
            np.ones(len(table), bool),
            {"marker": "o", "markersize": 5, "color": ink(0.7), "alpha": 0.6, "label": "trial"},
        ),
        (table["default"], {"marker": "s", "markersize": 7, "color": BLUE, "label": "defaults"}),
        (table["chosen"], {"marker": "D", "markersize": 12, "color": VERMILION, "label": "chosen"}),
    ]
    for is_marked, style in styles:
        hollow_style: dict[str, Any] = (
            {"markerfacecolor": "none", "markeredgewidth": 1.8} if style["label"] == "chosen" else {}
        )
        marked = np.asarray(is_marked, bool)
        ax.plot(np.asarray(x)[marked], np.asarray(y)[marked], linestyle="none", clip_on=False, **style, **hollow_style)


def _criteria(ax: Axes, table: pd.DataFrame) -> None:
    x, name = (table["mixed"], "mixed (iLISI of batches)") if "mixed" in table else (table["trial"], "trial")
    _draw_trials(ax, x, table["kept"], table)
    ax.set(xlabel=name, ylabel="kept (clusters of each batch)" if "mixed" in table else "kept (clusters of PCA)")
    _ensure_min_span(ax, "y")
    if "mixed" not in table:
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        return
    _ensure_min_span(ax, "x")
    ax.set_title("grey lines: equal score", loc="left", fontsize="small", color=ink(0.7))
    (left, right), (low, high) = ax.get_xlim(), ax.get_ylim()
    for score in np.arange(np.ceil((0.4 * left + 0.6 * low) / 0.02), (0.4 * right + 0.6 * high) / 0.02) * 0.02:
        ends = np.array([left, right])
        ax.plot(ends, (score - 0.4 * ends) / 0.6, color=ink(0.15), linewidth=0.7, zorder=0.5)
    ax.set(xlim=(left, right), ylim=(low, high))


def _parameter(ax: Axes, name: str, table: pd.DataFrame, seeds: pd.DataFrame) -> None:
    values = table[name]
    if pd.api.types.is_numeric_dtype(values):
        positions = values.astype(float)
        if values.nunique() <= 5:
            ticks = sorted(values.unique())
            ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        elif values.min() > 0 and values.max() / values.min() >= 3:
            ax.set_xscale("log")
            ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            ax.xaxis.set_major_formatter("{x:g}")
            ax.xaxis.set_minor_locator(NullLocator())
        else:
            ax.xaxis.set_major_locator(MaxNLocator(4))
    else:
        levels = sorted(values.astype(str).unique(), key=lambda text: (text.count(","), len(text), text))
        positions = values.astype(str).map({level: i for i, level in enumerate(levels)}).astype(float)
        ax.set_xticks(
            range(len(levels)), as_labels(levels), rotation=20 if max(map(len, levels)) > 6 else 0, fontsize="small"
        )
        ax.set_xlim(-0.5, len(levels) - 0.5)
    _draw_trials(ax, positions, table["score"], table)
    position_of = dict(zip(table["trial"], positions, strict=True))
    if len(seeds):
        style: dict[str, Any] = {"marker": "x", "markersize": 4, "color": ink(0.7), "linestyle": "none", "zorder": 1}
        ax.plot(seeds["trial"].map(position_of), seeds["score"], label="other seeds", **style)
    ax.margins(x=0.12)  # room for the diamond at the ends
    ax.set_title(name, loc="left", fontsize="medium")
    _ensure_min_span(ax, "y")


def _ensure_min_span(ax: Axes, axis: str) -> None:
    """Widen an axis of scores to its minimal span."""
    low, high = getattr(ax, f"get_{axis}lim")()
    if high - low < MIN_SPAN:
        middle = (low + high) / 2
        getattr(ax, f"set_{axis}lim")(middle - MIN_SPAN / 2, middle + MIN_SPAN / 2)
