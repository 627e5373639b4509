"""Check arguments: `@checked` checks each argument of a public function before any work is done.

The annotation of an argument says which values are allowed: kinds such as `int` or `Sequence[str]`, and the choices
of a `Literal`. `_constraints` has what a signature cannot say: bounds of numbers, and descriptions for messages. The
function that reads a column, layer or gene checks that it exists (`_adata`, `_obs`). `_anndata_checks` checks
an AnnData, and `tl/_arguments` combinations of arguments.

Classes of other packages are recognised by their names, so that no heavy package is imported here.
"""

from __future__ import annotations

import ast
import inspect
import os
from collections.abc import Callable, Iterator, Mapping
from functools import partial, wraps
from typing import Any, NamedTuple, ParamSpec, TypeVar

import numpy as np

from ._anndata_checks import check_adata, check_anndata
from ._constraints import (
    BOUNDS,
    CLASS_DESCRIPTIONS,
    COLUMN,
    COLUMN_OR_COLUMNS,
    DESCRIPTIONS,
    GROUP_NAMES,
    LARGEST_SEED,
    MAY_BE_EMPTY,
    NEEDS_BATCHES,
    NOT_ARRAYS,
    ArgumentError,
    Bounds,
    is_a,
)
from ._names import is_writable, short

P = ParamSpec("P")
R = TypeVar("R")


OTHER = object()  # a reader returns this for a value of another kind


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """Check all arguments of a function by its annotations, and hand it Python's own types.

    NumPy scalars become Python numbers, and other sequences become lists. Where an argument takes a list of names, a
    single name becomes a list.
    """
    signature = inspect.signature(function)
    arguments = _arguments(function)

    @wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError:
            return function(*args, **kwargs)  # Python's own error names the function and the argument
        values = bound.arguments
        for name, value in values.items():
            values[name] = arguments[name].read(value)
        if "copy" in arguments:
            check_adata(values["adata"], copy=values.get("copy", False))
        return function(*bound.args, **bound.kwargs)

    wrapper.__kwdefaults__ = function.__kwdefaults__  # type: ignore[attr-defined]
    return wrapper


