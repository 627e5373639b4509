"""What a value in a file from elsewhere must be: small checks, from which the schema of a record is put together.

A check takes a value and the name of its place. It returns the value in one form, however a file has changed its type
(h5ad and zarr make numpy's numbers and strings of Python's, and arrays of tuples), or it raises `Damaged`, which says
where and what. Checks look at sizes before values, and make nothing that is larger than what they are given.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Check = Callable[[Any, str], Any]

LARGEST_SIZE = 10**9  # of anything that is counted: cells, genes, widths, steps
LONGEST_NAME = 10_000  # characters
LARGEST_NUMBER = 1e15  # beyond which no result of ours lies


class Damaged(ValueError):
    """A value that is not what this package writes."""


def refuse(where: str, value: Any, wanted: str) -> Damaged:
    return Damaged(f"{where} is {brief(value)}, not {wanted}")


def brief(value: Any) -> str:
    """A value in a few words, whatever it is."""
    if isinstance(value, np.ndarray) and value.ndim:
        return f"an array of {value.dtype} with shape {value.shape}"
    value = scalar(value)
    if value is None or isinstance(value, bool | int | float | str):
        text = ascii(value) if not isinstance(value, int) or abs(value) < 10**20 else "a number of many digits"
        return text if len(text) <= 60 else f"{text[:50]}..."
    return f"of type {type(value).__name__}"


def scalar(value: Any) -> Any:
    """Numbers and strings of numpy as Python's own."""
    if isinstance(value, np.generic) or (isinstance(value, np.ndarray) and value.ndim == 0 and value.dtype != object):
        return value.item()
    return value


def text(*choices: str) -> Check:
    """A string, or (with `choices`) one of these."""

    def check(value: Any, where: str) -> str:
        value = scalar(value)
        if not isinstance(value, str):
            raise refuse(where, value, "text")
        if choices and value not in choices:
            raise refuse(where, value, f"one of {list(choices)}")
        return str(value)

    return check


def flag(value: Any, where: str) -> bool:
    value = scalar(value)
    if not isinstance(value, bool):
        raise refuse(where, value, "True or False")
    return value


def number(low: float = -LARGEST_NUMBER, high: float = LARGEST_NUMBER, *, above: bool = False) -> Check:
    """A finite number within low .. high (`above`: not low either)."""

    def check(value: Any, where: str) -> float:
        value = scalar(value)
        good = isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high
        if not good or (above and value == low):
            raise refuse(where, value, f"a number {'above' if above else 'from'} {low:g} to {high:g}")
        return float(value)

    return check


def whole(low: int = 0, high: int = LARGEST_SIZE) -> Check:
    def check(value: Any, where: str) -> int:
        value = scalar(value)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise refuse(where, value, f"a whole number from {low} to {high}")
        return value

    return check


def anything(value: Any, where: str) -> Any:
    return value


def either(*checks: Check) -> Check:
    """What one of the checks takes; the last says what is wrong."""

    def check(value: Any, where: str) -> Any:
        for one in checks[:-1]:
            try:
                return one(value, where)
            except Damaged:
                continue
        return checks[-1](value, where)

    return check


def nothing(value: Any, where: str) -> None:
    if value is not None:
        raise refuse(where, value, "None")


def sequence(each: Check, n: int | None = None, *, most: int = LARGEST_SIZE) -> Check:
    """A list, a tuple or an array of one dimension (a file makes one of the others); as a list."""

    def check(value: Any, where: str) -> list[Any]:
        if not isinstance(value, list | tuple) and not (isinstance(value, np.ndarray) and value.ndim == 1):
            raise refuse(where, value, "a list")
        if (n is not None and len(value) != n) or len(value) > most:
            raise Damaged(f"{where} has {len(value)} values, not {n if n is not None else f'{most} or fewer'}")
        return [each(part, f"{where}[{at}]") for at, part in enumerate(value)]

    return check


def names(n: int | None = None, *, least: int = 0) -> Check:
    """Different names, as a list of strings."""

    def check(value: Any, where: str) -> list[str]:
        found: list[str] = sequence(text(), n)(value, where)
        if len(found) < least:
            raise Damaged(f"{where} holds {len(found)} names, not {least} or more")
        if len(set(found)) < len(found):
            twice = next(name for name, times in Counter(found).items() if times > 1)
            raise Damaged(f"{where} holds the name {brief(twice)} twice")
        for name in found:
            if not name or len(name) > LONGEST_NAME or not _encodable(name):
                raise Damaged(f"{where} holds {brief(name)}, which can be no name")
        return found

    return check


