"""All colours of the figures: one palette, and the colours of cells by a column of obs or a gene."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING, NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, is_color_like, to_hex, to_rgb, to_rgba, to_rgba_array
from scanpy import logging

from .. import _adata, _obs

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

# One palette for any number of categories, so that a colour depends on the place of a label and on nothing else.
# 1 to 8: Okabe and Ito (2008), distinct with all common kinds of colour vision.
# 9 to 20: as far as possible from these, from each other, from white and from grey, seen with normal colour vision and,
# with half the weight, without red or green cones.
# 21 to 100: those of scanpy's largest palette that are neither pale nor black, the most different first.
PALETTE = [
    "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442", "#000000",
    "#780078", "#4b2db4", "#782d00", "#b4004b", "#695a78", "#9678e1", "#96d296", "#005a3c",
    "#4b78ff", "#5ae169", "#ff5a78", "#96784b",
    "#201625", "#ffaa92", "#00fecf", "#3a2465", "#9b9700", "#eec3ff", "#b903aa", "#3b9700", "#809693", "#6b002c",
    "#7900d7", "#1ce6ff", "#372101", "#575329", "#72418f", "#d790ff", "#013349", "#ba0900", "#c8a1a1", "#456d75",
    "#00a6aa", "#1e6e00", "#a4e804", "#7b4f4b", "#bec459", "#fad09f", "#00489c", "#ff8a9a", "#6367a9", "#b05b6f",
    "#997d87", "#ff913f", "#0cbd66", "#324e72", "#a05837", "#ff34ff", "#ff90c9", "#04f757", "#922329", "#d157a0",
    "#4a3b53", "#00c2a0", "#1b4400", "#b77b68", "#ff2f80", "#0086ed", "#788d66", "#34362d", "#4fc601", "#a079bf",
    "#0089a3", "#99adc0", "#7a4900", "#a77500", "#ff4a46", "#b79762", "#61615a", "#8fb0ff", "#5a0007", "#00846f",
    "#63ffac", "#008941", "#404e55", "#7a87a1", "#a3c8c9", "#3b5dff", "#5b4534", "#c0b9b2", "#bc23ff", "#6a3a4c",
    "#549e79", "#a30059", "#004d43", "#ffb500", "#938a81", "#cc0744", "#0aa6d8", "#a1c299", "#6f0062", "#b4a8bd",
]  # fmt: skip
BLUE, ORANGE, GREEN, PINK, SKY, VERMILION, YELLOW, BLACK = PALETTE[:8]
MISSING = "#D3D3D3"


def ink(strength: float = 1.0) -> str:
    """A grey between the background (0) and the text (1) of matplotlib's style, so that it is seen on dark ones too."""
    rgba = np.array([to_rgba(mpl.rcParams[name]) for name in ("text.color", "figure.facecolor")])
    text, background = 1 - rgba[:, 3:] * (1 - rgba[:, :3])  # what is transparent lies on white
    return to_hex(tuple(strength * text + (1 - strength) * background))


def for_text(colour: str) -> str:
    """A colour of the palette, closer to that of text, so that letters in it can be read."""
    return to_hex(tuple(0.6 * np.array(to_rgb(colour)) + 0.4 * np.array(to_rgb(ink()))))


def palette_of_style() -> list[str]:
    """The palette, with the colour of text in the place of black, which dark styles would hide."""
    return [ink() if colour == BLACK else colour for colour in PALETTE]


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
        values = pd.Series(_adata.gene_values(adata, name, layer))
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
    palette = palette_of_style()
    for place, label in enumerate(labels):
        if label not in colours:
            of_place = palette[place % len(palette)]
            colours[label] = next((colour for colour in (of_place, *palette) if colour not in used), of_place)
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
    return Colouring("", np.tile(to_rgba(ink(0.7)), (n_cells, 1)), np.zeros(n_cells, int), {})
