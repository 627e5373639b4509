"""Options of the command line made from the parameters of the public functions: one source of truth."""

from __future__ import annotations

import argparse
import ast
import inspect
import re
from collections.abc import Callable, Collection
from typing import Any

NUMBERS: dict[str, Callable[[str], Any]] = {"int": int, "float": float, "str": str}
LISTS: dict[str, tuple[Callable[[str], Any], str, str]] = {  # kind of the parts, as shown, in messages
    "Sequence[int]": (int, "N,N,...", "list of whole numbers"),
    "Sequence[str]": (str, "NAME,NAME,...", "list of names"),
}


def add_options(parser: argparse.ArgumentParser, function: Callable, leave_out: Collection[str] = ()) -> None:
    """One option for each keyword-only parameter: its name, type, choices, default and meaning are the function's."""
    texts = described(function)
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is not parameter.KEYWORD_ONLY or name in leave_out:
            continue
        names = ["--" + name.replace("_", "-"), *(["--recon"] if name == "likelihood" else [])]
        # An option that is not given is not there, and the function's own default holds.
        about = _help(texts.get(name, ""), parameter.default)
        common: dict[str, Any] = {"dest": name, "default": argparse.SUPPRESS, "help": about}
        kind = str(parameter.annotation)
        if kind == "bool":
            parser.add_argument(*names, action=argparse.BooleanOptionalAction, **common)
        elif kind.startswith("Literal"):
            choices = ast.literal_eval(kind.removeprefix("Literal"))
            parser.add_argument(*names, choices=choices, **common)
        else:
            first = kind.split(" |")[0]
            shown = LISTS[first][1] if first in LISTS else first.upper()
            parser.add_argument(*names, type=_reader(kind), metavar=shown, **common)


def given(options: argparse.Namespace, function: Callable) -> dict[str, Any]:
    """Of the options that were given, those that are keyword-only parameters of the function."""
    parameters = inspect.signature(function).parameters.values()
    names = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    return {name: getattr(options, name) for name in names if hasattr(options, name)}


def described(function: Callable) -> dict[str, str]:
    """The text on each parameter in a docstring in numpy's style."""
    doc = inspect.getdoc(function) or ""  # python -OO has none
    section = re.search(r"^Parameters\n-+\n(.*?)(?=^\w+\n-+\n|\Z)", doc, re.MULTILINE | re.DOTALL)
    texts: dict[str, str] = {}
    for entry in re.split(r"\n(?=\S)", section[1] if section else ""):
        names, _, text = entry.partition("\n")
        texts |= dict.fromkeys(re.split(r",\s*", names), " ".join(text.split()))
    return texts


def _help(text: str, default: object) -> str:
    """The first sentence, as plain text, and the default, with what a default of None means."""
    plain = re.sub(r":\w+:`~?([^`]*)`", r"\1", text).replace("`", "")
    first, *more = re.split(r"(?<=[^.]\.) (?=[A-Z])", plain)
    shown = ",".join(map(str, default)) if isinstance(default, tuple) else str(default)
    if default is None:
        shown = next((s.removeprefix("None: ").rstrip(".") for s in more if s.startswith("None: ")), "none")
    return f"{first} Default: {shown}.".replace("%", "%%")


def _reader(kind: str) -> Callable[[str], Any]:
    """From the text of an option to the value of a parameter that is annotated so."""

    first = kind.split(" |")[0]

    def read(text: str) -> Any:
        if text.lower() == "none" and "None" in kind:
            return None
        if first in LISTS:
            return tuple(LISTS[first][0](part) for part in text.split(",") if part)
        return NUMBERS[first](text)

    read.__name__ = LISTS[first][2] if first in LISTS else first  # for messages
    return read
