"""Clusters against labels: where the cells of each label went."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np

from .. import _adata
from .._checks import checked
from ._embedding import PLAIN
from ._figure import get_figure, show_or_return
from ._scores import read_scores
from ._text import as_label, as_labels

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure
    from numpy.typing import NDArray

CELL_WIDTH, ROW_HEIGHT, LETTER = 0.36, 0.27, 0.075  # inches
READ = 0.05  # share of a label from which its number is written
MAX_CATEGORIES = 100  # rows or columns that can be read


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

    Rows are labels, columns clusters; each row adds up to 1. Clusters stand in the order of the label of which they
    hold the largest share, and labels whose cells went to the same cluster stand together, so that the mass lies on the
    diagonal: a label in several columns is split, a column with several labels mixes them. Numbers of cells stand at
    the end of each row and column. Cells without a label or without a cluster are left out, as the title says.

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
        If a column or the comparison is not there.
    ValueError
        If both `clusters` and `method` are given, the comparison has no such method, or no labels, or there is nothing
        to plot or too much.
    """
    title = ""
    if clusters is None:
        title, clusters = _of_comparison(adata, key, method)
    elif method is not None:
        msg = f"clusters={clusters!r} and method={method!r} are both given. Leave one of them out."
        raise ValueError(msg)
    columns = _categories(adata, "clusters", clusters)
    label_key = _label_key(adata, key) if label_key is None else label_key
    counts, rows, at_bottom, n_missing = _count(_categories(adata, "label_key", label_key), columns)

    names, numbers = as_labels(rows), as_labels(at_bottom)
    longest = [max(map(len, found)) for found in (names, numbers)]
    width = CELL_WIDTH * len(numbers) + LETTER * longest[0] + 1.3
    figure = get_figure(fig, (max(width, 4.0), ROW_HEIGHT * len(names) + LETTER * longest[1] + 2.0))
    ax: Axes = figure.add_subplot()
    shares = counts / counts.sum(axis=1, keepdims=True)
    _shares(ax, shares)
    ax.set_yticks(range(len(names)), names, fontsize=8)
    ax.set_xticks(range(len(numbers)), numbers, fontsize=8, rotation=90 if longest[1] > 4 else 0)
    ax.set_xlabel(as_label(clusters), fontsize=9)
    ax.set_ylabel(as_label(label_key), fontsize=9)
    _margins(ax, counts)
    said = [
        *([as_label(title)] if title else []),
        "share of each label's cells in each cluster",
        f"{counts.sum():,} cells",
    ]
    if n_missing:
        said[-1] += f"; {n_missing:,} without label or cluster are left out"
    figure.suptitle("\n".join(said), x=0.01, ha="left", fontsize="small", color=PLAIN, linespacing=1.4)
    return show_or_return(ax, show)


def _of_comparison(adata: AnnData, key: str, method: str | None) -> tuple[str, str]:
    """The method, by default the best, and the column with the clusters of its first fit."""
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
    found = record.get("params", {}).get("label_key") if isinstance(record, dict) else None
    if found is None:
        msg = f"label_key is None, and uns[{key!r}] is no comparison with labels. Name a column of obs as label_key."
        raise ValueError(msg)
    return str(found)


def _categories(adata: AnnData, name: str, column: str) -> pd.Series:
    found = _adata.read_categories(adata, name, column)
    if not 0 < len(found.cat.categories) <= MAX_CATEGORIES:
        msg = (
            f"obs[{column!r}] holds {len(found.cat.categories):,} categories; a plot that can be read has 1 to "
            f"{MAX_CATEGORIES}. "
            f"Choose another column as {name}."
        )
        raise ValueError(msg)
    return found


def _count(labels: pd.Series, clusters: pd.Series) -> tuple[NDArray[np.int64], list[str], list[str], int]:
    """Cells by label and cluster, in the order in which they are drawn; their names; and how many have none."""
    known = (labels.notna() & clusters.notna()).to_numpy()
    if not known.any():
        msg = f"no cell has a value in both obs[{labels.name!r}] and obs[{clusters.name!r}]. Choose other columns."
        raise ValueError(msg)
    labels, clusters = (column[known].cat.remove_unused_categories() for column in (labels, clusters))
    counts = np.zeros((len(labels.cat.categories), len(clusters.cat.categories)), np.int64)
    np.add.at(counts, (labels.cat.codes.to_numpy(), clusters.cat.codes.to_numpy()), 1)

    share = counts / counts.sum(axis=1, keepdims=True)
    owner = share.argmax(axis=0)  # of each cluster, the label of which it has the largest share
    own = np.arange(len(counts))
    group = owner[share.argmax(axis=1)]  # the owner of the cluster that most cells of a label are in
    rows = np.lexsort((own, group != own, group))
    place = np.argsort(rows)
    columns = np.lexsort((-share.max(axis=0), place[owner]))
    names, numbers = labels.cat.categories.astype(str), clusters.cat.categories.astype(str)
    return counts[np.ix_(rows, columns)], list(names[rows]), list(numbers[columns]), int((~known).sum())


def _shares(ax: Axes, shares: NDArray[np.float64]) -> None:
    colours = mpl.colormaps["Blues"](0.85 * shares)
    colours[shares == 0] = 1
    ax.imshow(colours, aspect="auto")
    for (row, column), share in np.ndenumerate(shares):
        if share >= READ:
            dark = np.dot(colours[row, column, :3], (0.299, 0.587, 0.114)) < 0.5
            colour = "white" if dark else "black"
            ax.text(column, row, f"{share:.2f}", ha="center", va="center", fontsize=7, color=colour)
    edges = [np.arange(n + 1) - 0.5 for n in shares.shape]
    ax.hlines(edges[0], -0.5, shares.shape[1] - 0.5, color="0.9", linewidth=0.5)
    ax.vlines(edges[1], -0.5, shares.shape[0] - 0.5, color="0.9", linewidth=0.5)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)


def _margins(ax: Axes, counts: NDArray[np.int64]) -> None:
    """Numbers of cells, of labels to the right and of clusters above."""
    by_label, by_cluster = ([f"{n:,}" for n in counts.sum(axis=axis)] for axis in (1, 0))
    right, top = ax.secondary_yaxis("right"), ax.secondary_xaxis("top")
    right.set_yticks(range(len(by_label)), by_label)
    top.set_xticks(range(len(by_cluster)), by_cluster, rotation=90 if max(map(len, by_cluster)) > 4 else 0)
    for margin, axis in ((right, right.yaxis), (top, top.xaxis)):
        axis.set_label_text("cells", fontsize=8, color=PLAIN)
        margin.tick_params(length=0, labelsize=7, labelcolor=PLAIN)
        margin.spines[:].set_visible(False)
