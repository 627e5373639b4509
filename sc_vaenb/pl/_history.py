"""Plot the history of a fit: its losses, schedules and verdict."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from .._checks import checked
from .._record import read_history
from ._colors import BLUE, ORANGE, ink
from ._figure import PANEL_WIDTH, get_figure, set_title, show_or_return
from ._text import as_label, plain

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure
    from numpy.typing import NDArray

PANELS = "loss", "reconstruction", "kl", "learning_rate", "active_units", "kl_per_dim"
LOSSES = PANELS[:3]
PANEL_HEIGHT, MARGINS = 2.1, 1.0  # inches: of a panel, and of the title and the legend


@checked
def history(
    adata: AnnData,
    key: str = "vae",
    *,
    ncols: int = 3,
    fig: Figure | SubFigure | None = None,
    show: bool | None = None,
) -> dict[str, Axes] | None:
    """Plot how a fit went, step by step, with its verdict as the title.

    Six panels over the optimiser's steps (epochs on top): loss, reconstruction error and KL divergence of the
    training and validation cells in nats per cell, with the weight β of the KL on an axis of its own
    (loss = reconstruction + β · KL); the learning rate; the number of active latent units; and the KL divergence of
    each latent dimension. A dashed line marks the step whose weights the model has (`kept_step` of the verdict). The
    first steps of a fit can lie far above all others: the y axes then follow what comes after the first fifth of the
    steps, and a note in the panel says how far the curve reaches.

    Parameters
    ----------
    adata
        Annotated data with a fit by :func:`sc_vaenb.tl.vae` or :func:`sc_vaenb.tl.cvae`.
    key
        Where the fit is recorded in ``adata.uns``: the ``key_added`` of the call that made it.
    ncols
        How many panels are side by side; more go on below. 2 suit a column of a paper.
    fig
        Figure or subfigure to draw into, laid out with constrained layout unless it has a layout engine already.
        A new figure by default.
    show
        Show the figure; by default as :attr:`scanpy.settings.autoshow` says.

    Returns
    -------
    The axes by panel (``'loss'``, ``'reconstruction'``, ``'kl'``, ``'learning_rate'``, ``'active_units'``,
    ``'kl_per_dim'``), or `None` if shown.

    Raises
    ------
    KeyError
        If ``adata.uns[key]`` is no fit by sc_vaenb.
    ValueError
        If the fit ended before its first evaluation.

    See Also
    --------
    sc_vaenb.tl.vae : Writes the history.
    sc_vaenb.tl.cvae : Writes the history.
    """
    curves, verdict = _record(adata, key)

    rows = [list(PANELS[first : first + ncols]) for first in range(0, len(PANELS), ncols)]
    ncols = len(rows[0])
    rows[-1] += ["."] * (ncols - len(rows[-1]))
    figure = get_figure(fig, (ncols * PANEL_WIDTH, len(rows) * PANEL_HEIGHT + MARGINS))
    axes: dict[str, Axes] = figure.subplot_mosaic(rows, sharex=True)  # type: ignore[arg-type]
    for name, title in {"loss": "Loss", "reconstruction": "Reconstruction", "kl": "KL divergence"}.items():
        _losses(axes[name], curves, name, title)
    _beta(axes["kl"], curves)
    _learning_rate(axes["learning_rate"], curves)
    _active_units(axes["active_units"], curves)
    _kl_per_dim(axes["kl_per_dim"], curves)
    _mark_kept(axes, verdict["kept_step"])
    lowest = [next(name for name in reversed(column) if name != ".") for column in zip(*rows, strict=True)]
    _label_steps(axes, curves, highest=rows[0], lowest=lowest)
    figure.legend(*axes["loss"].get_legend_handles_labels(), loc="outside lower left", ncols=3, frameon=False)
    set_title(figure, _title(key, curves, verdict))
    return show_or_return(axes, show)


def _record(adata: AnnData, key: str) -> tuple[dict[str, NDArray[Any]], Mapping[str, Any]]:
    """The curves, in the order of their steps, and the verdict of the fit in ``adata.uns[key]``."""
    history, verdict = read_history(adata, key)
    curves = {name: np.asarray(values) for name, values in history.items()}
    if not len(curves["step"]):
        raise ValueError(f"the fit in uns[{key!r}] ended before its first evaluation: there is nothing to plot.")
    return curves, verdict


def _losses(ax: Axes, curves: dict[str, NDArray[Any]], name: str, title: str) -> None:
    """Draw the training curve and, if there is one, the validation curve; the y axis is scaled to late steps."""
    step = curves["step"]
    curve_of = {split: curves.get(f"{split}_{name}", np.full(len(step), np.nan)) for split in ("train", "validation")}
    for (split, values), colour in zip(curve_of.items(), (BLUE, ORANGE), strict=True):
        if (finite := np.isfinite(values)).any():
            ax.plot(step[finite], values[finite], color=colour, label=split, **_style(values[finite]))
    ax.set_title(title, loc="left", fontsize="medium")
    ax.set_ylabel("nats per cell")

    _scale_to_late_steps(ax, step, np.stack(list(curve_of.values()), axis=1))


def _scale_to_late_steps(ax: Axes, step: NDArray[Any], values: NDArray[Any]) -> None:
    """If the first fifth of the steps more than doubles the range of y, limit y to the other steps, and note it."""
    late_values, finite = values[step >= 0.2 * step[-1]], values[np.isfinite(values)]
    if not np.isfinite(late_values).any():
        return
    low, late_max, overall_max = finite.min(), late_values[np.isfinite(late_values)].max(), finite.max()
    margin = 0.05 * (late_max - low) or 0.01 * abs(late_max) or 1.0
    if overall_max > late_max + max(late_max - low, 4 * margin):
        ax.set_ylim(low - margin, late_max + 4 * margin)
        note = f"first steps off scale,\nup to {overall_max:,.4g}"
        ax.text(0.98, 1, note, transform=ax.transAxes, ha="right", va="top", fontsize="x-small", color=ink(0.7))


def _beta(ax: Axes, curves: dict[str, NDArray[Any]]) -> None:
    beta = curves["beta"]
    twin = ax.twinx()
    twin.plot(curves["step"], beta, color=ink(0.7), linestyle=":", label="β", **_style(beta))
    twin.set_ylim(0, 1.05 * max(1.0, float(np.max(beta))))
    twin.set_ylabel("β (dotted)", color=ink(0.7))
    twin.tick_params(axis="y", colors=ink(0.7))
    twin.spines["top"].set_visible(False)


def _learning_rate(ax: Axes, curves: dict[str, NDArray[Any]]) -> None:
    rate = curves["learning_rate"]
    ax.plot(curves["step"], rate, color=ink(0.7), **_style(rate))
    ax.set_title("Learning rate", loc="left", fontsize="medium")
    ax.set_ylim(bottom=0)
    ax.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))


def _active_units(ax: Axes, curves: dict[str, NDArray[Any]]) -> None:
    n_latent = curves["kl_per_dim"].shape[1]
    ax.plot(curves["step"], curves["active_units"], color=ink(0.7), drawstyle="steps-post", **_style(curves["step"]))
    ax.axhline(n_latent, color=ink(0.7), linewidth=0.8, linestyle="-.")
    ax.set_title(f"Active units (of {n_latent})", loc="left", fontsize="medium")
    ax.set_ylim(0, 1.08 * n_latent)
    ax.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10], integer=True))


def _kl_per_dim(ax: Axes, curves: dict[str, NDArray[Any]]) -> None:
    """Draw a line for each latent dimension; a stronger line has a higher KL divergence at the end."""
    kl = curves["kl_per_dim"]
    ax.set_title("KL per dimension", loc="left", fontsize="medium")
    ax.set_ylabel("nats per cell")
    if not np.isfinite(kl).any():
        ax.text(0.5, 0.5, "not recorded", transform=ax.transAxes, ha="center", va="center", color=ink(0.7))
        return
    shades = map(ink, np.linspace(0.3, 1, kl.shape[1]))
    for column, colour in zip(np.argsort(kl[-1]), shades, strict=True):
        ax.plot(curves["step"], kl[:, column], color=colour, **_style(kl) | {"linewidth": 0.9})
    _scale_to_late_steps(ax, curves["step"], kl)
    ax.set_ylim(bottom=0)


def _style(values: NDArray[Any]) -> dict[str, Any]:
    """The style of a line; a single record is drawn as a point."""
    return {"linewidth": 1.4, "marker": "o" if len(values) == 1 else None, "markersize": 4}


def _mark_kept(axes: dict[str, Axes], kept: int) -> None:
    for name in LOSSES:
        for line in axes[name].lines[-1:]:  # the validation curve if there is one, else the training curve
            y = np.interp(kept, *np.asarray(line.get_data(), float))
            axes[name].plot(kept, y, "o", color=line.get_color(), markeredgecolor=ink(), markersize=5, zorder=3)
    for ax in axes.values():
        ax.axvline(kept, color=ink(), linewidth=0.9, linestyle="--", zorder=1, label=f"weights of step {kept:,}")


def _label_steps(
    axes: dict[str, Axes], curves: dict[str, NDArray[Any]], *, highest: list[str], lowest: list[str]
) -> None:
    """Label steps below the lowest panels, and epochs above the highest; the epoch is proportional to the step."""
    step, epoch = float(curves["step"][-1]), float(curves["epoch"][-1])
    epochs_per_step = epoch / step if step and epoch else 1.0
    for ax in axes.values():
        ax.spines[["top", "right"]].set_visible(False)
        ax.margins(x=0.02)
    for name in highest:
        epoch_axis = axes[name].secondary_xaxis(
            "top", functions=(partial(np.multiply, epochs_per_step), partial(np.multiply, 1 / epochs_per_step))
        )
        epoch_axis.set_xlabel("epoch", fontsize="small")
        epoch_axis.tick_params(labelsize="small")
    for name in lowest:
        axes[name].tick_params(labelbottom=True)
        axes[name].set_xlabel("step")
        axes[name].xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        axes[name].xaxis.set_major_locator(MaxNLocator(4, integer=True))


def _title(key: str, curves: dict[str, NDArray[Any]], verdict: Mapping[str, Any]) -> str:
    parts = [
        f"{as_label(key)}: {str(verdict['status']).replace('_', ' ')}",
        *(["posterior collapse"] if verdict["posterior_collapse"] else []),
        f"{curves['step'][-1]:,} steps",
        f"{curves['epoch'][-1]:,.3g} epochs",
        f"{curves['seconds'][-1]:,.3g} s",
    ]
    return f"{' · '.join(parts)}\n{plain(verdict['message'])}"
