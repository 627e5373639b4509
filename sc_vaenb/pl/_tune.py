"""A search over parameters: what each trial kept and mixed, and what each parameter has to do with the score."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from .._checks import checked
from .._results import check_result
from ._figure import OTHER, TRAIN, VALIDATION, get_figure, show_or_return
from ._text import as_labels, plain

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

RESULTS = ("trial", "score", "kept", "mixed", "log_likelihood", "seconds", "default", "chosen")
LEAST_SPAN = 0.1  # of an axis of scores: no difference looks larger than it is by much
PER_ROW = 3  # panels of parameters beside that of the criteria


@checked
def tune(
    adata: AnnData, key: str = "tune", *, fig: Figure | SubFigure | None = None, show: bool | None = None
) -> dict[str, Axes] | None:
    """Plot a search over parameters: the criteria of its trials, and the score against each parameter.

    A dot is a trial, the square the defaults, the diamond the trial that was chosen (around the square where the
    defaults are kept). Where the best trial and the defaults were fitted again with other seeds, small crosses show
    these scores at the parameters of the trial: by so much a score differs by chance alone. Axes of scores span
    0.1 at least. A parameter whose dots form no slope or step matters little here.

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
    """
    table, seeds, verdict = _read(adata, key)
    names = [str(name) for name in table if name not in RESULTS and table[name].nunique() > 1]
    n_rows = max(1, -(-len(names) // PER_ROW))
    n_columns = min(len(names), PER_ROW)
    figure = get_figure(fig, (3.6 + 2.3 * n_columns, 0.7 + max(3.2, 2.5 * n_rows)))
    grid = figure.add_gridspec(n_rows, 1 + n_columns, width_ratios=[1.6] + [1] * n_columns)
    axes = {"criteria": figure.add_subplot(grid[:, 0])}
    _criteria(axes["criteria"], table)
    for at, name in enumerate(names):
        ax = axes[name] = figure.add_subplot(grid[at // PER_ROW, 1 + at % PER_ROW])
        _parameter(ax, name, table, seeds)
        ax.set_ylabel("score" if at % PER_ROW == 0 else "")
    for ax in axes.values():
        ax.spines[["top", "right"]].set_visible(False)
    figure.legend(*axes["criteria"].get_legend_handles_labels(), loc="outside lower left", ncols=3, frameon=False)
    figure.suptitle(plain(verdict.splitlines()[-1]), x=0.01, ha="left", fontsize="medium")
    return show_or_return(axes, show)


def _read(adata: AnnData, key: str) -> tuple[pd.DataFrame, pd.DataFrame, str]:
    record: Any = adata.uns.get(key)
    if not (isinstance(record, dict) and isinstance(record.get("trials"), pd.DataFrame)):
        msg = f"uns[{key!r}] holds no search; uns has {list(adata.uns)}. Run sc_vaenb.tl.tune(adata, ...) first."
        raise KeyError(msg)
    found = check_result(record, key, "tune", "seeds", "verdict")
    return found["trials"][found["trials"]["score"].notna()], found["seeds"], found["verdict"]


def _marks(ax: Axes, x: Any, y: Any, table: pd.DataFrame) -> None:
    styles: list[tuple[Any, dict[str, Any]]] = [
        (np.ones(len(table), bool), {"marker": "o", "markersize": 5, "color": OTHER, "alpha": 0.6, "label": "trial"}),
        (table["default"], {"marker": "s", "markersize": 7, "color": TRAIN, "label": "defaults"}),
        (table["chosen"], {"marker": "D", "markersize": 12, "color": VALIDATION, "label": "chosen"}),
    ]
    for chosen, style in styles:
        hollow: dict[str, Any] = (
            {"markerfacecolor": "none", "markeredgewidth": 1.8} if style["label"] == "chosen" else {}
        )
        at = np.asarray(chosen, bool)
        ax.plot(np.asarray(x)[at], np.asarray(y)[at], linestyle="none", clip_on=False, **style, **hollow)


def _criteria(ax: Axes, table: pd.DataFrame) -> None:
    x, name = (table["mixed"], "mixed (iLISI of batches)") if "mixed" in table else (table["trial"], "trial")
    _marks(ax, x, table["kept"], table)
    ax.set(xlabel=name, ylabel="kept (clusters of each batch)" if "mixed" in table else "kept (clusters of PCA)")
    _widen(ax, "y")
    if "mixed" not in table:
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        return
    _widen(ax, "x")
    ax.set_title("grey lines: equal score", loc="left", fontsize="small", color=OTHER)
    (left, right), (low, high) = ax.get_xlim(), ax.get_ylim()
    for score in np.arange(np.ceil((0.4 * left + 0.6 * low) / 0.02), (0.4 * right + 0.6 * high) / 0.02) * 0.02:
        ends = np.array([left, right])
        ax.plot(ends, (score - 0.4 * ends) / 0.6, color="0.85", linewidth=0.7, zorder=0.5)
    ax.set(xlim=(left, right), ylim=(low, high))


def _parameter(ax: Axes, name: str, table: pd.DataFrame, seeds: pd.DataFrame) -> None:
    values = table[name]
    if pd.api.types.is_numeric_dtype(values):
        place = values.astype(float)
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
        place = values.astype(str).map({level: at for at, level in enumerate(levels)}).astype(float)
        ax.set_xticks(
            range(len(levels)), as_labels(levels), rotation=20 if max(map(len, levels)) > 6 else 0, fontsize="small"
        )
        ax.set_xlim(-0.5, len(levels) - 0.5)
    _marks(ax, place, table["score"], table)
    of_trial = dict(zip(table["trial"], place, strict=True))
    if len(seeds):
        ax.plot(
            seeds["trial"].map(of_trial), seeds["score"], "x", color=OTHER, markersize=4, linestyle="none", zorder=1
        )
    ax.set_title(name, loc="left", fontsize="medium")
    _widen(ax, "y")


def _widen(ax: Axes, axis: str) -> None:
    """Give an axis of scores its least span."""
    low, high = getattr(ax, f"get_{axis}lim")()
    if high - low < LEAST_SPAN:
        middle = (low + high) / 2
        getattr(ax, f"set_{axis}lim")(middle - LEAST_SPAN / 2, middle + LEAST_SPAN / 2)
