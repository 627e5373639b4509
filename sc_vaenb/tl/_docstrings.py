"""Docstrings that share parts: of `tl.vae` and `tl.cvae`, of `tl.normalized` and `tl.corrected`."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Callable, Mapping


def fill(function: Callable, parts: Mapping[str, str]) -> Callable:
    """Replace each `{name}` in a docstring by the shared text, and put its parameters in the order of the signature.

    The indentation is removed first: Python 3.13 removes it too, older versions do not.
    """
    if not function.__doc__:  # python -OO has none
        return function
    doc = inspect.cleandoc(function.__doc__)
    for name, text in parts.items():
        doc = doc.replace(f"{{{name}}}", textwrap.dedent("    " + text))
    before, title, after = doc.partition("Parameters\n----------\n")
    section, end, rest = after.partition("\n\nReturns\n-------\n")
    order = list(inspect.signature(function).parameters)
    entries = re.split(r"\n(?=\S)", section)
    entries.sort(key=lambda entry: order.index(re.split(r"[,\n]", entry)[0]))
    function.__doc__ = before + title + "\n".join(entries) + end + rest
    return function
