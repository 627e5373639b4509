"""Arguments are checked by their annotations and one table: what passes, in which type, and what the refusals say."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import pytest

from sc_vaenb import _checks, _constraints
from sc_vaenb._checks import checked
from sc_vaenb._constraints import ArgumentError

PUBLIC = [
    getattr(import_module(f"sc_vaenb.{part}"), name)
    for part in ("pp", "tl", "pl", "report", "datasets", "metrics")
    for name in import_module(f"sc_vaenb.{part}").__all__
]
PUBLIC = [function for function in PUBLIC if inspect.isfunction(function)]


@pytest.fixture
def call(monkeypatch):
    """Call a function of one argument with this name, annotation and bounds."""

    def call(annotation, value, name="x", bounds=None):
        def function(x):
            return x

        function.__module__ = "sc_vaenb.tl"
        parameter = inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=annotation)
        function.__signature__ = inspect.Signature([parameter])
        monkeypatch.setattr(_checks, "BOUNDS", {name: bounds} if bounds else {})
        return checked(function)(value)

    return call


@pytest.mark.parametrize(
    ("annotation", "value", "expected"),
    [
        ("int", np.int64(3), 3),
        ("float", 2, 2),
        ("float", np.float32(0.5), 0.5),
        ("bool", np.bool_(True), True),
        ("str", np.str_("a"), "a"),
        ("str | None", None, None),
        ("Sequence[str]", "a", ["a"]),
        ("Sequence[str]", ("a", "b"), ("a", "b")),
        ("Sequence[str]", np.array(["a", "b"]), ["a", "b"]),
        ("Sequence[str]", pd.Index(["a"]), ["a"]),
        ("str | Sequence[str]", "a", "a"),
        ("Sequence[int]", np.array([128]), [128]),
        ("Sequence[int]", (), ()),
        ("Literal['a', 'b']", np.str_("b"), "b"),
        ("Mapping[str, int] | None", {"a": 1}, {"a": 1}),
        ("int | np.random.Generator | None", None, None),
    ],
)
def test_what_fits_comes_in_pythons_own_type(call, annotation, value, expected):
    found = call(annotation, value)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("annotation", "value", "bounds", "text"),
    [
        ("int", 2.0, (1,), "x=2.0 is not possible. Give a whole number at least 1."),
        ("int", True, (1,), "x=True is not possible. Give a whole number at least 1."),
        ("int", "3", (1, 9), "x='3' is not possible. Give a whole number at least 1 and at most 9."),
        (
            "int",
            10**12,
            (1,),
            "x=1000000000000 is not possible. Give a whole number at least 1. This one is too large.",
        ),
        ("float", 0, (0, np.inf, True), "x=0 is not possible. Give a number above 0."),
        ("float", 1, (0, 1, False, True), "x=1 is not possible. Give a number at least 0 and below 1."),
        ("float", np.nan, None, "x=nan is not possible. Give a number."),
        ("float", np.inf, None, "x=inf is not possible. Give a number. This one is too large."),
        ("float", -np.inf, None, "x=-inf is not possible. Give a number."),
        ("bool", 1, None, "x=1 is not possible. Choose True or False."),
        ("str", "", None, "x='' is not possible. Give a text."),
        ("str | None", ["a"], None, "x=['a'] is not possible. Give a text or None."),
        ("Sequence[str]", {"a"}, None, "x={'a'} is not possible. Give a list of names."),
        ("Sequence[int]", 16, (1,), "x=16 is not possible. Give a sequence of numbers."),
        ("Sequence[int]", (16, 0), (1,), "x[1]=0 is not possible. Give a whole number at least 1."),
        ("Literal['a', 'b']", "c", None, "x='c' is not known. Choose one of ['a', 'b']."),
        ("Literal['a', 'b'] | None", ["a"], None, "x=['a'] is not known. Choose one of ['a', 'b']."),
        ("Mapping[str, int]", 3, None, "x=3 is not possible. Give a dict."),
    ],
)
def test_what_does_not_fit_is_refused(call, annotation, value, bounds, text):
    with pytest.raises(ArgumentError) as error:
        call(annotation, value, bounds=bounds and _constraints.Bounds(*bounds))
    assert str(error.value) == text


COLUMN = "Give the name of a column of obs"


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        (
            "groupby",
            ["a", "b"],
            f"groupby=['a', 'b'] is not possible. {COLUMN}. Several columns are not possible here; join them: "
            "adata.obs['joined'] = adata.obs['a'].astype(str) + '_' + adata.obs['b'].astype(str).",
        ),
        (
            "groupby",
            pd.Series(["a"]),
            f"groupby=<Series of shape (1,)> is not possible. {COLUMN}. Put the values into adata.obs first, and give "
            "the name of that column as groupby.",
        ),
        (
            "layer",
            np.eye(2),
            "layer=<ndarray of shape (2, 2)> is not possible. Give the name of a layer. layer=None takes X.",
        ),
        ("key_added", "a/b", "key_added='a/b' is not possible. Give a name without '/'."),
        ("key_added", "..", "key_added='..' is not possible. Give a name without '/'. It must be more than dots, and"),
        ("key_added", "a\x07", "have no control characters."),
        ("x", object, "x=<class 'object'> is not possible. Give a text."),
        ("x", "a\0", "x='a\\x00' is not possible. Give a text."),
        ("x", ["a" * 500], "..."),
    ],
)
def test_refusals_say_what_to_do(call, name, value, text):
    with pytest.raises(ArgumentError) as error:
        call("str", value, name=name)
    assert text in str(error.value)
    assert len(str(error.value)) < 400


@pytest.mark.parametrize("function", PUBLIC, ids=lambda function: f"{function.__module__}.{function.__name__}")
def test_every_public_function_is_checked_and_every_number_has_bounds(function):
    assert inspect.unwrap(function) is not function
    assert function.__kwdefaults__ == inspect.unwrap(function).__kwdefaults__
    for argument in _checks._arguments(function).values():
        numbers = {kind for kind in argument.kinds if kind in {"int", "float", "Sequence[int]", "Sequence[float]"}}
        if argument.name not in {"of", "dimension"}:  # a number is a name there
            assert not numbers or argument.bounds != _constraints.Bounds(), argument.name


def test_every_bound_and_word_is_of_some_function():
    names = set()
    for function in PUBLIC:
        part = function.__module__.split(".")[1]
        for name in inspect.signature(function).parameters:
            names |= {name, f"{part}.{function.__name__}.{name}"}
    assert names >= {
        *_constraints.BOUNDS,
        *_constraints.DESCRIPTIONS,
        *_constraints.GROUP_NAMES,
        *_constraints.MAY_BE_EMPTY,
    }


class MuData:
    mod: Mapping = {"prot": None, "rna": None}


class SpatialData:
    tables: Mapping = {"counts": None}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "adata is None, not an AnnData. Functions of scanpy and of sc_vaenb write into adata and return None."),
        (MuData(), "a MuData, not an AnnData. Give one of its modalities, which are ['prot', 'rna']: adata['rna']."),
        (SpatialData(), "a SpatialData, not an AnnData. Give one of its tables, which are ['counts']: adata.tables["),
        (Path("a.h5ad"), "Path, not an AnnData. Read it with anndata.read_h5ad first."),
        ([1], "adata is a list, not an AnnData. Join several with anndata.concat first."),
        (np.eye(2), "adata is a ndarray, not an AnnData. Wrap counts with anndata.AnnData(counts) first."),
    ],
)
def test_what_is_no_anndata_is_refused(call, value, text):
    with pytest.raises(ArgumentError) as error:
        call("AnnData", value, name="adata")
    assert text in str(error.value)


def test_a_wrong_call_is_pythons_own_error():
    def function(x: int) -> int:
        return x

    function.__module__ = "sc_vaenb.tl"
    with pytest.raises(TypeError, match=r"function\(\) got an unexpected keyword argument 'y'"):
        checked(function)(1, y=2)
    with pytest.raises(TypeError, match=r"function\(\) missing 1 required positional argument: 'x'"):
        checked(function)()


def test_the_arguments_of_a_later_call_are_checked_as_that_call_would():
    def function(x: Sequence[int], *, how: Literal["a"] = "a") -> None: ...

    function.__module__ = "sc_vaenb.tl"
    assert _checks.check_values(function, {"x": np.array([1]), "other": 3}) == {"x": [1], "other": 3}
    with pytest.raises(ArgumentError, match="how='b' is not known"):
        _checks.check_values(function, {"how": "b"})


def test_seeds():
    assert _checks.seed_of(7) == 7
    assert _checks.seed_of(np.random.default_rng(0)) == _checks.seed_of(np.random.default_rng(0))
    assert _checks.seed_of(None) != _checks.seed_of(None)
    _checks.check_seeds(_constraints.LARGEST_SEED - 3, 3)
    with pytest.raises(ValueError, match=r"rng=4294967293 leaves no room for n_seeds=3: the largest seed is 429"):
        _checks.check_seeds(_constraints.LARGEST_SEED - 2, 3)
