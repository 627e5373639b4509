"""Plot embeddings side by side: a row for each embedding, a column for each colouring."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from .. import _adata
from .._checks import checked, seed_of
from ._colors import read_colourings
from ._figure import get_figure, show_or_return
from ._grid import Panel, draw_grid, grid_size
from ._text import as_label
from ._umap import two_dimensions

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.figure import Figure, SubFigure
    from numpy.typing import NDArray


@checked
def embedding(
    adata: AnnData,
    keys: str | Sequence[str] = "X_vae",
    *,
    color: str | Sequence[str] | None = None,
    layer: str | None = None,
    palette: str | Sequence[str] | Mapping[str, str] | None = None,
    cmap: str = "viridis",
    size: float | None = None,
    legend_loc: Literal["right margin", "on data", "none"] = "right margin",
    ncols: int = 4,
    rng: int | np.random.Generator | None = 0,
    fig: Figure | SubFigure | None = None,
    show: bool | None = None,
) -> NDArray[np.object_] | None:
    """Plot embeddings as rows against colourings as columns, all in two dimensions.

    An embedding with two columns is plotted directly. Of any other, such as ``obsm['X_vae']``, a UMAP is plotted
    (McInnes, Healy & Melville 2018): ``obsm['X_umap_vae']`` if it is there; else ``obsm['X_umap']``, if it was made by
    :func:`scanpy.tl.umap` from neighbours in this embedding; else a new one from 15 exact nearest neighbours, which
    is computed once in a session. ``adata`` does not change.

    Cells are drawn in random order, so that no batch hides another, those with missing values below all others. A label
    has the same colour in all panels and plots. The first 8 colours are distinct with all common kinds of
    colour vision, the first 20 with normal colour vision. A column with more than 60 categories has no legend. Numbers
    are mapped to colours between their first and 99th percentile.

    The parameters are in three groups:

    - what is drawn: `keys` to `layer`
    - how it looks: `palette` to `ncols`
    - how to run, and where it is drawn: `rng` to `show`

    Parameters
    ----------
    adata
        Annotated data with the embeddings.
    keys
        Keys of ``adata.obsm``, one a row.
    color
        Columns of ``adata.obs`` or names of genes, one a column of the grid. All cells look the same by default.
    layer
        Layer that the values of genes are read from; ``adata.X`` by default.
    palette
        Colours of categories: a list of colours, the name of a colormap of matplotlib, or a dict from labels to
        colours, where labels that it does not name keep theirs. By default the colours in
        ``adata.uns[f'{color}_colors']``, as scanpy writes them, or else those of sc_vaenb.
    cmap
        Colormap of numbers.
    size
        Area of a point in square points (1/72 inch squared); by default smaller the more cells there are.
    legend_loc
        Where the names of categories are: beside the panels, on the cells (in grey print, more than about five colours
        look alike), or nowhere.
    ncols
        How many colours are side by side; more go on below.
    rng
        Seed of the UMAP and of the drawing order.
    fig
        Figure or subfigure to draw into, laid out with constrained layout unless it has a layout engine already.
        A new figure by default.
    show
        Show the figure; by default as :attr:`scanpy.settings.autoshow` says.

    Returns
    -------
    The axes (embeddings x colours), or `None` if shown.

    Raises
    ------
    KeyError
        If a key, colour or layer does not exist.
    ValueError
        If an embedding holds a non-finite value, or `palette` or `cmap` holds no colours.

    See Also
    --------
    sc_vaenb.pl.compare : The methods of a comparison.

    References
    ----------
    .. [1] McInnes, Healy and Melville (2018), UMAP: uniform manifold approximation and projection, arXiv:1802.03426.
    """
    rng = seed_of(rng)
    keys = [keys] if isinstance(keys, str) else list(keys)
    colors = [color] if color is None or isinstance(color, str) else list(color)
    check_names(adata, keys, colors, layer)

    colourings = read_colourings(adata, colors, layer=layer, palette=palette, cmap=cmap)
    planes = [two_dimensions(adata, key, rng) for key in keys]
    ncols = min(ncols, len(colors))
    panels: list[list[Panel | None]] = []
    for first in range(0, len(colors), ncols):
        block = colourings[first : first + ncols]
        for name, plane in planes:
            row = [Panel(" · ".join(map(as_label, filter(None, [name, c.name]))), plane, c) for c in block]
            panels.append([*row, *[None] * (ncols - len(row))])
    figure = get_figure(fig, grid_size(len(panels), ncols))
    axes = draw_grid(figure, panels, fit=fig is None, size=size, rng=rng, legend_loc=legend_loc)
    blocks = axes.reshape(-1, len(keys), ncols)
    return show_or_return(np.concatenate(list(blocks), axis=1)[:, : len(colors)], show)


def check_names(adata: AnnData, keys: list[str], colors: Sequence[str | None], layer: str | None = None) -> None:
    """Refuse embeddings, colours and layers that are not there, and embeddings that cannot be drawn."""
    for argument, names in {"keys": keys, "color": colors}.items():
        if not names:
            raise ValueError(f"{argument} is empty: there is nothing to plot. Pass at least one name.")
    for key in keys:
        if key not in adata.obsm:
            raise KeyError(
                f"obsm has no {key!r}; found: {list(adata.obsm)}. "
                f"Run sc_vaenb.tl.cvae(adata, ..., key_added={key.removeprefix('X_')!r}) first, or pass one of these."
            )
        finite = np.isfinite(_adata.read_embedding(adata, key, finite=False, dtype=float)).all(axis=1)
        if not finite.all():
            cell = adata.obs_names[np.argmin(finite)]
            raise ValueError(
                f"obsm[{key!r}] holds non-finite values in {np.sum(~finite):,} of {adata.n_obs:,} cells "
                f"(the first: {cell!r}). Leave these cells out, or compute the embedding again."
            )
    check_colors(adata, colors, layer)


def check_colors(adata: AnnData, colors: Sequence[str | None], layer: str | None = None) -> None:
    """Refuse colours and layers that are not there."""
    for name in colors:
        if name is not None and name not in adata.obs and name not in adata.var_names:
            raise KeyError(
                f"color {name!r} is neither a column of obs nor one of the {adata.n_vars:,} genes in var_names; "
                f"obs has: {list(adata.obs)}."
            )
    if layer is not None and layer not in adata.layers:
        layer_names = [name for name in adata.layers if name is not None]  # anndata 0.13 lists X as None
        raise KeyError(f"layers has no {layer!r}; found: {layer_names}. Leave layer out to plot genes from X.")
