"""Make options of the command line from the parameters of the public functions."""

from __future__ import annotations

import argparse
import ast
import inspect
import re
from collections.abc import Callable, Collection
from typing import Any

NUMBERS: dict[str, Callable[[str], Any]] = {"int": int, "float": float, "str": str}
LISTS: dict[str, tuple[Callable[[str], Any], str, str]] = {  # type of the items, metavar, name in messages
    "Sequence[int]": (int, "N,N,...", "list of whole numbers"),
    "Sequence[str]": (str, "NAME,NAME,...", "list of names"),
}


def add_options(parser: argparse.ArgumentParser, function: Callable, leave_out: Collection[str] = ()) -> None:
    """Add an option for each keyword-only parameter, with its name, type, choices, default and description."""
    texts = described(function)
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is not parameter.KEYWORD_ONLY or name in leave_out:
            continue
        names = ["--" + name.replace("_", "-"), *(["--recon"] if name == "likelihood" else [])]
        # An option that the user did not pass is not set, so the function uses its default.
        help_text = _help(texts.get(name, ""), parameter.default)
        settings: dict[str, Any] = {"dest": name, "default": argparse.SUPPRESS, "help": help_text}
        annotation = str(parameter.annotation)
        if annotation == "bool":
            parser.add_argument(*names, action=argparse.BooleanOptionalAction, **settings)
        elif annotation.startswith("Literal"):
            choices = ast.literal_eval(annotation.removeprefix("Literal"))
            parser.add_argument(*names, choices=choices, **settings)
        else:
            main_type = annotation.split(" |")[0]
            metavar = LISTS[main_type][1] if main_type in LISTS else main_type.upper()
            parser.add_argument(*names, type=_reader(annotation), metavar=metavar, **settings)


def explicit_options(options: argparse.Namespace, function: Callable) -> dict[str, Any]:
    """The options that the user passed and that are keyword-only parameters of the function."""
    parameters = inspect.signature(function).parameters.values()
    names = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    return {name: getattr(options, name) for name in names if hasattr(options, name)}


def described(function: Callable) -> dict[str, str]:
    """The description of each parameter in a docstring in NumPy style."""
    doc = inspect.getdoc(function) or ""  # python -OO removes docstrings
    section = re.search(r"^Parameters\n-+\n(.*?)(?=^\w+\n-+\n|\Z)", doc, re.MULTILINE | re.DOTALL)
    texts: dict[str, str] = {}
    for entry in re.split(r"\n(?=\S)", section[1] if section else ""):
        names, _, text = entry.partition("\n")
        texts |= dict.fromkeys(re.split(r",\s*", names), " ".join(text.split()))
    return texts


def _help(text: str, default: object) -> str:
    """The first sentence as plain text, and the default; for None, what it means."""
    plain = re.sub(r":\w+:`~?([^`]*)`", r"\1", text).replace("`", "")
    first, *other_sentences = re.split(r"(?<=[^.]\.) (?=[A-Z])", plain)
    default_text = ",".join(map(str, default)) if isinstance(default, tuple) else str(default)
    if default is None:
        default_text = next(
            (
                sentence.removeprefix("None: ").rstrip(".")
                for sentence in other_sentences
                if sentence.startswith("None: ")
            ),
            "none",
        )
    return f"{first} Default: {default_text}.".replace("%", "%%")


def _reader(annotation: str) -> Callable[[str], Any]:
    """A function that turns the text of an option into a value of the annotated type."""

    main_type = annotation.split(" |")[0]

    def read(text: str) -> Any:
        if text.lower() == "none" and "None" in annotation:
            return None
        if main_type in LISTS:
            return tuple(LISTS[main_type][0](part) for part in text.split(",") if part)
        return NUMBERS[main_type](text)

    read.__name__ = LISTS[main_type][2] if main_type in LISTS else main_type  # argparse shows it in errors
    return read
