"""Plot a tissue: a panel for each slice, with the cells in their places."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from .. import _adata, _obs
from .._checks import checked
from ._colors import read_colourings
from ._embedding import check_colors
from ._figure import get_figure, show_or_return
from ._grid import Panel, draw_grid, grid_size
from ._text import as_label

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.figure import Figure, SubFigure
    from numpy.typing import NDArray


@checked
def spatial_domains(
    adata: AnnData,
    color: str,
    *,
    slice_key: str | Sequence[str] | None = None,
    basis: str = "spatial",
    layer: str | None = None,
    palette: str | Sequence[str] | Mapping[str, str] | None = None,
    cmap: str = "viridis",
    size: float | None = None,
    ncols: int = 4,
    fig: Figure | SubFigure | None = None,
    show: bool | None = None,
) -> NDArray[np.object_] | None:
    """Plot domains, types or a gene in the tissue: a panel for each slice, with the cells in their places.

    Both axes have the same scale, and y points down, as in images. A label has the same colour in all panels and plots.
    Numbers are mapped to colours between their first and 99th percentile over all slices.

    The parameters are in three groups:

    - what is drawn: `color` to `layer`
    - how it looks: `palette` to `ncols`
    - where it is drawn: `fig` to `show`

    Parameters
    ----------
    adata
        Annotated data with coordinates of the cells.
    color
        Column of ``adata.obs``, such as the clusters of ``obsm['X_vae_spatial']``, or name of a gene.
    slice_key
        Column of ``adata.obs`` that names the slice of each cell, or several whose combinations are the slices.
        ``None``: all cells are in one slice.
    basis
        Key of the coordinates in ``adata.obsm``: cells x 2 (of more columns, the first two are drawn).
    layer
        Layer that the values of genes are read from; ``adata.X`` by default.
    palette
        Colours of categories, as in :func:`sc_vaenb.pl.embedding`.
    cmap
        Colormap of numbers.
    size
        Area of a point in square points (1/72 inch squared); by default smaller the more cells a slice has.
    ncols
        How many slices are side by side; more go on below.
    fig
        Figure or subfigure to draw into, laid out with constrained layout unless it has a layout engine already.
        A new figure by default.
    show
        Show the figure; by default as :attr:`scanpy.settings.autoshow` says.

    Returns
    -------
    The axes, one for each slice, or `None` if shown.

    Raises
    ------
    KeyError
        If the column, gene, layer or coordinates do not exist.
    ValueError
        If a coordinate is not a finite number, a cell has no slice, or `palette` or `cmap` holds no colours.

    See Also
    --------
    sc_vaenb.tl.spatial : The embedding to find domains in.
    sc_vaenb.pl.embedding : Cells in an embedding.
    """
    check_colors(adata, [color], layer)
    places = _adata.read_coordinates(adata, basis)
    (colouring,) = read_colourings(adata, [color], layer=layer, palette=palette, cmap=cmap)
    codes, names = np.zeros(adata.n_obs, np.int64), np.array([""])
    if slice_key is not None:
        codes, names = _obs.batch_labels(adata, slice_key, "slice_key")

    panels: list[Panel | None] = [
        Panel(as_label(name), places, colouring, np.flatnonzero(codes == code)) for code, name in enumerate(names)
    ]
    ncols = min(ncols, len(panels))
    panels += [None] * (-len(panels) % ncols)
    grid = [panels[first : first + ncols] for first in range(0, len(panels), ncols)]
    figure = get_figure(fig, grid_size(len(grid), ncols))
    axes = draw_grid(figure, grid, fit=fig is None, size=size).ravel()[: len(names)]
    for ax in axes:
        ax.invert_yaxis()
    return show_or_return(axes, show)
