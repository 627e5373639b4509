"""Clusters against labels: where the cells of each label went."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np

from .. import _obs
from .._checks import checked
from ._colors import ink
from ._figure import bare, get_figure, set_title, show_or_return
from ._scores import read_scores
from ._text import as_label, as_labels

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure
    from numpy.typing import NDArray

CELL_WIDTH, ROW_HEIGHT, LETTER_WIDTH = 0.36, 0.27, 0.075  # inches
DENSE_ABOVE = 30  # rows or columns; above it the cells of the table are small and have no numbers
DENSE_CELL = 0.15  # inches, in width and height
MIN_SHARE_WRITTEN = 0.05  # of a label's cells; smaller shares have no number
MAX_CATEGORIES = 100  # readable rows or columns


@checked
def confusion(
    adata: AnnData,
    clusters: str | None = None,
    label_key: str | None = None,
    *,
    method: str | None = None,
    key: str = "compare",
    fig: Figure | SubFigure | None = None,
    show: bool | None = None,
) -> Axes | None:
    """Plot clusters against labels: which share of the cells of each label is in which cluster.

    Rows are labels, columns are clusters; each row adds up to 1. Clusters are in the order of their main label (the one
    with the largest share in them), and labels with the same main cluster are next to each other. So most cells lie on
    the diagonal: a label in several columns is split, a column with several labels mixes them. The number of cells is
    at the end of each row and column. Shares are written as numbers if there are up to 30 rows and columns. Cells
    without a label or cluster are left out, as the title says.

    Parameters
    ----------
    adata
        Annotated data with a comparison by :func:`sc_vaenb.tl.compare`, or any with two columns of categories.
    clusters
        Column of ``adata.obs``. By default the Leiden clusters of `method`.
    label_key
        Column of ``adata.obs``. By default that of the comparison.
    method
        Method of the comparison, as it is named there, such as ``'CVAE'``. By default the one with the best total
        score.
    key
        Where the comparison is in ``adata.uns``: the ``key_added`` of the call that made it.
    fig
        Figure or subfigure to draw into, laid out with constrained layout unless it has a layout engine already.
        A new figure by default.
    show
        Show the figure; by default as :attr:`scanpy.settings.autoshow` says.

    Returns
    -------
    The axes, or `None` if shown.

    Raises
    ------
    KeyError
        If a column or the comparison does not exist.
    ValueError
        If both `clusters` and `method` are given, the comparison has no such method or no labels, there is nothing to
        plot, or there are too many categories.

    See Also
    --------
    sc_vaenb.tl.compare : Computes clusters for each method.
    """
    title = ""
    if clusters is None:
        title, clusters = _title_and_clusters(adata, key, method)
    elif method is not None:
        msg = f"clusters={clusters!r} and method={method!r} are both given. Leave one of them out."
        raise ValueError(msg)
    cluster_of_cell = _categories(adata, "clusters", clusters)
    label_key = _label_key(adata, key) if label_key is None else label_key
    counts, rows, columns_in_order, n_missing = _count(_categories(adata, "label_key", label_key), cluster_of_cell)

    label_names, cluster_names = as_labels(rows), as_labels(columns_in_order)
    n_letters = [max(map(len, texts)) for texts in (label_names, cluster_names)]
    dense = max(counts.shape) > DENSE_ABOVE
    cell_width, row_height = (DENSE_CELL, DENSE_CELL) if dense else (CELL_WIDTH, ROW_HEIGHT)
    fontsize, margin_fontsize = ("xx-small", "xx-small") if dense else ("small", "x-small")
    width = cell_width * len(cluster_names) + LETTER_WIDTH * n_letters[0] + 1.3
    figure = get_figure(fig, (max(width, 4.0), row_height * len(label_names) + LETTER_WIDTH * n_letters[1] + 2.0))
    ax: Axes = figure.add_subplot()
    shares = counts / counts.sum(axis=1, keepdims=True)
    _draw_shares(ax, shares, with_numbers=not dense)
    ax.set_yticks(range(len(label_names)), label_names, fontsize=fontsize)
    upright = n_letters[1] > (1 if dense else 4)
    ax.set_xticks(range(len(cluster_names)), cluster_names, fontsize=fontsize, rotation=90 if upright else 0)
    ax.set_xlabel(as_label(clusters), fontsize="small")
    ax.set_ylabel(as_label(label_key), fontsize="small")
    _draw_totals(ax, counts, margin_fontsize, max_letters=1 if dense else 4)
    title_lines = [
        *([as_label(title)] if title else []),
        "share of each label's cells in each cluster",
        f"{counts.sum():,} cells",
    ]
    if n_missing:
        title_lines[-1] += f"; {n_missing:,} without label or cluster are left out"
    set_title(figure, "\n".join(title_lines), fontsize="small", color=ink(0.7))
    return show_or_return(ax, show)


def _title_and_clusters(adata: AnnData, key: str, method: str | None) -> tuple[str, str]:
    """A title with the method (by default the best one), and the column with the clusters of its first fit."""
    values, _, _ = read_scores(adata, key)
    record: Any = adata.uns[key]
    if "methods" not in record:
        msg = f"uns[{key!r}] holds scores of embeddings, which have no clusters. Name two columns of obs."
        raise ValueError(msg)
    methods = record["methods"].drop_duplicates("method").set_index("method")["embedding"]
    if method is None:
        if "total" not in values:
            msg = (
                f"the comparison in uns[{key!r}] was made without labels, so none is best by them. "
                f"Pass one of {list(methods.index)} as method, and a label_key."
            )
            raise ValueError(msg)
        method = str(values.groupby("method")["total"].mean().idxmax())
        title = f"{method}, best by the total score"
    elif method in methods.index:
        title = method
    else:
        msg = f"method={method!r} is not in the comparison in uns[{key!r}]. Choose one of {list(methods.index)}."
        raise ValueError(msg)
    return title, "leiden_" + str(methods[method]).removeprefix("X_")


def _label_key(adata: AnnData, key: str) -> str:
    record: Any = adata.uns.get(key)
    label_key = record.get("params", {}).get("label_key") if isinstance(record, dict) else None
    if label_key is None:
        msg = f"label_key is None, and uns[{key!r}] is no comparison with labels. Name a column of obs as label_key."
        raise ValueError(msg)
    return str(label_key)


def _categories(adata: AnnData, name: str, column: str) -> pd.Series:
    values = _obs.read_categories(adata, name, column)
    if not 0 < len(values.cat.categories) <= MAX_CATEGORIES:
        msg = (
            f"obs[{column!r}] holds {len(values.cat.categories):,} categories; a plot that can be read has 1 to "
            f"{MAX_CATEGORIES}. "
            f"Choose another column as {name}."
        )
        raise ValueError(msg)
    return values


def _count(labels: pd.Series, clusters: pd.Series) -> tuple[NDArray[np.int64], list[str], list[str], int]:
    """Numbers of cells by label and cluster in drawing order, their names, and the number of cells without either."""
    has_both = (labels.notna() & clusters.notna()).to_numpy()
    if not has_both.any():
        msg = f"no cell has a value in both obs[{labels.name!r}] and obs[{clusters.name!r}]. Choose other columns."
        raise ValueError(msg)
    labels, clusters = (column[has_both].cat.remove_unused_categories() for column in (labels, clusters))
    counts = np.zeros((len(labels.cat.categories), len(clusters.cat.categories)), np.int64)
    np.add.at(counts, (labels.cat.codes.to_numpy(), clusters.cat.codes.to_numpy()), 1)

    share = counts / counts.sum(axis=1, keepdims=True)
    main_label = share.argmax(axis=0)  # for each cluster, the label with the largest share in it
    codes = np.arange(len(counts))
    group = main_label[share.argmax(axis=1)]  # the main label of the cluster that most cells of a label are in
    rows = np.lexsort((codes, group != codes, group))
    row_of_label = np.argsort(rows)
    columns = np.lexsort((-share.max(axis=0), row_of_label[main_label]))
    label_names, cluster_names = labels.cat.categories.astype(str), clusters.cat.categories.astype(str)
    return counts[np.ix_(rows, columns)], list(label_names[rows]), list(cluster_names[columns]), int((~has_both).sum())


def _draw_shares(ax: Axes, shares: NDArray[np.float64], *, with_numbers: bool) -> None:
    colours = mpl.colormaps["Blues"](0.85 * shares)
    colours[shares == 0] = 1
    ax.imshow(colours, aspect="auto")
    for (row, column), share in np.ndenumerate(shares):
        if with_numbers and share >= MIN_SHARE_WRITTEN:
            dark = np.dot(colours[row, column, :3], (0.299, 0.587, 0.114)) < 0.5
            colour = "white" if dark else "black"
            ax.text(column, row, f"{share:.2f}", ha="center", va="center", fontsize="x-small", color=colour)
    edges = [np.arange(n + 1) - 0.5 for n in shares.shape]
    ax.hlines(edges[0], -0.5, shares.shape[1] - 0.5, color="0.9", linewidth=0.5)
    ax.vlines(edges[1], -0.5, shares.shape[0] - 0.5, color="0.9", linewidth=0.5)
    bare(ax)


def _draw_totals(ax: Axes, counts: NDArray[np.int64], fontsize: str, *, max_letters: int) -> None:
    """Write numbers of cells: of labels at the right, of clusters at the top (upright if above `max_letters`)."""
    by_label, by_cluster = ([f"{n:,}" for n in counts.sum(axis=axis)] for axis in (1, 0))
    right, top = ax.secondary_yaxis("right"), ax.secondary_xaxis("top")
    right.set_yticks(range(len(by_label)), by_label)
    top.set_xticks(range(len(by_cluster)), by_cluster, rotation=90 if max(map(len, by_cluster)) > max_letters else 0)
    for margin, axis in ((right, right.yaxis), (top, top.xaxis)):
        axis.set_label_text("cells", fontsize="small", color=ink(0.7))
        bare(margin)
        margin.tick_params(labelsize=fontsize, labelcolor=ink(0.7))
