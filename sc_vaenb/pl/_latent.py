"""One latent dimension: which cells lie where on it, and which genes change along it, on one axis."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _adata
from .._checks import checked
from ._colors import PALETTE, for_text, ink
from ._confusion import DENSE_ABOVE, _categories
from ._factors import read_factors
from ._figure import get_figure, set_title, show_or_return
from ._text import as_label, as_labels

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure
    from numpy.typing import NDArray

ROW_HEIGHT, DENSE_ROW_HEIGHT = 0.27, 0.15  # inches; the second for many rows
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

    See Also
    --------
    sc_vaenb.tl.factors : Computes what is shown.
    sc_vaenb.pl.factors : All dimensions.
    """
    record = read_factors(adata, key, "sweep")
    dimensions = record["dimensions"]
    name = _dimension(dimensions, dimension)
    groups = _categories(adata, "groupby", _groupby(record["association"], name) if groupby is None else groupby)
    states = _adata.read_embedding(adata, f"X_{key}_factors")
    if states.shape[1] != len(dimensions):
        msg = (
            f"obsm['X_{key}_factors'] has {states.shape[1]} dimensions, but uns['{key}_factors'] describes "
            f"{len(dimensions)}. Run sc_vaenb.tl.factors(adata, {key!r}) again."
        )
        raise ValueError(msg)
    state = states[:, int(name.removeprefix("z"))]
    i = list(dimensions.index).index(name)
    sweep = {part: np.asarray(values)[i] for part, values in record["sweep"].items()}

    n_groups = len(groups.cat.categories)
    height = (DENSE_ROW_HEIGHT if n_groups > DENSE_ABOVE else ROW_HEIGHT) * n_groups
    figure = get_figure(fig, (6.4, height + 4.4))
    heights = [height + 0.5, 3.0]
    grid = figure.add_gridspec(2, 1, height_ratios=heights)
    genes_ax = figure.add_subplot(grid[1])
    cells_ax = figure.add_subplot(grid[0], sharex=genes_ax)
    _draw_cells(cells_ax, state, groups)
    _draw_genes(genes_ax, sweep, n_genes)
    low, high = sweep["z"][[0, -1]]
    margin = 0.2 * (high - low)  # room for the names of the genes
    genes_ax.set_xlim(min(low - margin, state.min()), max(high + margin, state.max()))
    cells_ax.tick_params(labelbottom=False)
    genes_ax.set_xlabel(name)
    share = f"{name} of {as_label(key)}: explains {100 * dimensions.loc[name, 'variance']:.1f} % of the variance"
    set_title(figure, share)
    return show_or_return({"cells": cells_ax, "genes": genes_ax}, show)


def _dimension(dimensions: pd.DataFrame, dimension: str | int | None) -> str:
    if dimension is None:
        return str(dimensions.index[0])
    name = dimension if isinstance(dimension, str) else f"z{dimension}"
    if name not in dimensions.index:
        msg = f"dimension={dimension!r} is not known. Choose 'z0' to 'z{len(dimensions) - 1}', or the number alone."
        raise ValueError(msg)
    return name


def _groupby(association: pd.DataFrame, name: str) -> str:
    eta2 = association.loc[association["measure"] == "eta2", name].astype(float)
    if not len(eta2):
        msg = "groupby is None, and no categories were described. Name a column of obs as groupby."
        raise ValueError(msg)
    return str(eta2.idxmax())


def _draw_cells(ax: Axes, state: NDArray[np.float32], groups: pd.Series) -> None:
    """Draw a density for each category, or points if it has few cells."""
    names = groups.cat.categories
    median = [np.median(state[(groups == name).to_numpy()]) for name in names]
    order = np.argsort(median, kind="stable")
    for row, code in enumerate(order):
        values = state[(groups == names[code]).to_numpy()]
        if len(values) < MIN_CELLS_FOR_DENSITY or values.std() == 0:
            ax.plot(values, np.full(len(values), row), "o", color=ink(0.7), markersize=3)
            continue
        parts: Any = ax.violinplot([values], [row], orientation="horizontal", widths=0.9, showextrema=False)
        body = parts["bodies"][0]
        body.set(facecolor=ink(0.17), edgecolor=ink(0.7), linewidth=0.6, alpha=1)
        ax.plot([median[code]] * 2, [row - 0.3, row + 0.3], color=ink(), linewidth=1.5)
    fontsize = "xx-small" if len(names) > DENSE_ABOVE else "small"
    ax.set_yticks(range(len(names)), as_labels(names[code] for code in order), fontsize=fontsize)
    ax.set_ylim(-0.6, len(names) - 0.4)
    ax.tick_params(axis="y", length=0)
    ax.set_title(f"cells by {as_label(groups.name)}", fontsize="small", loc="left")
    ax.spines[["top", "right", "left"]].set_visible(False)


def _draw_genes(ax: Axes, sweep: dict[str, NDArray[Any]], n_genes: int) -> None:
    """Draw lines of decoded expression, with the name of the gene at the higher end."""
    half = len(sweep["genes"]) // 2
    chosen = [*range(min(n_genes, half)), *range(half, half + min(n_genes, half))]
    lines = sweep["log1p"][chosen]
    low, high = 0.0, 1.05 * max(float(lines.max()), 1e-6)
    label_height = _separate_labels(
        np.where(np.array(chosen) < half, lines[:, -1], lines[:, 0]), chosen, half, 0.065 * (high - low)
    )
    for row, gene in enumerate(chosen):
        rises = gene < half
        colour = PALETTE[row % 6]  # the first six: no yellow and no black
        ax.plot(sweep["z"], lines[row], color=colour, linewidth=1.5, label=as_label(sweep["genes"][gene]))
        end = -1 if rises else 0
        ax.annotate(
            as_label(sweep["genes"][gene]),
            (sweep["z"][end], label_height[row]),
            (6 if rises else -6, 0),
            textcoords="offset points",
            ha="left" if rises else "right",
            va="center",
            fontsize="small",
            color=for_text(colour),
        )
    ax.set_ylim(low, max(high, label_height.max() + 0.03 * high))
    ax.set_ylabel("decoded expression\n(log1p, at the mean depth)", fontsize="small")
    ax.set_title("genes that fall and rise most, the other dimensions at their mean", fontsize="small", loc="left")
    ax.spines[["top", "right"]].set_visible(False)


def _separate_labels(
    heights: NDArray[np.float64], chosen: list[int], half: int, min_distance: float
) -> NDArray[np.float64]:
    """Move the labels of each side up until they do not overlap; return their heights."""
    label_height = np.array(heights, dtype=float)
    for side in (np.array(chosen) < half, np.array(chosen) >= half):
        previous = -np.inf
        for i in np.flatnonzero(side)[np.argsort(label_height[side], kind="stable")]:
            label_height[i] = previous = max(label_height[i], previous + min_distance)
    return label_height
