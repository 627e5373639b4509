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

LARGEST_SVG = 200_000  # bytes; above this a PNG is smaller and looks as good
DPI = 144
PIXELS_PER_INCH = 78  # on the page, of a figure


@dataclass(frozen=True)
class Figure:
    """An image as a data URI with its size on the page, or the problem if there is no image."""

    alt: str
    caption: str
    uri: str = ""
    width: int = 0
    height: int = 0
    problem: str = ""


def draw(plot: Callable[..., Any], *args: Any, alt: str, caption: str, raster: bool = False, **kwargs: Any) -> Figure:
    """Draw with a function of `pl` in matplotlib's default style, and close the figure."""
    with plt.style.context("default", after_reset=True), mpl.rc_context({"svg.hashsalt": "sc_vaenb"}):
        open_before = set(plt.get_fignums())
        try:
            plot(*args, show=False, **kwargs)
            figure = plt.gcf()
            kind, data = "png", b""
            if not raster:
                kind, data = "svg+xml", _save_to_bytes(figure, "svg")
            if raster or len(data) > LARGEST_SVG:
                kind, data = "png", _save_to_bytes(figure, "png")
            width, height = (round(PIXELS_PER_INCH * inches) for inches in figure.get_size_inches())
        except ValueError as error:  # these data cannot be drawn, for instance because there are too many categories
            logg.warning(f"a figure is left out of the report: {error}")
            return Figure(alt, caption, problem=str(error))
        finally:
            for number in set(plt.get_fignums()) - open_before:
                plt.close(number)
    uri = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    return Figure(alt, caption, uri, width, height)


def _save_to_bytes(figure: Any, kind: str) -> bytes:
    """The figure as bytes without a date, so that equal figures give equal bytes."""
    buffer = io.BytesIO()
    metadata = {"Date": None, "Creator": None} if kind == "svg" else {"Software": None}
    figure.savefig(buffer, format=kind, dpi=DPI, metadata=metadata)
    return buffer.getvalue()
