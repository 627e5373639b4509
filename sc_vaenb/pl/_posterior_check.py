"""Plot data against cells drawn from the model, and the likelihoods of held-out cells."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .._checks import checked
from .._results import check_result
from ._colors import BLUE, GREEN, ORANGE, PINK, SKY, VERMILION, ink
from ._figure import PANEL_WIDTH, get_figure, set_title, show_or_return
from ._text import plain

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

PANELS = "variance", "zeros", "depth", "detected", "correlation", "coverage"  # then the likelihoods and the PIT
PANEL_HEIGHT, TITLE_HEIGHT = 2.5, 1.5  # inches
MAX_POINTS = 5_000  # in a panel: more points would only darken it
MAX_LINEAR_RATIO = 20  # of the largest to the smallest depth; above it the axes are logarithmic
COUNT_STATISTICS = "count", "count_expressed"
STATISTICS = {  # name in the legend, colour (that of text if empty), marker
    "mean": ("gene means", BLUE, "o"),
    "variance": ("gene variances", SKY, "s"),
    "zeros": ("gene zeros", GREEN, "^"),
    "depth": ("cell depth", VERMILION, "v"),
    "detected": ("detected genes", ORANGE, "D"),
    "correlation": ("gene correlations", PINK, "P"),
    "count": ("all counts", "#999999", "X"),
    "count_expressed": ("counts expected ≥ 1", "", "o"),
}


@checked
def posterior_check(
    adata: AnnData,
    key: str = "posterior_check",
    *,
    ncols: int = 3,
    fig: Figure | SubFigure | None = None,
    show: bool | None = None,
) -> dict[str, Axes] | None:
    """Plot what :func:`sc_vaenb.tl.posterior_check` found: data against replicates, coverage, and likelihoods.

    Variance and share of zeros of every gene against its mean, of data (grey) and of replicates (orange, means
    over them), with the Poisson curve; depth, detected genes and correlations of data against the mean over
    replicates, where points scatter along the diagonal, by chance of the data alone, if all is as the model says; the
    coverage of intervals against the nominal one, where a curve below the diagonal speaks against the model; the
    histogram of the PIT (probability integral transform) of single counts, which is the rank of a count among its
    replicates, where flat is calibrated, a hill is a model wider than the data and a valley one that is narrower;
    and the difference of the likelihoods to NB on held-out cells with two standard errors to each side, where they
    were compared (linear around zero, then logarithmic).

    Parameters
    ----------
    adata
        Annotated data with a check by :func:`sc_vaenb.tl.posterior_check`.
    key
        Where it is in ``adata.uns``: the ``key_added`` of that call.
    ncols
        How many panels are side by side; more go on below. 2 suit a column of a paper.
    fig
        Figure or subfigure to draw into, laid out with constrained layout unless it has a layout engine already.
        A new figure by default.
    show
        Show the figure; by default as :attr:`scanpy.settings.autoshow` says.

    Returns
    -------
    The axes by panel (``'variance'``, ``'zeros'``, ``'depth'``, ``'detected'``, ``'correlation'``, ``'coverage'``,
    ``'pit'``, and ``'likelihoods'`` where there are any), or `None` if shown.

    Raises
    ------
    KeyError
        If there is no check.

    See Also
    --------
    sc_vaenb.tl.posterior_check : Computes what is shown.
    """
    record: Any = adata.uns.get(key)
    if not (isinstance(record, dict) and "coverage" in record and "verdict" in record):
        msg = f"uns[{key!r}] holds no posterior check. Run sc_vaenb.tl.posterior_check(adata) first."
        raise KeyError(msg)
    record = check_result(record, key, "posterior_check", "genes", "cells", "correlations", "pit")
    has_likelihoods = "likelihoods" in record
    panels = [*PANELS, *(["likelihoods"] if has_likelihoods else []), "pit"]
    ncols = min(ncols, len(panels))
    panels += ["pit"] * (-len(panels) % ncols)  # as wide as there is room
    rows = [panels[first : first + ncols] for first in range(0, len(panels), ncols)]
    figure = get_figure(fig, (ncols * PANEL_WIDTH, len(rows) * PANEL_HEIGHT + TITLE_HEIGHT))
    axes: dict[str, Axes] = figure.subplot_mosaic(rows)  # type: ignore[arg-type]
    _draw_genes(axes["variance"], axes["zeros"], record["genes"])
    for name, title in {"depth": "Depth of cells", "detected": "Detected genes of cells"}.items():
        _draw_against_data(axes[name], record["cells"], name, title)
    _draw_against_data(axes["correlation"], record["correlations"], "correlation", "Correlation of genes")
    _coverage(axes["coverage"], record["coverage"])
    _pit(axes["pit"], record["pit"])
    if has_likelihoods:
        _likelihoods(axes["likelihoods"], record["likelihoods"])
    for ax in axes.values():
        ax.spines[["top", "right"]].set_visible(False)
    set_title(figure, plain(record["verdict"]), fontsize="small")
    return show_or_return(axes, show)


def _thin_out(table: pd.DataFrame) -> pd.DataFrame:
    """At most `MAX_POINTS` or so rows, evenly spaced in the table."""
    return table.iloc[:: max(1, len(table) // MAX_POINTS)]


def _draw_genes(variance: Axes, zeros: Axes, genes: pd.DataFrame) -> None:
    genes = _thin_out(genes)
    series = (("data", "", ink(0.7)), ("replicates", "_replicates", ORANGE))
    for ax, name in ((variance, "variance"), (zeros, "zeros")):
        for label, suffix, colour in series:
            mean, values = genes[f"mean{suffix}"], genes[f"{name}{suffix}"]
            is_drawn = (mean > 0) & ((values > 0) | (name == "zeros"))
            ax.plot(
                mean[is_drawn],
                values[is_drawn],
                ".",
                markersize=3,
                alpha=0.6,
                color=colour,
                label=label,
                rasterized=True,
            )
        ax.set_xscale("log")
        ax.set_xlabel("mean")
        low, high = ax.get_xlim()
        curve_mean = np.geomspace(low, high, 200)
        poisson = curve_mean if name == "variance" else np.exp(-curve_mean)
        ax.plot(curve_mean, poisson, color=ink(), linewidth=1, linestyle="--", label="Poisson")
        ax.set_xlim(low, high)
        ax.set_title("Variance of genes" if name == "variance" else "Zeros of genes", loc="left", fontsize="medium")
    variance.set(yscale="log", ylabel="variance")
    zeros.set(ylim=(-0.02, 1.02), ylabel="cells without a count")
    zeros.legend(frameon=False, fontsize="small", markerscale=3)


def _draw_against_data(ax: Axes, table: pd.DataFrame, name: str, title: str) -> None:
    table = _thin_out(table)
    data, replicates = table[name], table[f"{name}_replicates"]
    ax.plot(data, replicates, ".", markersize=3, alpha=0.6, color=ORANGE, rasterized=True)
    low, high = min(data.min(), replicates.min()), max(data.max(), replicates.max())
    ax.plot([low, high], [low, high], **_diagonal())
    if name == "depth" and low > 0 and high > MAX_LINEAR_RATIO * low:
        ax.set(xscale="log", yscale="log")
    ax.set(xlabel="data", ylabel="mean of the replicates")
    ax.set_title(title, loc="left", fontsize="medium")


def _diagonal() -> dict[str, Any]:
    return {"color": ink(), "linewidth": 1, "linestyle": "--", "zorder": 0.5}


def _coverage(ax: Axes, coverage: pd.DataFrame) -> None:
    columns = [name for name in coverage if str(name).endswith("%")]
    nominal = [float(str(name).rstrip("%")) / 100 for name in columns]
    ax.axline((0, 0), (1, 1), **_diagonal())
    for name, row in coverage.iterrows():
        label, colour, marker = STATISTICS[str(name)]
        ax.plot(nominal, row[columns], marker=marker, markersize=4, linewidth=1.2, color=colour or ink(), label=label)
    ax.set(xlim=(0.45, 1), ylim=(0, 1.02), xlabel="replicates within", ylabel="data within")
    ax.set_title("Coverage of intervals", loc="left", fontsize="medium")
    ax.legend(frameon=False, fontsize="x-small", loc="lower right", handlelength=0.7, labelspacing=0.1, borderaxespad=0)


def _pit(ax: Axes, pit: pd.DataFrame) -> None:
    edges = np.append(pit.index.to_numpy(dtype=float), 1.0)
    ax.axhline(1, **_diagonal())
    for name in COUNT_STATISTICS:
        label, colour, _ = STATISTICS[name]
        ax.stairs(pit[name] * len(pit), edges, color=colour or ink(), linewidth=1.4, label=label)
    ax.set(xlim=(0, 1), xlabel="replicates below the count", ylabel="density of counts")
    ax.set_ylim(bottom=0)
    ax.set_title("Rank of counts (PIT)", loc="left", fontsize="medium")
    meaning = "flat: as the model says\nhill: model too wide\nvalley: model too narrow"
    ax.legend(
        title=meaning, alignment="left", frameon=False, fontsize="small", title_fontsize="small", loc="lower left"
    )


def _likelihoods(ax: Axes, table: pd.DataFrame) -> None:
    others = table.drop("nb")
    difference, error = others["difference"].to_numpy(float), others["difference_se"].to_numpy(float)
    ax.axvline(0, **_diagonal())
    rows = np.arange(len(others))
    ax.errorbar(difference, rows, xerr=2 * error, fmt="o", color=BLUE, capsize=3)
    for row, value, se in zip(rows, difference, error, strict=True):
        ax.annotate(
            f"{value:+.2f} ± {se:.2f}", (value, row), xytext=(0, 9), textcoords="offset points",
            ha="left" if value < 0 else "right", fontsize="small", bbox={"facecolor": ink(0), "linewidth": 0, "pad": 1},
        )  # fmt: skip
    linear_range = max(1.0, float(2 * error.min()))
    x_limit = 3 * max(linear_range, float((np.abs(difference) + 2 * error).max()))
    ax.set_xscale("symlog", linthresh=linear_range)
    ax.set(xlim=(-x_limit, x_limit), ylim=(len(others) - 0.5, -0.7), yticks=rows, xlabel="nats per cell, + is better")
    ax.set_yticklabels(str(name) for name in others.index)
    power = 10 ** np.floor(np.log10(x_limit))
    ax.set_xticks([-power, 0, power], [f"{-power:,.0f}", "0", f"+{power:,.0f}"])
    ax.xaxis.minorticks_off()
    title = f"Likelihood against nb's {table.loc['nb', 'log_likelihood']:,.1f}"
    ax.set_title(title, loc="left", fontsize="medium")
