"""Names from the data as matplotlib draws them: never as mathematics, never so long that nothing else has room."""

from __future__ import annotations

import re
from collections.abc import Iterable

LONGEST = 60  # letters of a name
CONTROLS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")  # what XML and HTML forbid


def printable(text: object) -> str:
    """Text without control characters (but tabs and line ends), which no SVG and no HTML may hold."""
    return CONTROLS.sub("\N{REPLACEMENT CHARACTER}", str(text))


def plain(text: object) -> str:
    """Text for a figure, in which a dollar sign begins no mathematics."""
    return printable(text).replace("\t", " ").replace("\r", " ").replace("$", r"\$")


def as_label(name: object) -> str:
    """A name for a tick, a legend or a title: on one line, and cut where it is very long."""
    text = " ".join(str(name).splitlines())
    text = text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
    # matplotlib leaves what begins with an underscore out of legends; a space of no width keeps it in
    return plain(f"\N{WORD JOINER}{text}" if text.startswith("_") else text)


def as_labels(names: Iterable[object]) -> list[str]:
    """Names for ticks, one after the other."""
    return [as_label(name) for name in names]
