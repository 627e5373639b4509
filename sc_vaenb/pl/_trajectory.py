"""Plot expression along a time or pseudotime: a panel for each gene, with samples as the replicates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.stats import t

from .. import _adata, _obs
from .._checks import checked
from ._colors import BLUE, ink
from ._figure import PANEL_WIDTH, get_figure, set_title, show_or_return
from ._text import as_label

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.figure import Figure, SubFigure
    from numpy.typing import NDArray

PANEL_HEIGHT = 2.1  # inches


@checked
def trajectory(
    adata: AnnData,
    genes: str | Sequence[str],
    time_key: str,
    *,
    sample_key: str | Sequence[str],
    layer: str = "normalized",
    n_points: int = 10,
    ncols: int = 4,
    fig: Figure | SubFigure | None = None,
    show: bool | None = None,
) -> NDArray[np.object_] | None:
    """Plot the mean expression of genes along a time or pseudotime, and how well it is known.

    Each dot is the mean over the cells of one sample (donor, capture) at one time. The line is the mean of the dots.
    The bars are its 95 % confidence interval by Student's t, with samples as the replicates: they say how well the mean
    of all such samples is known, and not how much cells vary. A time with one sample has no bar. If time is what was
    used to order the cells, as pseudotime is, that the genes change with it is no finding.

    Parameters
    ----------
    adata
        Annotated data with the expression.
    genes
        The genes, one panel each.
    time_key
        Column of ``adata.obs`` with a number for each cell, such as the day or a pseudotime.
    sample_key
        Column of ``adata.obs`` that names the sample (donor, capture, batch) of each cell, or several.
    layer
        Layer, or table in ``adata.obsm``, with the expression: the ``key_added`` of :func:`sc_vaenb.tl.normalized`.
        With expression of :func:`sc_vaenb.tl.corrected`, samples differ less than they do, and the bars are too short.
    n_points
        If there are more times than that, as of a pseudotime, the cells are put in so many groups of equal size.
    ncols
        How many panels are side by side; more go on below.
    fig
        Figure or subfigure to draw into, laid out with constrained layout unless it has a layout engine already.
        A new figure by default.
    show
        Show the figure; by default as :attr:`scanpy.settings.autoshow` says.

    Returns
    -------
    The axes, one for each gene, or `None` if shown.

    Raises
    ------
    KeyError
        If a gene, column or layer does not exist.
    ValueError
        If a time is not a finite number, or a cell has no sample.

    See Also
    --------
    sc_vaenb.tl.normalized : Denoised expression.
    sc_vaenb.tl.differential : Tests for differences between groups, with donors as the replicates.
    """
    genes = [genes] if isinstance(genes, str) else list(dict.fromkeys(genes))
    times = _read_times(adata, time_key)
    codes, _ = _obs.batch_labels(adata, sample_key, "sample_key")
    if len(np.unique(times)) > n_points:
        point = np.argsort(np.argsort(times, kind="stable"), kind="stable") * n_points // len(times)
    else:
        point = np.unique(times, return_inverse=True)[1]
    position = pd.Series(times).groupby(point).mean()
    expression = {gene: _read_expression(adata, gene, layer) for gene in genes}

    ncols = min(ncols, len(genes))
    n_rows = -(-len(genes) // ncols)
    figure = get_figure(fig, (ncols * PANEL_WIDTH, n_rows * PANEL_HEIGHT))
    axes = [figure.add_subplot(n_rows, ncols, i + 1) for i in range(len(genes))]
    for ax, (gene, values) in zip(axes, expression.items(), strict=True):
        dots = pd.Series(values).groupby([point, codes]).mean()
        summary = dots.groupby(level=0).agg(["mean", "std", "count"])
        several = summary[summary["count"] > 1]
        half = t.ppf(0.975, several["count"] - 1) * several["std"] / np.sqrt(several["count"])
        low, high = (several["mean"] - half).clip(lower=0), several["mean"] + half
        ax.scatter(position[dots.index.get_level_values(0)], dots, s=12, color=ink(0.5), linewidths=0, zorder=2)
        ax.vlines(position[several.index], low, high, color=BLUE, alpha=0.5, linewidth=3, zorder=1)
        ax.plot(position, summary["mean"], color=BLUE, zorder=3)
        ax.set_title(as_label(gene), fontsize="medium")
        ax.set_xlabel(as_label(time_key))
        ax.set_ylim(bottom=0)
    for ax in axes[::ncols]:
        ax.set_ylabel(as_label(layer))
    text = f"dots: one {as_label(_obs.title_of(sample_key))} each; line: their mean; bars: its 95 % confidence interval"
    set_title(figure, text, fontsize="small", color=ink(0.7))
    return show_or_return(np.array(axes, dtype=object), show)


def _read_times(adata: AnnData, time_key: str) -> NDArray[np.float64]:
    """The time of each cell. Categories that are written as numbers are numbers, too."""
    _obs.check_obs_key(adata, "time_key", time_key)
    times = pd.to_numeric(adata.obs[time_key].astype(str), errors="coerce").to_numpy(np.float64)
    if not np.isfinite(times).all():
        first = int(np.argmin(np.isfinite(times)))
        msg = (
            f"obs[{time_key!r}] is not a finite number for {(~np.isfinite(times)).sum():,} cells (first: "
            f"{str(adata.obs_names[first])!r}, {str(adata.obs[time_key].iloc[first])!r}). Give numbers, or remove them."
        )
        raise ValueError(msg)
    return times


def _read_expression(adata: AnnData, gene: str, layer: str) -> NDArray[np.float64]:
    table = adata.obsm.get(layer)
    if isinstance(table, pd.DataFrame) and gene in table:
        return table[gene].to_numpy(np.float64)
    if layer not in adata.layers or gene not in adata.var_names:
        msg = (
            f"there is no {gene!r} in layers[{layer!r}] or obsm[{layer!r}]. Layers are {_adata.keys(adata.layers)}. "
            "Run sc_vaenb.tl.normalized(adata, genes=[...]) first."
        )
        raise KeyError(msg)
    return _adata.gene_values(adata, gene, layer).astype(np.float64)
