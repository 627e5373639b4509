"""Plot scores as a table of methods against metrics, with the means as bars on an axis that begins at 0."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
import pandas as pd

from .._checks import checked
from .._results import check_result
from ._colors import BLUE, ORANGE, PLAIN
from ._figure import get_figure, show_or_return
from ._text import as_labels

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

KINDS = {"bio": BLUE, "batch": ORANGE, "total": PLAIN}
CELL_WIDTH, ROW_HEIGHT = 0.62, 0.36  # inches


@checked
def scores(
    adata: AnnData, key: str = "compare", *, fig: Figure | SubFigure | None = None, show: bool | None = None
) -> dict[str, Axes] | None:
    """Plot the scores of embeddings: a table of methods against metrics, their means as bars, and the time they took.

    All colours are on one scale from 0 to 1, and bars begin at 0, so that a difference of 0.01 looks small. With
    several seeds, numbers and bars are means over seeds, and each seed has a point. In columns with an arrow down,
    smaller is better. Metrics in colour are part of a mean, `bio` or `batch`; those in grey are part of no mean, or
    only of scIB's.

    Parameters
    ----------
    adata
        Annotated data with the scores of :func:`sc_vaenb.tl.compare` or :func:`sc_vaenb.tl.score`.
    key
        Where they are in ``adata.uns``: the ``key_added`` of that call.
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

    See Also
    --------
    sc_vaenb.tl.score : Computes the scores.
    sc_vaenb.pl.tradeoff : Biology against batch mixing.
    """
    values, metrics, seconds = read_scores(adata, key)
    mean = values.groupby("method", sort=False).mean(numeric_only=True)
    columns = [name for name in metrics.index if name in mean and mean[name].notna().any()]
    means = [name for name in KINDS if name in mean]
    order = mean.sort_values("total", ascending=False).index if "total" in mean else mean.index
    width = 1.6 + CELL_WIDTH * len(columns) + (2.6 if means else 0)
    figure = get_figure(fig, (width, 1.5 + ROW_HEIGHT * len(order)))
    ratios = [CELL_WIDTH * len(columns), 2.6][: 2 if means else 1]
    grid = figure.add_gridspec(1, len(ratios), width_ratios=ratios)
    axes = {"table": _table(figure.add_subplot(grid[0]), mean.loc[order, columns], metrics)}
    if means:
        axes["means"] = _bars(figure.add_subplot(grid[1]), values, mean.loc[order, means], seconds)
    return show_or_return(axes, show)


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


def _table(ax: Axes, mean: pd.DataFrame, metrics: pd.DataFrame) -> Axes:
    numbers = mean.to_numpy()
    colours = mpl.colormaps["Blues"](0.05 + 0.75 * np.clip(np.nan_to_num(numbers), 0, 1))
    colours[np.isnan(numbers)] = (1, 1, 1, 1)
    ax.imshow(colours, aspect="auto")
    for (row, column), number in np.ndenumerate(numbers):
        dark = np.dot(colours[row, column, :3], (0.299, 0.587, 0.114)) < 0.5
        text = "n/a" if np.isnan(number) else f"{number:.2f}"
        ax.text(column, row, text, ha="center", va="center", fontsize=8, color="white" if dark else "black")
    names = [name.replace("_", " ") + ("" if metrics.loc[name, "higher_is_better"] else " ↓") for name in mean]
    ax.set_xticks(range(len(names)), names, rotation=45, ha="left", rotation_mode="anchor", fontsize=8)
    ax.xaxis.tick_top()
    for tick, name in zip(ax.get_xticklabels(), mean, strict=True):
        counts = metrics.loc[name, "in_total"]
        tick.set_color(KINDS[str(metrics.loc[name, "kind"])] if counts else "0.4")
    ax.set_yticks(range(len(mean)), as_labels(mean.index))
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return ax


def _bars(ax: Axes, values: pd.DataFrame, mean: pd.DataFrame, seconds: pd.Series) -> Axes:
    height = 0.8 / mean.shape[1]
    for i, name in enumerate(mean):
        positions = np.arange(len(mean)) - 0.4 + height * (i + 0.5)
        ax.barh(positions, mean[name], height, color=KINDS[str(name)], label=name)
        for y, method in zip(positions, mean.index, strict=True):
            seeds = values.loc[values["method"] == method, name]
            if len(seeds) > 1:
                ax.plot(seeds, [y] * len(seeds), "o", color="black", markersize=2.5)
            ax.text(mean.loc[method, name] + 0.02, y, f"{mean.loc[method, name]:.3f}", va="center", fontsize=6.5)
    ax.set(xlim=(0, 1.12), ylim=(len(mean) - 0.5, -0.5), xticks=np.linspace(0, 1, 6), xlabel="score")
    ax.set_yticks([])
    if len(seconds):
        ax.set_yticks(
            range(len(mean)),
            [f"{seconds[m]:.1f} s" if seconds.get(m, np.nan) > 0 else "" for m in mean.index],
            fontsize=8,
        )
        ax.yaxis.tick_right()
        ax.tick_params(axis="y", length=0)
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=mean.shape[1], frameon=False, fontsize=8)
    return ax
