"""The plots of `pl` as images inside a page."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
from scanpy import logging as logg

LARGEST_SVG = 200_000  # bytes, above which an image of pixels is smaller and shows as much
DPI = 144
SHOWN = 78  # pixels of the page per inch of a figure


@dataclass(frozen=True)
class Figure:
    """An image as a data URI with its size on the page, or why there is none."""

    alt: str
    caption: str
    uri: str = ""
    width: int = 0
    height: int = 0
    problem: str = ""


def draw(plot: Callable[..., Any], *args: Any, alt: str, caption: str, raster: bool = False, **kwargs: Any) -> Figure:
    """Draw with a function of `pl`, in matplotlib's own style whatever the user's is, and leave no figure open."""
    with plt.style.context("default", after_reset=True), mpl.rc_context({"svg.hashsalt": "sc_vaenb"}):
        before = set(plt.get_fignums())
        try:
            plot(*args, show=False, **kwargs)
            figure = plt.gcf()
            kind, data = "png", b""
            if not raster:
                kind, data = "svg+xml", _saved(figure, "svg")
            if raster or len(data) > LARGEST_SVG:
                kind, data = "png", _saved(figure, "png")
            width, height = (round(SHOWN * inches) for inches in figure.get_size_inches())
        except ValueError as error:  # these data cannot be drawn, as with more categories than there are colours
            logg.warning(f"a figure is left out of the report: {error}")
            return Figure(alt, caption, problem=str(error))
        finally:
            for number in set(plt.get_fignums()) - before:
                plt.close(number)
    uri = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    return Figure(alt, caption, uri, width, height)


def _saved(figure: Any, kind: str) -> bytes:
    """As bytes that depend on nothing but the figure."""
    buffer = io.BytesIO()
    metadata = {"Date": None, "Creator": None} if kind == "svg" else {"Software": None}
    figure.savefig(buffer, format=kind, dpi=DPI, metadata=metadata)
    return buffer.getvalue()
