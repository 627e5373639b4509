"""One latent dimension: which cells lie where on it, and which genes change along it, on one axis."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _adata
from .._checks import checked
from ._confusion import _categories
from ._embedding import MISSING, OKABE_ITO, PLAIN
from ._factors import read_factors
from ._figure import get_figure, show_or_return
from ._text import as_label, as_labels

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure
    from numpy.typing import NDArray

ROW_HEIGHT = 0.27  # inches
MIN_CELLS_FOR_DENSITY = 5  # cells from which a density can be drawn


@checked
def latent(
    adata: AnnData,
    key: str = "vae",
    *,
    dimension: str | int | None = None,
    groupby: str | None = None,
    n_genes: int = 5,
    fig: Figure | SubFigure | None = None,
    show: bool | None = None,
) -> dict[str, Axes] | None:
    """Plot one latent dimension: which cells lie where on it, above the genes that change along it.

    Above: the states of the cells of each category, as densities of equal height with a line at the median, ordered by
    it. Below: what the model decodes if this dimension alone goes from its 1 % to its 99 % quantile while the others
    stay at their mean, of the genes that rise and fall most. States are the encoder's, before any alignment.

    Parameters
    ----------
    adata
        Annotated data described by :func:`sc_vaenb.tl.factors`.
    key
        Name of the model, as in that call.
    dimension
        Such as ``'z3'`` or ``3``. By default the one that explains most of the variance.
    groupby
        Column of ``adata.obs`` with categories. By default the one, of those in the description, between whose
        categories most of the variance of this dimension lies.
    n_genes
        How many genes that rise, and how many that fall, as far as the description names them.
    fig
        Figure or subfigure to draw into, laid out with constrained layout unless it has a layout engine already.
        A new figure by default.
    show
        Show the figure; by default as :attr:`scanpy.settings.autoshow` says.

    Returns
    -------
    The axes by part (``'cells'``, ``'genes'``), or `None` if shown.

    Raises
    ------
    KeyError
        If the dimensions have not been described, or a column is not there.
    ValueError
        If there is no such dimension, or nothing to group by, or too many groups.
    """
    record = read_factors(adata, key, "sweep")
    about = record["dimensions"]
    name = _dimension(about, dimension)
    groups = _categories(adata, "groupby", _groupby(record["association"], name) if groupby is None else groupby)
    states = _adata.read_embedding(adata, f"X_{key}_factors")
    if states.shape[1] != len(about):
        msg = (
            f"obsm['X_{key}_factors'] has {states.shape[1]} dimensions, but uns['{key}_factors'] describes "
            f"{len(about)}. Run sc_vaenb.tl.factors(adata, {key!r}) again."
        )
        raise ValueError(msg)
    state = states[:, int(name.removeprefix("z"))]
    at = list(about.index).index(name)
    swept = {part: np.asarray(values)[at] for part, values in record["sweep"].items()}

    figure = get_figure(fig, (6.4, ROW_HEIGHT * len(groups.cat.categories) + 4.4))
    heights = [ROW_HEIGHT * len(groups.cat.categories) + 0.5, 3.0]
    grid = figure.add_gridspec(2, 1, height_ratios=heights)
    below = figure.add_subplot(grid[1])
    above = figure.add_subplot(grid[0], sharex=below)
    _cells(above, state, groups)
    _genes(below, swept, n_genes)
    low, high = swept["z"][[0, -1]]
    room = 0.2 * (high - low)  # for the names of the genes
    below.set_xlim(min(low - room, state.min()), max(high + room, state.max()))
    above.tick_params(labelbottom=False)
    below.set_xlabel(name)
    share = f"{name} of {as_label(key)}: explains {100 * about.loc[name, 'variance']:.1f} % of the variance"
    figure.suptitle(share, x=0.01, ha="left", fontsize="medium")
    return show_or_return({"cells": above, "genes": below}, show)


def _dimension(about: pd.DataFrame, dimension: str | int | None) -> str:
    if dimension is None:
        return str(about.index[0])
    name = dimension if isinstance(dimension, str) else f"z{dimension}"
    if name not in about.index:
        msg = f"dimension={dimension!r} is not known. Choose 'z0' to 'z{len(about) - 1}', or the number alone."
        raise ValueError(msg)
    return name


def _groupby(association: pd.DataFrame, name: str) -> str:
    between = association.loc[association["measure"] == "eta2", name].astype(float)
    if not len(between):
        msg = "groupby is None, and no categories were described. Name a column of obs as groupby."
        raise ValueError(msg)
    return str(between.idxmax())


def _cells(ax: Axes, state: NDArray[np.float32], groups: pd.Series) -> None:
    """A density for each category, or its cells as points where they are few."""
    names = groups.cat.categories
    median = [np.median(state[(groups == name).to_numpy()]) for name in names]
    order = np.argsort(median, kind="stable")
    for row, code in enumerate(order):
        own = state[(groups == names[code]).to_numpy()]
        if len(own) < MIN_CELLS_FOR_DENSITY or own.std() == 0:
            ax.plot(own, np.full(len(own), row), "o", color=PLAIN, markersize=3)
            continue
        parts: Any = ax.violinplot([own], [row], orientation="horizontal", widths=0.9, showextrema=False)
        body = parts["bodies"][0]
        body.set(facecolor=MISSING, edgecolor=PLAIN, linewidth=0.6, alpha=1)
        ax.plot([median[code]] * 2, [row - 0.3, row + 0.3], color="black", linewidth=1.5)
    ax.set_yticks(range(len(names)), as_labels(names[code] for code in order), fontsize=8)
    ax.set_ylim(-0.6, len(names) - 0.4)
    ax.tick_params(axis="y", length=0)
    ax.set_title(f"cells by {as_label(groups.name)}", fontsize="small", loc="left")
    ax.spines[["top", "right", "left"]].set_visible(False)


def _genes(ax: Axes, sweep: dict[str, NDArray[Any]], n_genes: int) -> None:
    """Lines of decoded expression, named at the end where they are high."""
    half = len(sweep["genes"]) // 2
    chosen = [*range(min(n_genes, half)), *range(half, half + min(n_genes, half))]
    lines = sweep["log1p"][chosen]
    low, high = 0.0, 1.05 * max(float(lines.max()), 1e-6)
    place = _apart(np.where(np.array(chosen) < half, lines[:, -1], lines[:, 0]), chosen, half, 0.065 * (high - low))
    for row, gene in enumerate(chosen):
        rises = gene < half
        colour = OKABE_ITO[row % 6]  # without yellow, and black
        ax.plot(sweep["z"], lines[row], color=colour, linewidth=1.5, label=as_label(sweep["genes"][gene]))
        end = -1 if rises else 0
        ax.annotate(
            as_label(sweep["genes"][gene]),
            (sweep["z"][end], place[row]),
            (6 if rises else -6, 0),
            textcoords="offset points",
            ha="left" if rises else "right",
            va="center",
            fontsize=8,
            color=colour,
        )
    ax.set_ylim(low, max(high, place.max() + 0.03 * high))
    ax.set_ylabel("decoded expression\n(log1p, at the mean depth)", fontsize=8)
    ax.set_title("genes that fall and rise most, the other dimensions at their mean", fontsize="small", loc="left")
    ax.spines[["top", "right"]].set_visible(False)


def _apart(heights: NDArray[np.float64], chosen: list[int], half: int, room: float) -> NDArray[np.float64]:
    """Heights of the labels of each side, moved up until none covers another."""
    moved = np.array(heights, dtype=float)
    for side in (np.array(chosen) < half, np.array(chosen) >= half):
        below = -np.inf
        for at in np.flatnonzero(side)[np.argsort(moved[side], kind="stable")]:
            moved[at] = below = max(moved[at], below + room)
    return moved
