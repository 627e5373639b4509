"""Options made from signatures: what is typed is what the function gets."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Sequence
from typing import Literal

import pytest

import sc_vaenb
from sc_vaenb.cli._options import GROUPS, add_options, described, explicit_options, without_import

PUBLIC = ("pp.prepare", "tl.vae", "tl.cvae", "tl.compare", "tl.score", "datasets.simulate")


def function(
    adata,
    *,
    kind: Literal["a", "b"] = "a",
    n: int = 3,
    rate: float | None = None,
    hidden: Sequence[int] = (128,),
    keys: Sequence[str] | None = None,
    layer: str | None = "counts",
    align: bool = True,
    copy: bool = False,
) -> None:
    """Do it.

    Parameters
    ----------
    adata
        Cells.
    kind
        What kind, 5 % of all. There is more to say.
    n, rate
        Numbers. `None`: found in :func:`somewhere`.
    hidden
        Widths.
    keys
        Columns.

    Returns
    -------
    Nothing
    """


@pytest.fixture
def parser():
    parser = argparse.ArgumentParser()
    groups = {name: parser.add_argument_group(name) for name in GROUPS}
    add_options(groups, function, leave_out=["copy"])
    return parser


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("", {}),
        ("--kind b --n 4", {"kind": "b", "n": 4}),
        ("--rate 0.5", {"rate": 0.5}),
        ("--rate none --layer None", {"rate": None, "layer": None}),
        ("--hidden 256,128", {"hidden": (256, 128)}),
        ("--hidden=", {"hidden": ()}),
        ("--keys kit,day", {"keys": ("kit", "day")}),
        ("--keys none", {"keys": None}),
        ("--no-align", {"align": False}),
        ("--layer raw", {"layer": "raw"}),
    ],
)
def test_what_is_typed_is_what_the_function_gets(parser, typed, expected):
    assert explicit_options(parser.parse_args(typed.split()), function) == expected


@pytest.mark.parametrize(
    ("typed", "text"),
    [
        ("--n 1.5", "invalid int value: '1.5'"),
        ("--n none", "invalid int value: 'none'"),
        ("--hidden wide", "invalid list of whole numbers value"),
        ("--kind c", "invalid choice: 'c'"),
        ("--copy", "unrecognized arguments: --copy"),
    ],
)
def test_what_cannot_be_is_not_understood(parser, capsys, typed, text):
    with pytest.raises(SystemExit):
        parser.parse_args(typed.split())
    assert text in capsys.readouterr().err


def test_help_is_the_docstring(parser):
    text = " ".join(parser.format_help().split())
    assert "--kind {a,b} What kind, 5 % of all. Default: a." in text
    assert "--rate FLOAT Numbers. Default: found in somewhere." in text
    assert "--hidden N,N,... Widths. Default: 128." in text
    assert "--keys NAME,NAME,... Columns. Default: none." in text
    assert described(function)["n"] == "Numbers. `None`: found in :func:`somewhere`."


@pytest.mark.parametrize("name", PUBLIC)
def test_the_source_tells_what_an_import_would(name):
    part, function_name = name.split(".")
    imported, found = getattr(getattr(sc_vaenb, part), function_name), without_import(name)
    assert inspect.signature(found) == inspect.signature(imported)
    assert described(found) == described(imported)
    assert set(described(found)) == set(inspect.signature(imported).parameters)


@pytest.mark.parametrize("name", GROUPS)
def test_groups_name_parameters_that_exist(name):
    assert set(GROUPS[name]) <= {parameter for text in PUBLIC for parameter in described(without_import(text))}
