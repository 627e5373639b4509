"""Plot embeddings side by side: a row for each embedding, a column for each colouring."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import scanpy as sc
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, is_color_like, to_rgba, to_rgba_array
from matplotlib.lines import Line2D
from matplotlib.transforms import BboxTransformTo, ScaledTranslation
from scanpy import logging

from .. import _adata, _obs
from .._checks import checked, seed_of
from .._scanpy import override, scanpy_1
from ._figure import get_figure, show_or_return
from ._palettes import PALETTES
from ._text import as_label

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.figure import Figure, SubFigure
    from numpy.typing import NDArray

MISSING, PLAIN = "#D3D3D3", "#4D4D4D"
PANEL_WIDTH, PANEL_HEIGHT = 3.2, 3.3  # inches


class Colouring(NamedTuple):
    """The colours of the cells, and the content of the legend or colour bar."""

    name: str  # empty if there is none
    rgba: NDArray[np.float64]  # cells x 4
    missing: NDArray[np.bool_]  # cells
    categories: dict[str, Any]  # label -> colour
    scale: ScalarMappable | None
    extend: str


@checked
def embedding(
    adata: AnnData,
    keys: str | Sequence[str] = "X_vae",
    *,
    color: str | Sequence[str] | None = None,
    layer: str | None = None,
    size: float | None = None,
    rng: int | np.random.Generator | None = 0,
    fig: Figure | SubFigure | None = None,
    show: bool | None = None,
) -> NDArray[np.object_] | None:
    """Plot embeddings as rows against colourings as columns, all in two dimensions.

    An embedding with two columns is plotted directly. For any other, such as ``obsm['X_vae']``, its stored UMAP
    (``obsm['X_umap_vae']``) is plotted. Without one, a UMAP is computed for this plot from 15 exact nearest neighbours
    (McInnes, Healy & Melville 2018); ``adata`` does not change. Cells are drawn in random order, so
    that no batch hides another, those with missing values below all others. Categories have the colours in
    ``adata.uns[f'{color}_colors']``, or else colours that are distinct with all common kinds of colour vision (up to
    twelve categories); numbers are mapped to viridis between their first and 99th percentile.

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
    size
        Area of a point in square points (1/72 inch squared); by default smaller the more cells there are.
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
        If an embedding holds a non-finite value, or a colour has more categories than there are distinct colours.

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
    _validate(adata, keys, colors, layer)

    colourings = [_colouring(adata, name, layer) for name in colors]
    planes = [_two_dimensions(adata, key, rng) for key in keys]

    n_rows, n_columns = len(keys), len(colors)
    figure = get_figure(fig, (n_columns * PANEL_WIDTH, n_rows * PANEL_HEIGHT))
    # beside each column of panels is a strip of almost no width, which anchors the legend
    grid = figure.add_gridspec(n_rows, 2 * n_columns, width_ratios=[1, 1e-3] * n_columns)
    strips: list[Axes] = []
    axes = np.empty((n_rows, n_columns), dtype=object)
    area = np.clip(24_000 / adata.n_obs, 0.4, 16) if size is None else size
    shuffled = np.random.default_rng(rng).permutation(adata.n_obs)
    for j, colouring in enumerate(colourings):
        order = shuffled[np.argsort(~colouring.missing[shuffled], kind="stable")]
        for i, (name, xy) in enumerate(planes):
            axes[i, j] = ax = figure.add_subplot(grid[i, 2 * j])
            ax.scatter(xy[order, 0], xy[order, 1], c=colouring.rgba[order], s=area, linewidths=0, rasterized=True)
            ax.set_title(" · ".join(map(as_label, filter(None, [name, colouring.name]))), fontsize="medium")
            ax.set(xticks=[], yticks=[])
            ax.set_aspect("equal", adjustable="datalim")
            ax.spines[:].set_color(MISSING)
        strips.append(figure.add_subplot(grid[:, 2 * j + 1]))
        _draw_legend(strips[-1], colouring, n_rows)
    if fig is None:  # make the figure wide enough for the legends
        legends = sum(box.width for box in map(Axes.get_tightbbox, strips) if box is not None) / figure.dpi
        figure.figure.set_figwidth(n_columns * PANEL_WIDTH + legends)
    return show_or_return(axes, show)


