"""Small checks of values in files, which may come from anyone. The schema of a record is composed of them.

A check takes a value and its place in the record. It returns the value in one form, because files change types (h5ad
and zarr turn Python numbers and strings into NumPy's, and tuples into arrays). Or it raises `Damaged`, which names the
place and the value. Checks test sizes before values, and allocate no more memory than the value itself has.
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

LARGEST_SIZE = 10**9  # of any count: cells, genes, widths, steps
LONGEST_NAME = 10_000  # characters
LARGEST_NUMBER = 1e15  # in absolute value; no result of this package is larger


class Damaged(ValueError):
    """A value that is not what this package writes."""


def unexpected(where: str, value: Any, expected: str) -> Damaged:
    return Damaged(f"{where} is {brief(value)}, not {expected}")


def brief(value: Any) -> str:
    """A short description of any value."""
    if isinstance(value, np.ndarray) and value.ndim:
        return f"an array of {value.dtype} with shape {value.shape}"
    value = scalar(value)
    if value is None or isinstance(value, bool | int | float | str):
        text = ascii(value) if not isinstance(value, int) or abs(value) < 10**20 else "a number of many digits"
        return text if len(text) <= 60 else f"{text[:50]}..."
    return f"of type {type(value).__name__}"


def scalar(value: Any) -> Any:
    """Turn NumPy numbers and strings into Python's."""
    if isinstance(value, np.generic) or (isinstance(value, np.ndarray) and value.ndim == 0 and value.dtype != object):
        return value.item()
    return value


def text(*choices: str) -> Check:
    """A string; with `choices`, one of these."""

    def check(value: Any, where: str) -> str:
        value = scalar(value)
        if not isinstance(value, str):
            raise unexpected(where, value, "text")
        if choices and value not in choices:
            raise unexpected(where, value, f"one of {list(choices)}")
        return str(value)

    return check


def flag(value: Any, where: str) -> bool:
    value = scalar(value)
    if not isinstance(value, bool):
        raise unexpected(where, value, "True or False")
    return value


def number(low: float = -LARGEST_NUMBER, high: float = LARGEST_NUMBER, *, above: bool = False) -> Check:
    """A finite number within low .. high; with `above`, `low` itself is not allowed."""

    def check(value: Any, where: str) -> float:
        value = scalar(value)
        in_range = isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high
        if not in_range or (above and value == low):
            raise unexpected(where, value, f"a number {'above' if above else 'from'} {low:g} to {high:g}")
        return float(value)

    return check


def integer(low: int = 0, high: int = LARGEST_SIZE) -> Check:
    def check(value: Any, where: str) -> int:
        value = scalar(value)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise unexpected(where, value, f"a whole number from {low} to {high}")
        return value

    return check


def anything(value: Any, where: str) -> Any:
    return value


def either(*checks: Check) -> Check:
    """A value that one of the checks accepts; otherwise the last check raises its error."""

    def check(value: Any, where: str) -> Any:
        for alternative in checks[:-1]:
            try:
                return alternative(value, where)
            except Damaged:
                continue
        return checks[-1](value, where)

    return check


def nothing(value: Any, where: str) -> None:
    if value is not None:
        raise unexpected(where, value, "None")


def sequence(each: Check, n: int | None = None, *, most: int = LARGEST_SIZE) -> Check:
    """A list, a tuple or a 1-d array (files turn one into another), returned as a list."""

    def check(value: Any, where: str) -> list[Any]:
        if not isinstance(value, list | tuple) and not (isinstance(value, np.ndarray) and value.ndim == 1):
            raise unexpected(where, value, "a list")
        if (n is not None and len(value) != n) or len(value) > most:
            raise Damaged(f"{where} has {len(value)} values, not {n if n is not None else f'{most} or fewer'}")
        return [each(part, f"{where}[{i}]") for i, part in enumerate(value)]

    return check


def names(n: int | None = None, *, least: int = 0) -> Check:
    """Unique names, returned as a list of strings."""

    def check(value: Any, where: str) -> list[str]:
        strings: list[str] = sequence(text(), n)(value, where)
        if len(strings) < least:
            raise Damaged(f"{where} holds {len(strings)} names, not {least} or more")
        if len(set(strings)) < len(strings):
            duplicate = next(name for name, n_times in Counter(strings).items() if n_times > 1)
            raise Damaged(f"{where} holds the name {brief(duplicate)} twice")
        for name in strings:
            if not name or len(name) > LONGEST_NAME or not _encodable(name):
                raise Damaged(f"{where} holds {brief(name)}, which can be no name")
        return strings

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
    """An array of numbers with this shape (None: any length). `kinds` are NumPy's dtype kinds: "f", "iu", "b".

    All numbers are within low .. high; with `gaps`, NaN is allowed.
    """

    def check(value: Any, where: str) -> NDArray[Any]:
        numbers = value
        if isinstance(value, list | tuple | int | float | np.generic):
            try:
                numbers = np.asarray(value)
            except (ValueError, OverflowError):  # rows of different lengths
                numbers = None
        expected = {"f": "numbers with fractions", "iu": "whole numbers", "b": "True and False"}.get(kinds, "numbers")
        if not isinstance(numbers, np.ndarray) or numbers.dtype.kind not in kinds:
            raise unexpected(where, value, f"an array of {expected}")
        if numbers.ndim != len(shape) or any(n not in (None, m) for n, m in zip(shape, numbers.shape, strict=True)):
            raise Damaged(
                f"{where} has the shape {numbers.shape}, not {tuple('any' if n is None else n for n in shape)}"
            )
        check_values(numbers, where, low, high, gaps=gaps)
        return numbers

    return check