def _encodable(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return False
    return "\0" not in name


def array(
    kinds: str, *shape: int | None, low: float = -LARGEST_NUMBER, high: float = LARGEST_NUMBER, gaps: bool = False
) -> Check:
    """An array of numbers (`kinds` are of numpy's dtypes: "f", "iu", "b") and of this shape, None for any length.

    All are within low .. high; with `gaps` NaN is allowed.
    """

    def check(value: Any, where: str) -> NDArray[Any]:
        found = value
        if isinstance(value, list | tuple | int | float | np.generic):
            try:
                found = np.asarray(value)
            except (ValueError, OverflowError):  # rows of different lengths
                found = None
        wanted = {"f": "numbers with fractions", "iu": "whole numbers", "b": "True and False"}.get(kinds, "numbers")
        if not isinstance(found, np.ndarray) or found.dtype.kind not in kinds:
            raise refuse(where, value, f"an array of {wanted}")
        if found.ndim != len(shape) or any(n not in (None, m) for n, m in zip(shape, found.shape, strict=True)):
            raise Damaged(f"{where} has the shape {found.shape}, not {tuple('any' if n is None else n for n in shape)}")
        check_values(found, where, low, high, gaps=gaps)
        return found

    return check


def check_values(found: NDArray[Any], where: str, low: float, high: float, *, gaps: bool = False) -> None:
    """Refuse numbers that are not finite or not within low .. high; an array as large is made for this, at a time."""
    if not found.size or found.dtype.kind == "b":
        return
    least, most = found.min(), found.max()  # NaN where there is one
    if gaps and found.dtype.kind == "f":
        good = ~np.isnan(found)
        least, most = (found.min(where=good, initial=np.inf), found.max(where=good, initial=-np.inf))
        if not good.any():
            return
    if not (least >= low and most <= high):
        bad = np.isnan(most) or np.isinf(most) or np.isinf(least)
        raise Damaged(
            f"{where} holds values that are not finite"
            if bad
            else f"{where} holds values from {least:g} to {most:g}, not within {low:g} to {high:g}"
        )


def fields(known: Mapping[str, Check], *, optional: Container[str] = (), others: Check | None = None) -> Check:
    """A mapping with a check for each of its keys; others of them are checked by `others`, or refused."""

    def check(value: Any, where: str) -> dict[str, Any]:
        if not isinstance(value, Mapping):
            raise refuse(where, value, "a mapping")
        if missing := [name for name in known if name not in value and name not in optional]:
            raise Damaged(f"{where} lacks {missing[0]!r}")
        found = {}
        for name, part in value.items():
            if not isinstance(name, str) or (name not in known and others is None):
                raise Damaged(f"{where} has {brief(name)}, which is not known")
            found[name] = known.get(name, others)(part, f"{where}[{brief(name)}]")  # type: ignore[misc]
        return found

    return check


def table(
    columns: Mapping[str, str],
    *,
    optional: Iterable[str] = (),
    others: str | None = None,
    most: int = LARGEST_SIZE,
    least: int = 0,
    unique: bool = True,
) -> Check:
    """A DataFrame, the kind of each column "number", "gaps" (numbers, or NaN), "counts" (0 or more), "whole", "flag",
    "text", "plain" (numbers, flags or text) or "any".

    `others`: the kind of the columns that are not named, None where there may be none. Rows are 0 .. `most`; with
    `unique`, the names of rows differ.
    """

    def check(value: Any, where: str) -> pd.DataFrame:
        if not isinstance(value, pd.DataFrame):
            raise refuse(where, value, "a table (pandas.DataFrame)")
        if not least <= len(value) <= most:
            raise Damaged(f"{where} has {len(value)} rows, not {least} to {most}")
        if not value.columns.is_unique or (unique and not value.index.is_unique):
            raise Damaged(f"{where} has two rows or columns of one name")
        if missing := [name for name in columns if name not in value and name not in optional]:
            raise Damaged(f"{where} lacks the column {missing[0]!r}")
        for name in value.columns:
            kind = columns.get(name, others)
            if kind is None or not isinstance(name, str):
                raise Damaged(f"{where} has the column {brief(name)}, which is not known")
            if len(value):  # a column without rows has any dtype
                _check_column(value[name], kind, f"{where}[{brief(name)}]")
        return value

    return check


def _check_column(column: pd.Series, kind: str, where: str) -> None:
    dtype = column.dtype
    if kind == "text":
        good = isinstance(dtype, pd.CategoricalDtype | pd.StringDtype) or pd.api.types.is_object_dtype(dtype)
        if not good or not all(isinstance(part, str) for part in column):
            raise Damaged(f"{where} is of dtype {dtype}, not text")
    elif kind == "flag":
        if not pd.api.types.is_bool_dtype(dtype) or column.isna().any():
            raise Damaged(f"{where} is of dtype {dtype}, not True and False")
    elif kind == "plain" and not pd.api.types.is_numeric_dtype(dtype):
        _check_column(column, "text", where)
    elif kind == "plain" and pd.api.types.is_bool_dtype(dtype):
        _check_column(column, "flag", where)
    elif kind != "any":
        good = pd.api.types.is_numeric_dtype(dtype) and not pd.api.types.is_bool_dtype(dtype)
        if not good or pd.api.types.is_complex_dtype(dtype) or not isinstance(dtype, np.dtype):
            raise Damaged(f"{where} is of dtype {dtype}, not numbers")
        if kind == "whole" and dtype.kind not in "iu":
            raise Damaged(f"{where} is of dtype {dtype}, not whole numbers")
        low = 0 if kind == "counts" else -LARGEST_NUMBER
        check_values(column.to_numpy(), where, low, LARGEST_NUMBER, gaps=kind in {"gaps", "plain"})


plain = either(text(), flag, nothing, number(-1e300, 1e300), sequence(either(text(), flag, number(-1e300, 1e300))))
"""What a parameter of a function can be in a file."""


def parse_json(value: Any, where: str) -> Any:
    """What a text in JSON holds."""
    found = scalar(value)
    if not isinstance(found, str):
        raise refuse(where, value, "text in JSON")
    try:
        return json.loads(found)
    except (ValueError, RecursionError) as error:  # nested too deeply
        raise Damaged(f"{where} is no text in JSON") from error


@contextmanager
def damage_told(what: str, advice: str) -> Iterator[None]:
    """Say of a damaged value what it is part of, and what to do."""
    try:
        yield
    except Damaged as error:
        msg = f"{what}: {error}. {advice}"
        raise ValueError(msg) from error
