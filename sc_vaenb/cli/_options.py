"""Make options of the command line from the parameters of the public functions.

They are read from the source, because to import a public function takes seconds.
"""

from __future__ import annotations
import __future__

import argparse
import ast
import inspect
import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from textwrap import dedent
from typing import Any

NUMBERS: dict[str, Callable[[str], Any]] = {"int": int, "float": float, "str": str}
LISTS: dict[str, tuple[Callable[[str], Any], str, str]] = {  # type of the items, metavar, name in messages
    "Sequence[int]": (int, "N,N,...", "list of whole numbers"),
    "Sequence[str]": (str, "NAME,NAME,...", "list of names"),
}


GROUPS: dict[str, tuple[str, ...]] = {  # groups of the help, and parameters in each
    "input": ("layer", "mask_var", "n_top_genes", "size_factor", "allow_non_integer", "protein_key", "peaks_key"),
    "batches": (
        *("overlap", "time_key", "controls", "condition", "encode_batch", "align", "adversary", "mmd"),
        *("labels_key", "unlabeled", "covariate_keys", "condition_key"),
    ),
    "model": (),  # all others
    "output": (),
    "run": ("device", "rng", "checkpoint", "max_cells"),
}
Groups = Mapping[str, argparse._ArgumentGroup]


def without_import(name: str) -> Callable:
    """A function with the signature and docstring of a public function such as "tl.cvae", which is not imported."""
    part, function_name = name.split(".")
    folder = Path(__file__).parents[1] / part
    tree = ast.parse((folder / f"_{function_name}.py").read_text(encoding="utf-8"))
    (node,) = (node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == function_name)
    node.decorator_list, node.body = [], node.body[:1]
    scope: dict[str, Any] = {"__name__": f"sc_vaenb.{part}._{function_name}"}
    flags = __future__.annotations.compiler_flag  # so that annotations stay text
    exec(compile(ast.Module([node], []), f"<signature of {name}>", "exec", flags, True, 0), scope)
    function = scope[function_name]
    if "{parameters}" in function.__doc__:  # the part that `tl.vae` and `tl.cvae` share
        shared = ast.parse((folder / "_parameters.py").read_text(encoding="utf-8"))
        assignments = (statement for statement in shared.body if isinstance(statement, ast.Assign))
        (text,) = (ast.literal_eval(a.value) for a in assignments if ast.unparse(a.targets[0]) == "PARAMETERS")
        function.__doc__ = inspect.cleandoc(function.__doc__).replace("{parameters}", dedent("    " + text))
    return function


def add_options(groups: Groups, function: Callable, leave_out: Collection[str] = ()) -> None:
    """Add an option for each keyword-only parameter, with its name, type, choices, default and description."""
    texts = described(function)
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is not parameter.KEYWORD_ONLY or name in leave_out:
            continue
        parser = groups[next((group for group, names in GROUPS.items() if name in names), "model")]
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


def check_options(options: argparse.Namespace, function: Callable) -> None:
    """Check the values that the user passed as the function will do it."""
    explicit = explicit_options(options, function)
    if explicit:
        from .._checks import check_values

        check_values(function, explicit)


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