def check_values(numbers: NDArray[Any], where: str, low: float, high: float, *, gaps: bool = False) -> None:
    """Refuse numbers that are not finite or not within low .. high. This needs one temporary array of the same size."""
    if not numbers.size or numbers.dtype.kind == "b":
        return
    smallest, largest = numbers.min(), numbers.max()  # NaN if any number is NaN
    if gaps and numbers.dtype.kind == "f":
        present = ~np.isnan(numbers)
        smallest, largest = (numbers.min(where=present, initial=np.inf), numbers.max(where=present, initial=-np.inf))
        if not present.any():
            return
    if not (smallest >= low and largest <= high):
        not_finite = np.isnan(largest) or np.isinf(largest) or np.isinf(smallest)
        raise Damaged(
            f"{where} holds values that are not finite"
            if not_finite
            else f"{where} holds values from {smallest:g} to {largest:g}, not within {low:g} to {high:g}"
        )


def fields(known: Mapping[str, Check], *, optional: Container[str] = (), others: Check | None = None) -> Check:
    """A mapping with a check for each known key. Unknown keys are checked by `others`, or refused without it."""

    def check(value: Any, where: str) -> dict[str, Any]:
        if not isinstance(value, Mapping):
            raise unexpected(where, value, "a mapping")
        if missing := [name for name in known if name not in value and name not in optional]:
            raise Damaged(f"{where} lacks {missing[0]!r}")
        checked = {}
        for name, entry in value.items():
            if not isinstance(name, str) or (name not in known and others is None):
                raise Damaged(f"{where} has {brief(name)}, which is not known")
            checked[name] = known.get(name, others)(entry, f"{where}[{brief(name)}]")  # type: ignore[misc]
        return checked

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
    """A DataFrame. Each column has a kind: "number", "gaps" (numbers or NaN), "counts" (0 or more), "whole" (integers),
    "flag", "text", "plain" (numbers, flags or text) or "any".

    `others` is the kind of all other columns; None allows no other columns. There are `least` to `most` rows; with
    `unique`, their names are unique.
    """

    def check(value: Any, where: str) -> pd.DataFrame:
        if not isinstance(value, pd.DataFrame):
            raise unexpected(where, value, "a table (pandas.DataFrame)")
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
            if len(value):  # a column without rows may have any dtype
                _check_column(value[name], kind, f"{where}[{brief(name)}]")
        return value

    return check


def _check_column(column: pd.Series, kind: str, where: str) -> None:
    dtype = column.dtype
    if kind == "text":
        right_dtype = isinstance(dtype, pd.CategoricalDtype | pd.StringDtype) or pd.api.types.is_object_dtype(dtype)
        if not right_dtype or not all(isinstance(part, str) for part in column):
            raise Damaged(f"{where} is of dtype {dtype}, not text")
    elif kind == "flag":
        if not pd.api.types.is_bool_dtype(dtype) or column.isna().any():
            raise Damaged(f"{where} is of dtype {dtype}, not True and False")
    elif kind == "plain" and not pd.api.types.is_numeric_dtype(dtype):
        _check_column(column, "text", where)
    elif kind == "plain" and pd.api.types.is_bool_dtype(dtype):
        _check_column(column, "flag", where)
    elif kind != "any":
        right_dtype = pd.api.types.is_numeric_dtype(dtype) and not pd.api.types.is_bool_dtype(dtype)
        if not right_dtype or pd.api.types.is_complex_dtype(dtype) or not isinstance(dtype, np.dtype):
            raise Damaged(f"{where} is of dtype {dtype}, not numbers")
        if kind == "whole" and dtype.kind not in "iu":
            raise Damaged(f"{where} is of dtype {dtype}, not whole numbers")
        low = 0 if kind == "counts" else -LARGEST_NUMBER
        check_values(column.to_numpy(), where, low, LARGEST_NUMBER, gaps=kind in {"gaps", "plain"})


plain = either(text(), flag, nothing, number(-1e300, 1e300), sequence(either(text(), flag, number(-1e300, 1e300))))
"""The values that a parameter of a function can have in a file."""


BATCH_KEY = either(names(least=2), text())
"""The column of batches, or the columns whose combinations are the batches."""


def parse_json(value: Any, where: str) -> Any:
    """The value that a JSON text holds."""
    json_text = scalar(value)
    if not isinstance(json_text, str):
        raise unexpected(where, value, "text in JSON")
    try:
        return json.loads(json_text)
    except (ValueError, RecursionError) as error:  # nested too deeply
        raise Damaged(f"{where} is no text in JSON") from error


@contextmanager
def explain_damage(what: str, advice: str) -> Iterator[None]:
    """Add to the error of a damaged value what it is part of, and what to do."""
    try:
        yield
    except Damaged as error:
        msg = f"{what}: {error}. {advice}"
        raise ValueError(msg) from error
