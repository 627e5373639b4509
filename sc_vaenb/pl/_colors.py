"""All colours of the figures: one palette, and the colours of cells by a column of obs or a gene."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING, NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, is_color_like, to_hex, to_rgba, to_rgba_array
from scanpy import logging

from .. import _obs

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

# One palette for any number of categories, so that a colour depends on the place of a label and on nothing else.
# 1 to 8: Okabe and Ito (2008), distinct with all common kinds of colour vision.
# 9 to 20: as far as possible from these, from each other, from white and from grey, seen with normal colour vision and,
# with half the weight, without red or green cones.
# 21 to 100: those of scanpy's largest palette that are neither pale nor black, the most different first.
PALETTE = [
    "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000",
    "#780078", "#4B2DB4", "#782D00", "#B4004B", "#695A78", "#9678E1", "#96D296", "#005A3C",
    "#4B78FF", "#5AE169", "#FF5A78", "#96784B",
    "#201625", "#FFAA92", "#00FECF", "#3A2465", "#9B9700", "#EEC3FF", "#B903AA", "#3B9700", "#809693", "#6B002C",
    "#7900D7", "#1CE6FF", "#372101", "#575329", "#72418F", "#D790FF", "#013349", "#BA0900", "#C8A1A1", "#456D75",
    "#00A6AA", "#1E6E00", "#A4E804", "#7B4F4B", "#BEC459", "#FAD09F", "#00489C", "#FF8A9A", "#6367A9", "#B05B6F",
    "#997D87", "#FF913F", "#0CBD66", "#324E72", "#A05837", "#FF34FF", "#FF90C9", "#04F757", "#922329", "#D157A0",
    "#4A3B53", "#00C2A0", "#1B4400", "#B77B68", "#FF2F80", "#0086ED", "#788D66", "#34362D", "#4FC601", "#A079BF",
    "#0089A3", "#99ADC0", "#7A4900", "#A77500", "#FF4A46", "#B79762", "#61615A", "#8FB0FF", "#5A0007", "#00846F",
    "#63FFAC", "#008941", "#404E55", "#7A87A1", "#A3C8C9", "#3B5DFF", "#5B4534", "#C0B9B2", "#BC23FF", "#6A3A4C",
    "#549E79", "#A30059", "#004D43", "#FFB500", "#938A81", "#CC0744", "#0AA6D8", "#A1C299", "#6F0062", "#B4A8BD",
]  # fmt: skip
BLUE, ORANGE, GREEN, PINK, SKY, VERMILION, YELLOW, BLACK = PALETTE[:8]
MISSING, PLAIN = "#D3D3D3", "#4D4D4D"


class Colouring(NamedTuple):
    """The colours of the cells, and the content of the legend or colour bar."""

    name: str  # empty if there is none
    rgba: NDArray[np.float64]  # cells x 4
    codes: NDArray[np.integer]  # cells: of the label, -1 if missing
    categories: dict[str, str]  # label of a cell -> colour
    scale: ScalarMappable | None = None
    extend: str = "neither"

    @property
    def missing(self) -> NDArray[np.bool_]:
        return self.codes < 0


def read_colourings(
    adata: AnnData,
    names: Sequence[str | None],
    *,
    layer: str | None = None,
    palette: str | Sequence[str] | Mapping[str, str] | None = None,
    cmap: str = "viridis",
) -> list[Colouring]:
    """The colours of the cells by columns of obs and genes. A label has the same colour in all of them.

    Colours that are asked for come first, then those stored in ``uns``, then the colour that the label has in another
    column, then the palette.
    """
    _check_colours(palette, cmap)
    values = {name: _values(adata, name, layer) for name in names if name is not None}
    labels = {
        name: [str(label) for label in column.cat.categories]
        for name, column in values.items()
        if isinstance(column.dtype, pd.CategoricalDtype)
    }
    fixed = {name: _stored(adata, name, texts) | _asked_for(palette, texts) for name, texts in labels.items()}
    colour_of: dict[str, str] = {}
    for colours in fixed.values():
        colour_of = colours | colour_of
    colourings = {}
    for name, column in values.items():
        if name not in labels:
            colourings[name] = _numbers(name, column.to_numpy(dtype=float, na_value=np.nan), cmap)
            continue
        colours = _complete(labels[name], colour_of | fixed[name])
        colour_of = colours | colour_of
        colourings[name] = _categories(name, column, [colours[label] for label in labels[name]])
    return [_plain(adata.n_obs) if name is None else colourings[name] for name in names]


def _check_colours(palette: str | Sequence[str] | Mapping[str, str] | None, cmap: str) -> None:
    for argument, value in {"cmap": cmap, "palette": palette}.items():
        if isinstance(value, str) and value not in mpl.colormaps:
            msg = f"{argument}={value!r} is no colormap of matplotlib. Choose one, such as 'viridis' or 'tab20'."
            raise ValueError(msg)
    if palette is None or isinstance(palette, str):
        return
    colours = list(palette.values()) if isinstance(palette, Mapping) else list(palette)
    wrong = [colour for colour in colours if not is_color_like(colour)]
    if wrong or not colours:
        msg = f"palette holds no colours: {wrong[:3]}. Give colours such as 'red' or '#0072B2'."
        raise ValueError(msg)


def _values(adata: AnnData, name: str, layer: str | None) -> pd.Series:
    """Numbers, or categories."""
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
        values = pd.Series(adata.obs_vector(name, layer=layer))
    is_number = pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)
    return values if is_number else values.astype("category")


def _asked_for(palette: str | Sequence[str] | Mapping[str, str] | None, labels: list[str]) -> dict[str, str]:
    if palette is None:
        return {}
    if isinstance(palette, Mapping):
        return {label: to_hex(palette[label]) for label in labels if label in palette}
    if isinstance(palette, str):
        cmap = mpl.colormaps[palette]
        steps = np.arange(len(labels)) % cmap.N if cmap.N < 256 else np.linspace(0, 1, len(labels))
        palette = list(cmap(steps))
    return dict(zip(labels, map(to_hex, cycle(palette)), strict=False))


def _stored(adata: AnnData, name: str, labels: list[str]) -> dict[str, str]:
    stored = adata.uns.get(f"{name}_colors")
    if stored is None:
        return {}
    if len(stored) < len(labels) or not all(map(is_color_like, stored)):
        n = len(labels)
        logging.warning(f"uns['{name}_colors'] does not hold a colour for each of the {n} categories: ignored.")
        return {}
    return dict(zip(labels, map(to_hex, stored), strict=False))


def _complete(labels: list[str], known: Mapping[str, str]) -> dict[str, str]:
    """A colour for each label: the known one, else that of its place in the palette, else one that is free."""
    colours = {label: known[label] for label in labels if label in known}
    used = set(known.values()) if colours else set()
    for place, label in enumerate(labels):
        if label not in colours:
            of_place = PALETTE[place % len(PALETTE)]
            colours[label] = next((colour for colour in (of_place, *PALETTE) if colour not in used), of_place)
            used.add(colours[label])
    return colours


def _categories(name: str, column: pd.Series, colours: list[str]) -> Colouring:
    codes = column.cat.codes.to_numpy()  # -1, the last colour, where missing
    labels = column.cat.categories
    used = np.unique(codes[codes >= 0])
    rgba = to_rgba_array([*colours, MISSING])
    return Colouring(name, rgba[codes], codes, {str(labels[code]): colours[code] for code in used})


def _numbers(name: str, values: NDArray[np.float64], cmap: str) -> Colouring:
    missing = ~np.isfinite(values)
    finite_values = values[~missing]
    scale, extend = None, "neither"
    rgba = np.tile(to_rgba(MISSING), (len(values), 1))
    if len(finite_values):
        low, high = np.quantile(finite_values, [0.01, 0.99])
        if low == high:  # for instance a gene that few cells express
            low, high = finite_values.min(), finite_values.max()
        scale = ScalarMappable(Normalize(low, high), cmap)
        rgba[~missing] = scale.to_rgba(finite_values)
        extend = {(0, 0): "neither", (1, 0): "min", (0, 1): "max", (1, 1): "both"}[
            int(finite_values.min() < low), int(finite_values.max() > high)
        ]
    return Colouring(name, rgba, -missing.astype(int), {}, scale, extend)


def _plain(n_cells: int) -> Colouring:
    return Colouring("", np.tile(to_rgba(PLAIN), (n_cells, 1)), np.zeros(n_cells, int), {})
