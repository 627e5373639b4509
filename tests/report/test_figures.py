"""A figure comes as an image within the page, whatever the user's settings, and leaves nothing behind."""

import base64

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest

from sc_vaenb.report import _figures
from sc_vaenb.report._figures import draw


def plot(n=3, show=None):
    ax = plt.figure(figsize=(4, 2)).add_subplot()
    ax.plot(np.arange(n), label="line")


def decoded(figure):
    kind, _, data = figure.uri.partition(";base64,")
    return kind, base64.b64decode(data)


def test_small_figures_are_drawn_by_lines_and_large_ones_by_pixels(monkeypatch):
    kind, data = decoded(draw(plot, alt="a", caption="c"))
    assert kind == "data:image/svg+xml"
    assert data.startswith(b"<?xml")
    monkeypatch.setattr(_figures, "LARGEST_SVG", len(data) - 1)
    for large in (draw(plot, alt="a", caption="c"), draw(plot, alt="a", caption="c", raster=True)):
        kind, data = decoded(large)
        assert kind == "data:image/png"
        assert data.startswith(b"\x89PNG")
        assert (large.width, large.height) == (4 * _figures.PIXELS_PER_INCH, 2 * _figures.PIXELS_PER_INCH)


def test_the_same_figure_gives_the_same_bytes():
    assert draw(plot, alt="a", caption="c") == draw(plot, alt="a", caption="c")


def test_the_users_style_and_figures_are_left_alone():
    plain = draw(plot, alt="a", caption="c")
    own = plt.figure()
    with plt.style.context("dark_background"):
        before = mpl.rcParams.copy()
        assert draw(plot, alt="a", caption="c") == plain
        assert mpl.rcParams == before
    assert plt.get_fignums() == [own.number]
    assert plt.gcf() is own


def test_what_cannot_be_drawn_is_said_and_leaves_no_figure(log):
    def fails(show=None):
        plt.figure()
        raise ValueError("103 categories <b>")

    assert draw(fails, alt="a", caption="c").problem == "103 categories <b>"
    assert not plt.get_fignums()
    assert "a figure is left out of the report: 103 categories <b>" in log.getvalue()


def test_other_errors_are_not_hidden():
    def fails(show=None):
        plt.figure()
        raise KeyError("gone")

    with pytest.raises(KeyError, match="gone"):
        draw(fails, alt="a", caption="c")
    assert not plt.get_fignums()
