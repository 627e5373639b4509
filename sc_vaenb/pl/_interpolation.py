"""Expression along a way through the latent space, as a heat map in the order of the genes' peaks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from .._checks import checked
from .._results import check_result
from ._colors import ink
from ._figure import bare, get_figure, set_title, show_or_return
from ._text import as_label, as_labels

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

ROW_HEIGHT, LETTER_WIDTH = 0.17, 0.075  # inches
MAX_LETTERS_SIDE_BY_SIDE = 36  # of the names of all stops below the heat map; longer ones are slanted
MAX_Z_SCORE = (
    2.0  # at the ends of the colour scale: a steady rise or fall reaches 1.7, and a spike must not make the rest pale
)


@checked
def interpolation(
    adata: AnnData,
    key: str = "interpolation",
    *,
    genes: Sequence[str] | None = None,
    n_genes: int = 40,
    fig: Figure | SubFigure | None = None,
    show: bool | None = None,
) -> Axes | None:
    """Plot expression along a way through the latent space: a heat map of genes, ordered by where they peak.

    Each row is one gene's log1p(counts per 10,000) as a z-score along the way, so that all genes span the same
    colours; the highest expression of each, in counts per 10,000, stands at the end of its row.

    Parameters
    ----------
    adata
        Annotated data with the result of :func:`sc_vaenb.tl.interpolate`.
    key
        Where it is in ``adata.uns``: the ``key_added`` of that call.
    genes
        Genes to draw. By default those that vary most along the way, by the standard deviation of the log.
    n_genes
        How many genes to draw, if `genes` does not say which.
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
        If there is no such result.
    ValueError
        If a gene is not in it, or `n_genes` is not possible.

    See Also
    --------
    sc_vaenb.tl.interpolate : Computes what is shown.
    """
    record: Any = adata.uns.get(key)
    if not (isinstance(record, dict) and {"expression", "points", "stops", "params"} <= set(record)):
        msg = f"uns[{key!r}] holds no interpolation; uns has {list(adata.uns)}. Run sc_vaenb.tl.interpolate first."
        raise KeyError(msg)
    record = check_result(record, key, "interpolation")
    expression: pd.DataFrame = record["expression"]
    logged = np.log1p(_select_genes(expression, genes, key))
    if genes is None:
        logged = logged.loc[logged.std(axis=1).sort_values(ascending=False, kind="stable").index[:n_genes]]
    scores = _order_by_peak(_z_scores(logged))

    names = as_labels(scores.index)
    n_letters = max(map(len, names))
    figure = get_figure(fig, (5.0 + LETTER_WIDTH * n_letters, 1.4 + ROW_HEIGHT * max(len(scores), 6)))
    ax: Axes = figure.add_subplot()
    half_column = 0.5 / (scores.shape[1] - 1)  # so that the centre of each column is at its position
    edges = (-half_column, 1 + half_column, len(scores) - 0.5, -0.5)
    image = ax.imshow(
        scores,
        cmap="viridis",  # rises from dark to bright in grey print too
        vmin=-MAX_Z_SCORE,
        vmax=MAX_Z_SCORE,
        aspect="auto",
        extent=edges,
        interpolation="nearest",
    )
    ax.set_yticks(range(len(scores)), names, fontsize="x-small")
    stops = record["stops"]
    stop_names = as_labels(stops["name"])
    if sum(map(len, stop_names)) > MAX_LETTERS_SIDE_BY_SIDE:
        ax.set_xticks(stops["position"], stop_names, rotation=30, ha="right", rotation_mode="anchor")
    else:
        ax.set_xticks(stops["position"], stop_names)
        tick_labels = ax.get_xticklabels()
        tick_labels[0].set_horizontalalignment("left")  # long names would reach beyond the sides
        tick_labels[-1].set_horizontalalignment("right")
    bare(ax)
    for position in stops["position"].iloc[1:-1]:
        ax.axvline(position, color="white", linewidth=0.8, linestyle=":")
    right = ax.secondary_yaxis("right")
    right.set_yticks(range(len(scores)), [f"{x:,.3g}" for x in expression.loc[scores.index].max(axis=1)])
    right.set_ylabel("highest, per 10,000", fontsize="small", color=ink(0.7))
    bare(right)
    right.tick_params(labelsize="xx-small", labelcolor=ink(0.7))
    any_above, any_below = scores.to_numpy().max() > MAX_Z_SCORE, scores.to_numpy().min() < -MAX_Z_SCORE
    extend = {(0, 0): "neither", (1, 0): "max", (0, 1): "min", (1, 1): "both"}[int(any_above), int(any_below)]
    bar = figure.colorbar(image, ax=ax, extend=extend, shrink=min(1.0, 12 / len(scores)), pad=0.02)
    bar.set_label("z-score along the way", fontsize="small")
    bar.ax.tick_params(labelsize="x-small")
    bar.outline.set_visible(False)
    set_title(figure, _title(record["params"]), fontsize="small", color=ink(0.7))
    return show_or_return(ax, show)


def _select_genes(expression: pd.DataFrame, genes: Sequence[str] | None, key: str) -> pd.DataFrame:
    if genes is None:
        return expression
    genes = [genes] if isinstance(genes, str) else list(dict.fromkeys(genes))
    missing = [gene for gene in genes if gene not in expression.index]
    if missing or not genes:
        msg = f"genes={missing[:5]} are not among the {len(expression)} genes in uns[{key!r}]. Give some that are."
        raise ValueError(msg)
    return expression.loc[genes]


def _z_scores(logged: pd.DataFrame) -> pd.DataFrame:
    """The z-scores of each gene; 0 for a gene that does not vary."""
    spread = logged.std(axis=1, ddof=0)
    return logged.sub(logged.mean(axis=1), axis=0).div(spread.where(spread > 1e-6, np.inf), axis=0)


def _order_by_peak(scores: pd.DataFrame) -> pd.DataFrame:
    """Order genes by the point of their peak; genes with the same peak by the centre of their positive z-scores."""
    positive = scores.clip(lower=0).to_numpy()
    center = positive @ np.arange(scores.shape[1]) / np.maximum(positive.sum(axis=1), 1e-12)
    return scores.iloc[np.lexsort((center, scores.to_numpy().argmax(axis=1)))]


def _title(params: dict[str, Any]) -> str:
    batch = f"as in batch {as_label(params['batch'])}" if "batch" in params else "averaged over batches"
    return f"{params['path']} way in the latent space of {as_label(params['key'])}; {batch}"
