"""Prepare names from the data for matplotlib: they are not read as mathematics, and long names are cut."""

from __future__ import annotations

import re
from collections.abc import Iterable

MAX_LETTERS = 60  # letters of a name
CONTROLS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")  # not allowed in XML and HTML


def printable(text: object) -> str:
    """Text without control characters (except tabs and line ends), which SVG and HTML do not allow."""
    return CONTROLS.sub("\N{REPLACEMENT CHARACTER}", str(text))


def plain(text: object) -> str:
    """Text for a figure, with escaped dollar signs, so that matplotlib does not read them as mathematics."""
    return printable(text).replace("\t", " ").replace("\r", " ").replace("$", r"\$")


def as_label(name: object) -> str:
    """A name for a tick, a legend or a title: on one line, and cut if it is very long."""
    text = " ".join(str(name).splitlines())
    text = text if len(text) <= MAX_LETTERS else f"{text[: MAX_LETTERS - 1]}…"
    # matplotlib omits names from legends if they begin with an underscore; a zero-width character prevents this
    return plain(f"\N{WORD JOINER}{text}" if text.startswith("_") else text)


def two_decimals(number: float) -> str:
    """A number for a table: with a minus sign, and without one if it is 0.00."""
    return f"{number:.2f}".replace("-0.00", "0.00").replace("-", "\N{MINUS SIGN}")


def as_labels(names: Iterable[object]) -> list[str]:
    """A list of names for ticks."""
    return [as_label(name) for name in names]