def check_values(function: Callable[..., Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Check arguments for a later call of `function` as that call would; return unknown arguments unchanged."""
    arguments = _arguments(function)
    return {name: arguments[name].read(value) if name in arguments else value for name, value in values.items()}


def _arguments(function: Callable[..., Any]) -> dict[str, _Argument]:
    qualified_name = f"{function.__module__.split('.')[1]}.{function.__name__}"
    return {
        name: _Argument(qualified_name, parameter) for name, parameter in inspect.signature(function).parameters.items()
    }


class _Kind(NamedTuple):
    """One alternative of an annotation: its reader (which returns `OTHER` for other values) and its description."""

    read: Callable[[Any], Any]
    description: str
    in_table: bool = False  # the table DESCRIPTIONS may describe it better


class _Argument:
    """One argument of a function: its allowed values, from its annotation and the tables."""

    def __init__(self, function: str, parameter: inspect.Parameter) -> None:
        self.name = parameter.name
        self.bounds = BOUNDS.get(f"{function}.{self.name}", BOUNDS.get(self.name, Bounds()))
        self.needs_genes = not function.startswith("pl.")  # embeddings and results can be drawn without genes
        self.is_label = not GROUP_NAMES.isdisjoint({self.name, f"{function}.{self.name}"})
        self.description = DESCRIPTIONS.get(f"{function}.{self.name}", DESCRIPTIONS.get(self.name))
        parts = list(_alternatives(ast.parse(str(parameter.annotation), mode="eval").body))
        self.choices = [choice for part in parts for choice in _choices(part)]
        self.kinds = {ast.unparse(part): self._kind(part) for part in parts}

    def read(self, value: Any) -> Any:
        """Return the value in Python's own types, or raise an error that says what to pass."""
        if "AnnData" in self.kinds:
            check_anndata(value, self.name, genes=self.needs_genes)
            return value
        for kind in self.kinds.values():
            if (result := kind.read(value)) is not OTHER:
                return result
        problem = f"{self.name}={short(value)} is"
        kind_names = set(self.kinds) - {"None"}
        if self.choices and len(kind_names) == 1 and not next(iter(kind_names)).startswith("Sequence"):
            advice = NEEDS_BATCHES if isinstance(value, str) and value in {"conditional", "gene-batch"} else ""
            raise ArgumentError(f"{problem} not known. Choose one of {self.choices}.{advice}")
        if kind_names == {"bool"}:
            raise ArgumentError(f"{problem} not possible. Choose True or False.")
        kinds = self.kinds.values()
        expected = [self.description] if self.description and any(kind.in_table for kind in kinds) else []
        expected += [kind.description for kind in kinds if not (kind.in_table and expected)]
        *first, last = dict.fromkeys(expected)
        raise ArgumentError(
            f"{problem} not possible. Give {', '.join(first)}{' or ' if first else ''}{last}.{self._advice(value)}"
        )

    def _kind(self, part: ast.expr) -> _Kind:
        kind = ast.unparse(part)
        head = kind.partition("[")[0].rpartition(".")[2]
        if head == "Literal":
            choices = _choices(part)
            return _Kind(
                lambda value: str(value) if isinstance(value, str) and value in choices else OTHER, f"one of {choices}"
            )
        if isinstance(part, ast.Subscript) and head == "Sequence":
            readers = [self._kind(inner) for inner in _alternatives(part.slice)]
            is_numeric = all(
                isinstance(inner, ast.Name) and inner.id in {"int", "float"} for inner in _alternatives(part.slice)
            )
            return _Kind(
                partial(self._numbers if is_numeric else self._names, readers),
                "a sequence of numbers" if is_numeric else "a list of names",
                True,
            )
        return {
            "None": _Kind(lambda value: None if value is None else OTHER, "None"),
            "bool": _Kind(lambda value: bool(value) if isinstance(value, bool | np.bool_) else OTHER, "True or False"),
            "int": _Kind(partial(self._number, (int, np.integer)), f"a whole number{self.bounds.in_words()}"),
            "float": _Kind(
                partial(self._number, (int, float, np.integer, np.floating)), f"a number{self.bounds.in_words()}"
            ),
            "str": _Kind(self._text, "a text", True),
            "PathLike": _Kind(lambda value: value if isinstance(value, os.PathLike) else OTHER, "a path", True),
            "Path": _Kind(lambda value: value if isinstance(value, os.PathLike) else OTHER, "a path", True),
            "Mapping": _Kind(lambda value: value if isinstance(value, Mapping) else OTHER, "a dict", True),
            "ArrayLike": _Kind(lambda value: OTHER if value is None or is_a(value, *NOT_ARRAYS) else value, "an array"),
            "NDArray": _Kind(_array, "an array", True),
            "FloatArray": _Kind(_array, "an array of numbers"),
            "csr_array": _Kind(lambda value: value if hasattr(value, "tocsr") else OTHER, "a sparse matrix (scipy)"),
        }.get(
            head, _Kind(lambda value: value if is_a(value, head) else OTHER, CLASS_DESCRIPTIONS.get(head, f"a {head}"))
        )

    def _number(self, kinds: tuple[type, ...], value: Any) -> Any:
        if isinstance(value, bool) or not isinstance(value, kinds):
            return OTHER
        value = value.item() if isinstance(value, np.generic) else value
        return value + 0 if self.bounds.allow(value) else OTHER  # -0.0 becomes 0.0

    def _text(self, value: Any) -> Any:
        if self.is_label and isinstance(value, int | np.integer) and not isinstance(value, bool):
            return str(value)
        if not isinstance(value, str) or (not value and self.name not in MAY_BE_EMPTY):
            return OTHER
        if self.name not in MAY_BE_EMPTY and any(letter == "\0" or "\ud800" <= letter <= "\udfff" for letter in value):
            return OTHER  # no file, column or gene can have such a name
        return OTHER if self.name == "key_added" and not is_writable(value) else str(value)

    def _names(self, kinds: list[_Kind], value: Any) -> Any:
        values = [value] if isinstance(value, str) else _as_list(value)
        results = [
            next((result for kind in kinds if (result := kind.read(item)) is not OTHER), OTHER) for item in values or ()
        ]
        if values is None or any(item is OTHER for item in results):
            return OTHER
        if self.description == COLUMN_OR_COLUMNS:
            are_columns = 0 < len(set(results)) == len(results)  # the values of a column hold one name many times
            return OTHER if not are_columns else results[0] if len(results) == 1 else results
        return tuple(results) if isinstance(value, tuple) else results

    def _numbers(self, kinds: list[_Kind], value: Any) -> Any:
        values = _as_list(value)
        if values is None:
            return OTHER
        results = [kinds[0].read(item) for item in values]
        for i, item in enumerate(results):
            if item is OTHER:
                msg = f"{self.name}[{i}]={short(values[i])} is not possible. Give {kinds[0].description}."
                raise ArgumentError(msg)
        return tuple(results) if isinstance(value, tuple) else results

    def _advice(self, value: Any) -> str:
        """Advice for values that users often pass by mistake."""
        if isinstance(value, int | float) and not isinstance(value, bool) and value > self.bounds.largest(value):
            return " This one is too large."
        if self.name == "key_added" and isinstance(value, str) and value and "/" not in value:
            return " It must be more than dots, and have no control characters."
        items = _as_list(value)
        if self.description in {COLUMN, COLUMN_OR_COLUMNS} and items is not None:
            are_names = items and not hasattr(value, "dtype") and all(isinstance(item, str) for item in items)
            if not are_names:
                return f" Put the values into adata.obs first, and give the name of that column as {self.name}."
            if self.description == COLUMN:
                joined = " + '_' + ".join(f"adata.obs[{item!r}].astype(str)" for item in items)
                return f" Several columns are not possible here; join them: adata.obs['joined'] = {joined}."
        if self.name == "layer" and hasattr(value, "shape"):
            return " layer=None takes X."
        if self.name == "fig" and hasattr(value, "get_figure"):
            return " The figure of an Axes is ax.figure."
        return ""


def _alternatives(node: ast.expr) -> Iterator[ast.expr]:
    """The alternatives of an annotation, which `|` separates."""
    if isinstance(node, ast.BinOp):
        yield from _alternatives(node.left)
        yield from _alternatives(node.right)
    else:
        yield node


def _choices(node: ast.expr) -> list[str]:
    if isinstance(node, ast.Subscript) and ast.unparse(node.value) == "Literal":
        literal = ast.literal_eval(node.slice)
        return list(literal) if isinstance(literal, tuple) else [literal]
    return []


def _as_list(value: Any) -> list[Any] | None:
    """The items of a one-dimensional sequence of any class; None for anything else."""
    if isinstance(value, list | tuple | range):
        return list(value)
    one_dimension = is_a(value, "ndarray", "Index", "Series", "Categorical") and getattr(value, "ndim", 0) == 1
    return list(value) if one_dimension else None


def _array(value: Any) -> Any:
    if not (is_a(value, "ndarray", "Series", "ExtensionArray") or isinstance(value, list | tuple)):
        return OTHER
    try:
        return OTHER if np.asarray(value).dtype == object else value
    except ValueError:  # lists of different lengths
        return OTHER


def seed_of(rng: Any) -> int:
    """An integer seed: `rng` itself, a number drawn from a Generator, or (None) an unpredictable one."""
    return rng if isinstance(rng, int) else int(np.random.default_rng(rng).integers(2**31))


def check_seeds(rng: int, n_seeds: int) -> None:
    """Refuse a seed if `rng + n_seeds` is larger than the largest seed."""
    if rng + n_seeds > LARGEST_SEED:
        msg = f"rng={rng} leaves no room for n_seeds={n_seeds}: the largest seed is {LARGEST_SEED}. Give a smaller rng."
        raise ValueError(msg)