def _validate(adata: AnnData, keys: list[str], colors: Sequence[str | None], layer: str | None) -> None:
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
    for name in colors:
        if name is not None and name not in adata.obs and name not in adata.var_names:
            raise KeyError(
                f"color {name!r} is neither a column of obs nor one of the {adata.n_vars:,} genes in var_names; "
                f"obs has: {list(adata.obs)}."
            )
    if layer is not None and layer not in adata.layers:
        layer_names = [name for name in adata.layers if name is not None]  # anndata 0.13 lists X as None
        raise KeyError(f"layers has no {layer!r}; found: {layer_names}. Leave layer out to plot genes from X.")


def _colouring(adata: AnnData, name: str | None, layer: str | None) -> Colouring:
    if name is None:
        n_cells = adata.n_obs
        return Colouring("", np.tile(to_rgba(PLAIN), (n_cells, 1)), np.zeros(n_cells, bool), {}, None, "neither")
    if name in adata.obs:
        _obs.check_obs_key(adata, "color", name)
        values = adata.obs[name]
        if not pd.api.types.is_numeric_dtype(values):
            _obs.read_categories(adata, "color", name)  # raises an error if the values cannot be names
    else:
        if (adata.var_names == name).sum() > 1:
            raise ValueError(f"var_names holds {name!r} more than once. Call adata.var_names_make_unique() first.")
        if layer is None and adata.X is None:
            raise ValueError("adata.X is empty: name the layer with the values of genes.")
        matrix = adata.X if layer is None else adata.layers[layer]
        column = matrix[:, [adata.var_names.get_loc(name)]]
        values = pd.Series(np.ravel(column.toarray() if hasattr(column, "toarray") else column))
    if pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values):
        return _numbers(name, values.to_numpy(dtype=float, na_value=np.nan))
    return _categories(name, values.astype("category"), adata.uns.get(f"{name}_colors"))


def _numbers(name: str, values: NDArray[np.float64]) -> Colouring:
    missing = ~np.isfinite(values)
    finite_values = values[~missing]
    scale, extend = None, "neither"
    rgba = np.tile(to_rgba(MISSING), (len(values), 1))
    if len(finite_values):
        low, high = np.quantile(finite_values, [0.01, 0.99])
        if low == high:  # for instance a gene that few cells express
            low, high = finite_values.min(), finite_values.max()
        scale = ScalarMappable(Normalize(low, high), "viridis")
        rgba[~missing] = scale.to_rgba(finite_values)
        extend = {(0, 0): "neither", (1, 0): "min", (0, 1): "max", (1, 1): "both"}[
            int(finite_values.min() < low), int(finite_values.max() > high)
        ]
    return Colouring(name, rgba, missing, {}, scale, extend)


def _categories(name: str, values: pd.Series, stored: Sequence[str] | None) -> Colouring:
    """The colours stored in ``uns``, in the order of the categories; else the smallest palette with enough colours."""
    labels, n = values.cat.categories, len(values.cat.categories)
    if n > len(PALETTES[-1]):
        raise ValueError(
            f"color {name!r} has {n:,} categories; at most {len(PALETTES[-1])} can be told apart. "
            f"Pass a coarser column, or make it numeric."
        )
    palette = next(p for p in PALETTES if len(p) >= n)
    if stored is not None:
        if len(stored) >= n and all(map(is_color_like, stored)):
            palette = list(stored)
        else:
            logging.warning(f"uns['{name}_colors'] does not hold a colour for each of the {n} categories: ignored.")
    rgba = to_rgba_array([*palette[:n], MISSING])
    codes = values.cat.codes.to_numpy()  # -1, the last colour, where missing
    used = np.unique(codes[codes >= 0])
    return Colouring(name, rgba[codes], codes < 0, {str(labels[c]): palette[c] for c in used}, None, "neither")


