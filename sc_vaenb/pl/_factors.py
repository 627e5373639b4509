"""Plot what each latent dimension represents: its share of the variance, its associations and its genes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np

from .._checks import checked
from .._results import check_result
from ._colors import ink
from ._figure import bare, get_figure, set_title, show_or_return
from ._text import as_label, as_labels, plain, two_decimals

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

CELL_WIDTH, ROW_HEIGHT, LETTER_WIDTH = 0.55, 0.34, 0.068  # inches
TITLE = "genes that rise ▲ and fall ▼"
LONGEST_LINE = 200  # letters
MIN_VARIANCE_SHARE = 0.01  # dimensions below it are not drawn by default
KINDS = {"eta2": ("η²", "Blues", (0, 1)), "spearman": ("\N{GREEK SMALL LETTER RHO}", "RdBu_r", (-1, 1))}


@checked
def factors(
    adata: AnnData,
    key: str = "vae",
    *,
    n_dimensions: int | None = None,
    fig: Figure | SubFigure | None = None,
    show: bool | None = None,
) -> dict[str, Axes] | None:
    """Plot what each latent dimension is: a row each, from the one that explains most of the variance.

    From left to right: the share of the variance of the decoded expression that the dimension explains; how it goes
    with categories (η², the share of its variance that lies between them) and with numbers (ρ, Spearman's correlation);
    and the genes whose expression rises (▲) and falls (▼) most along it. Signs are those of the model, and arbitrary.

    Parameters
    ----------
    adata
        Annotated data described by :func:`sc_vaenb.tl.factors`.
    key
        Name of the model, as in that call.
    n_dimensions
        How many rows. By default all that are active and explain 1 % of the variance or more.
    fig
        Figure or subfigure to draw into, laid out with constrained layout unless it has a layout engine already.
        A new figure by default.
    show
        Show the figure; by default as :attr:`scanpy.settings.autoshow` says.

    Returns
    -------
    The axes by part (``'variance'``, ``'eta2'`` and ``'spearman'`` where there are such covariates, ``'genes'``), or
    `None` if shown.

    Raises
    ------
    KeyError
        If the dimensions have not been described.
    ValueError
        If `n_dimensions` is not possible.

    See Also
    --------
    sc_vaenb.tl.factors : Computes what is shown.
    sc_vaenb.pl.latent : One dimension.
    """
    record = read_factors(adata, key)
    dimensions, association = record["dimensions"], record["association"]
    if n_dimensions is None:
        n_dimensions = max(int((dimensions["active"] & (dimensions["variance"] >= MIN_VARIANCE_SHARE)).sum()), 1)
    if n_dimensions > len(dimensions):
        msg = f"n_dimensions={n_dimensions} is not possible. The model in uns[{key!r}] has {len(dimensions)}."
        raise ValueError(msg)
    left_out = len(dimensions) - n_dimensions
    dimensions = dimensions.iloc[:n_dimensions]
    tables = {kind: association.loc[association["measure"] == kind, list(dimensions.index)].T for kind in KINDS}
    tables = {kind: table.astype(float) for kind, table in tables.items() if table.shape[1]}

    gene_lines = [f"▲ {_cut(row.up)}\n▼ {_cut(row.down)}" for row in dimensions.itertuples()]
    widths = {"variance": 1.3} | {kind: CELL_WIDTH * table.shape[1] for kind, table in tables.items()}
    widths["genes"] = LETTER_WIDTH * max(len(line) for line in [TITLE, *"\n".join(gene_lines).split("\n")])
    n_letters = max((len(as_label(name)) for table in tables.values() for name in table), default=0)
    size = (sum(widths.values()) + 1.0, ROW_HEIGHT * len(dimensions) + 0.05 * n_letters + 1.1)
    figure = get_figure(fig, size)
    grid = figure.add_gridspec(1, len(widths), width_ratios=list(widths.values()))
    axes: dict[str, Axes] = {}
    for i, part in enumerate(widths):
        axes[part] = ax = figure.add_subplot(grid[i])
        if part in tables:
            _draw_table(ax, tables[part], part)
        elif part == "variance":
            _draw_variance(ax, dimensions["variance"])
        else:
            _draw_genes(ax, gene_lines)
        ax.set_ylim(len(dimensions) - 0.5, -0.5)
        bare(ax)
    title = f"Latent dimensions of {as_label(key)}" + (f"; {left_out} more are not shown" if left_out else "")
    set_title(figure, title)
    return show_or_return(axes, show)


def _cut(genes: str) -> str:
    return plain(genes if len(genes) <= LONGEST_LINE else f"{genes[: LONGEST_LINE - 1]}…")


def read_factors(adata: AnnData, key: str, *needed: str) -> dict[str, Any]:
    """The checked result of :func:`sc_vaenb.tl.factors`."""
    record = adata.uns.get(f"{key}_factors")
    if not (isinstance(record, dict) and "dimensions" in record and "association" in record):
        msg = (
            f"uns['{key}_factors'] does not say what the dimensions are; uns has {list(adata.uns)}. "
            f"Run sc_vaenb.tl.factors(adata, {key!r}) first."
        )
        raise KeyError(msg)
    return check_result(record, f"{key}_factors", "factors", *needed)


def _draw_variance(ax: Axes, share: pd.Series) -> None:
    ax.barh(range(len(share)), share, height=0.7, color=ink(0.7))
    longest_bar = max(share.max(), 1e-9)
    for row, value in enumerate(share):
        ax.text(value + 0.03 * longest_bar, row, f"{100 * value:.1f} %", va="center", fontsize="small")
    ax.set(xlim=(0, 1.7 * longest_bar), xticks=[])
    ax.set_yticks(range(len(share)), share.index)
    ax.set_title("variance\nexplained", fontsize="small", loc="left")


def _draw_table(ax: Axes, table: pd.DataFrame, kind: str) -> None:
    name, colours, (low, high) = KINDS[kind]
    numbers = table.to_numpy()
    rgba = mpl.colormaps[colours]((0.85 if low == 0 else 1) * (numbers - low) / (high - low))
    ax.imshow(rgba, aspect="auto")
    for (row, column), number in np.ndenumerate(numbers):
        dark = np.dot(rgba[row, column, :3], (0.299, 0.587, 0.114)) < 0.5
        colour = "white" if dark else "black"
        ax.text(column, row, two_decimals(number), ha="center", va="center", fontsize="small", color=colour)
    ax.set_yticks([])
    ax.set_xticks(
        range(table.shape[1]),
        as_labels(table.columns),
        rotation=45,
        ha="right",
        rotation_mode="anchor",
        fontsize="small",
    )
    ax.set_title(name, fontsize="small", loc="left")


def _draw_genes(ax: Axes, text: list[str]) -> None:
    for row, lines in enumerate(text):
        ax.text(0, row, lines, va="center", fontsize="x-small", linespacing=1.25)
    ax.set(xlim=(0, 1), xticks=[], yticks=[])
    ax.set_title(TITLE, fontsize="small", loc="left")