def _two_dimensions(adata: AnnData, key: str, rng: int) -> tuple[str, NDArray[np.float64]]:
    """The name of a two-dimensional embedding, and its coordinates."""
    coordinates = _adata.read_embedding(adata, key, dtype=float)
    if coordinates.shape[1] == 2:
        return key, coordinates
    umap_key = f"X_umap_{key.removeprefix('X_')}"
    if umap_key in adata.obsm and (plane := _adata.read_embedding(adata, umap_key, dtype=float)).shape[1] >= 2:
        return f"UMAP of {key}", plane[:, :2]
    start = logging.info(f"computing a UMAP of obsm[{key!r}], for this plot alone")
    umap = _umap(coordinates, rng)
    logging.info(
        "    finished",
        time=start,
        deep=f"to keep one: sc.pp.neighbors(adata, use_rep={key!r}, key_added='neighbors_{key}'); "
        f"sc.tl.umap(adata, neighbors_key='neighbors_{key}', key_added={umap_key!r})",
    )
    return f"UMAP of {key}", umap


def _umap(coordinates: NDArray[np.float64], rng: int) -> NDArray[np.float64]:
    """UMAP of exact neighbours (scanpy's approximate ones fail with pynndescent 0.7.0), initialised with the PCA."""
    n_cells, n_dims = coordinates.shape
    if n_cells < 4:
        raise ValueError(f"a UMAP needs at least 4 cells; found {n_cells}. Pass an embedding with two columns.")
    centred = coordinates - coordinates.mean(axis=0)
    init = np.random.default_rng(rng).normal(scale=1e-4, size=(n_cells, 2))
    init[:, : min(n_dims, 2)] += centred @ np.linalg.eigh(centred.T @ centred)[1][:, : -min(n_dims, 2) - 1 : -1]
    with scanpy_1(), warnings.catch_warnings(), override(verbosity="error"):
        warnings.simplefilter("ignore")
        umap_adata = AnnData(coordinates.astype("f4"))
        sc.pp.neighbors(umap_adata, min(15, n_cells - 1), use_rep="X", transformer="sklearn", random_state=rng)
        sc.tl.umap(umap_adata, init_pos=init, random_state=rng, key_added="umap")
    return np.asarray(umap_adata.obsm["umap"], dtype=float)


def _draw_legend(strip: Axes, colouring: Colouring, n_rows: int) -> None:
    """Draw the legend or colour bar of a column of panels, anchored at ``strip``, with an entry for missing values."""
    strip.set_axis_off()
    figure = strip.figure
    # from the top of the strip
    inch_transform = figure.dpi_scale_trans + ScaledTranslation(0, 1, BboxTransformTo(strip.bbox))
    legend_top = 0.0
    if colouring.scale is not None:
        bar = figure.colorbar(
            colouring.scale,
            cax=strip.inset_axes((0, -1.65, 0.12, 1.3), transform=inch_transform),
            extend=colouring.extend,
        )
        bar.ax.set_title(as_label(colouring.name), loc="left", fontsize="small")
        bar.ax.tick_params(labelsize="small")
        bar.outline.set_visible(False)
        legend_top = -1.8
    entries = colouring.categories | ({"missing": MISSING} if colouring.missing.any() else {})
    if entries:
        strip.legend(
            handles=[
                Line2D([], [], color=colour, marker="o", markersize=5, linestyle="", label=as_label(name))
                for name, colour in entries.items()
            ],
            title=as_label(colouring.name) if colouring.scale is None else None,
            ncols=-(-len(entries) // (14 * n_rows)),
            loc="upper left",
            bbox_to_anchor=(0, legend_top),
            bbox_transform=inch_transform,
            alignment="left",
            frameon=False,
            fontsize="small",
            title_fontsize="small",
            borderaxespad=0,
            borderpad=0,
            handlelength=1,
            handletextpad=0.4,
            columnspacing=1.0,
        )
