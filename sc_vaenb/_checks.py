"""The one home of argument checks: `@checked` checks every argument of a public function before any work is done.

What an argument may be is read off its annotation: kinds such as `int` or `Sequence[str]`, and the choices of a
`Literal`. Two tables, by the name of the parameter, say what a signature cannot: `BOUNDS` of numbers and `WORDS` for
messages. Whether a column, layer or gene is there is checked by what reads it (`_adata`).

Classes of other packages are known by their names, so that nothing heavy is imported here.
"""

from __future__ import annotations

import ast
import inspect
import math
import os
from collections.abc import Callable, Iterator, Mapping
from functools import partial, wraps
from typing import Any, NamedTuple, ParamSpec, TypeVar

import numpy as np

from ._names import is_writable

P = ParamSpec("P")
R = TypeVar("R")

LARGEST_SEED = 2**32 - 1  # what numpy's, scikit-learn's and umap's seeds can be
LARGEST_WHOLE = 2**31 - 1  # of a number of things: what compiled code counts with
LARGEST_NUMBER = 1e12  # of a weight, a sum, a size factor: squares of larger ones leave float32


class ArgumentError(ValueError, TypeError):
    """An argument is of the wrong type or has an impossible value."""


class Bounds(NamedTuple):
    """What a number may be; `above` and `below` leave out the ends."""

    low: float = -math.inf
    high: float = math.inf
    above: bool = False
    below: bool = False

    def high_of(self, value: float) -> float:
        """The largest number, also where the table says nothing."""
        return min(self.high, LARGEST_WHOLE if isinstance(value, int) and self.high == math.inf else LARGEST_NUMBER)

    def holds(self, value: float) -> bool:
        inside = self.low <= value <= self.high_of(value) and value > -math.inf  # False for NaN
        return inside and not (self.above and value == self.low) and not (self.below and value == self.high)


POSITIVE = Bounds(0, above=True)
FROM_0, FROM_1, FROM_2 = Bounds(0), Bounds(1), Bounds(2)
ZERO_TO_ONE = Bounds(0, 1)

# By the name of a parameter, or "folder.function.parameter" where one name has several meanings.
BOUNDS: Mapping[str, Bounds] = {
    "adversary": FROM_0,
    "alpha": Bounds(0, 1, above=True, below=True),
    "batch_size": FROM_1,
    "bio_weight": ZERO_TO_ONE,
    "batch_strength": FROM_0,
    "beta": FROM_0,
    "decoder_hidden": Bounds(1, 100_000),
    "delta": POSITIVE,
    "depth_spread": FROM_0,
    "dropout": Bounds(0, 0.9),
    "datasets.simulate.dropout": Bounds(0, 1, below=True),
    "free_bits": FROM_0,
    "hidden": Bounds(1, 100_000),
    "k": FROM_1,
    "metrics.score.k": Bounds(6),
    "learning_rate": POSITIVE,
    "marker_fold": FROM_1,
    "marker_share": ZERO_TO_ONE,
    "max_batches": FROM_1,
    "max_cells": FROM_1,
    "tl.factors.max_cells": FROM_2,
    "tl.score.max_cells": Bounds(100),
    "mean_depth": POSITIVE,
    "mmd": FROM_0,
    "n_batches": FROM_1,
    "datasets.demo.n_batches": Bounds(1, 26),  # named by letters
    "n_cells": Bounds(1, 10**8),
    "n_components": Bounds(1, 100),
    "n_dimensions": FROM_1,
    "n_draws": Bounds(1, 10_000),
    "n_genes": Bounds(1, 10**6),
    "n_jobs": Bounds(1, 10_000),
    "n_latent": Bounds(1, 10_000),
    "n_neighbors": FROM_1,
    "n_points": Bounds(2, 100_000),
    "min_cells": FROM_1,
    "n_samples": Bounds(0, 10**6),
    "tl.differential.n_samples": Bounds(1, 10**6),
    "tl.posterior_check.n_samples": Bounds(10, 10**6),
    "n_seeds": Bounds(1, 10_000),
    "tl.tune.n_seeds": Bounds(0, 10_000),
    "n_steps": Bounds(1, 10**9),
    "n_top": FROM_1,
    "n_top_genes": FROM_1,
    "n_trials": Bounds(1, 10**6),
    "n_types": FROM_1,
    "patience": FROM_1,
    "perplexity": Bounds(1, above=True),
    "resolution": POSITIVE,
    "resolutions": POSITIVE,
    "rng": Bounds(0, LARGEST_SEED),
    "seed": Bounds(0, LARGEST_SEED),
    "size": POSITIVE,
    "size_factor": POSITIVE,
    "target_kl": POSITIVE,
    "target_sum": POSITIVE,
    "theta": POSITIVE,
    "threshold": FROM_0,
    "validation_fraction": Bounds(0, 0.9),
    "warmup": ZERO_TO_ONE,
    "weight_decay": FROM_0,
}

COLUMN, COLUMNS = "the name of a column of obs", "names of columns of obs"
WORDS: Mapping[str, str] = {
    "basis": "the name of an embedding in obsm",
    "batch": "the name of a batch",
    "batch_key": COLUMN,
    "condition_key": COLUMN,
    "checkpoint": "a folder",
    "clusters": COLUMN,
    "color": "names of columns of obs, or of genes",
    "covariate_keys": COLUMNS,
    "covariates": COLUMNS,
    "data": "the path of a file",
    "decoder_hidden": "a sequence of widths: (128,), or () for no hidden layer",
    "device": "the name of a device, such as 'auto', 'cpu' or 'cuda:0'",
    "embeddings": "names of embeddings in obsm",
    "end": "the name of a cell, or of a group",
    "folder": "the path of a folder",
    "genes": "names of genes",
    "groupby": COLUMN,
    "groups": "names of groups",
    "tl.sample.groups": "a dict from columns of obs to labels, such as {'cell_type': 'B'}",
    "hidden": "a sequence of widths: (128,), or () for no hidden layer",
    "key": "a name in uns",
    "key_added": "a name without '/'",
    "keys": "names of embeddings in obsm",
    "label_key": COLUMN,
    "sample_key": COLUMN,
    "groups_key": COLUMNS,
    "labels_key": COLUMN,
    "layer": "the name of a layer",
    "likelihoods": "'nb', with which the others are compared, and one or more of 'zinb' and 'poisson'",
    "mask_var": "the name of a boolean column of var, an array of booleans",
    "path": "the path of a file",
    "protein_key": "the name of a table in obsm",
    "reference": "a name",
    "tl.score.reference": "the name of an embedding in obsm",
    "size_factor": COLUMN,
    "space": "a dict such as {'n_latent': [10, 30], 'beta': (0.1, 2.0)}",
    "start": "the name of a cell, or of a group",
    "storage": "the name of a file, or a URL such as 'sqlite:///tune.db'",
    "unlabeled": "the text that stands for no label",
    "variants": "a dict from names to arguments of sc_vaenb.tl.cvae, such as {'wide': {'hidden': (256,)}}",
    "via": "names of cells, or of groups",
}
LABELS = {
    "batch",
    "end",
    "groups",
    "tl.differential.reference",
    "start",
    "via",
}  # names of groups: clusters are often numbers
BATCHES = " This needs batches. Use sc_vaenb.tl.cvae(adata, batch_key=...)."  # a choice that tl.vae does not have
MAY_BE_EMPTY = {"command", "title", "unlabeled"}

NO = object()  # what a reader returns for a value that is not of its kind


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """Check all arguments of a function by its annotations, and hand it Python's own types.

    numpy's scalars become Python's, other sequences lists; one name becomes a list where several are taken.
    """
    signature = inspect.signature(function)
    arguments = _arguments(function)

    @wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError:
            return function(*args, **kwargs)  # Python says what is missing or not known, and of which function
        given = bound.arguments
        for name, value in given.items():
            given[name] = arguments[name].read(value)
        if "copy" in arguments:
            check_adata(given["adata"], copy=given.get("copy", False))
        return function(*bound.args, **bound.kwargs)

    wrapper.__kwdefaults__ = function.__kwdefaults__  # type: ignore[attr-defined]
    return wrapper


def check_values(function: Callable[..., Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments for a later call of `function`, checked as that call would; those it does not have are as they are."""
    arguments = _arguments(function)
    return {name: arguments[name].read(value) if name in arguments else value for name, value in values.items()}


def _arguments(function: Callable[..., Any]) -> dict[str, _Argument]:
    where = f"{function.__module__.split('.')[1]}.{function.__name__}"
    return {name: _Argument(where, parameter) for name, parameter in inspect.signature(function).parameters.items()}


class _Kind(NamedTuple):
    """One alternative of an annotation: how a value of it is read (`NO`: it is none), and its words in a message."""

    read: Callable[[Any], Any]
    words: str
    named: bool = False  # the table WORDS says what it is


class _Argument:
    """One argument of a function: what it may be, by its annotation and by the tables."""

    def __init__(self, function: str, parameter: inspect.Parameter) -> None:
        self.name = parameter.name
        self.bounds = BOUNDS.get(f"{function}.{self.name}", BOUNDS.get(self.name, Bounds()))
        self.needs_genes = not function.startswith("pl.")  # embeddings and results can be drawn without
        self.is_label = not LABELS.isdisjoint({self.name, f"{function}.{self.name}"})
        self.words = WORDS.get(f"{function}.{self.name}", WORDS.get(self.name))
        parts = list(_alternatives(ast.parse(str(parameter.annotation), mode="eval").body))
        self.choices = [choice for part in parts for choice in _choices(part)]
        self.kinds = {ast.unparse(part): self._kind(part) for part in parts}

    def read(self, value: Any) -> Any:
        """The value in Python's own types, or an error that says what to give."""
        if "AnnData" in self.kinds:
            check_anndata(value, self.name, genes=self.needs_genes)
            return value
        for kind in self.kinds.values():
            if (found := kind.read(value)) is not NO:
                return found
        start = f"{self.name}={short(value)} is"
        others = set(self.kinds) - {"None"}
        if self.choices and len(others) == 1 and not next(iter(others)).startswith("Sequence"):
            advice = BATCHES if isinstance(value, str) and value in {"conditional", "gene-batch"} else ""
            raise ArgumentError(f"{start} not known. Choose one of {self.choices}.{advice}")
        if others == {"bool"}:
            raise ArgumentError(f"{start} not possible. Choose True or False.")
        words = [self.words] if self.words and any(kind.named for kind in self.kinds.values()) else []
        words += [kind.words for kind in self.kinds.values() if not (kind.named and words)]
        words = list(dict.fromkeys(words))
        said = f"{', '.join(words[:-1])} or {words[-1]}" if len(words) > 1 else words[0]
        raise ArgumentError(f"{start} not possible. Give {said}.{self._advice(value)}")

    def _kind(self, part: ast.expr) -> _Kind:
        kind = ast.unparse(part)
        head = kind.partition("[")[0].rpartition(".")[2]
        if head == "Literal":
            choices = _choices(part)
            return _Kind(
                lambda value: str(value) if isinstance(value, str) and value in choices else NO, f"one of {choices}"
            )
        if isinstance(part, ast.Subscript) and head == "Sequence":
            items = [self._kind(inner) for inner in _alternatives(part.slice)]
            numbers = all(
                isinstance(inner, ast.Name) and inner.id in {"int", "float"} for inner in _alternatives(part.slice)
            )
            return _Kind(
                partial(self._numbers if numbers else self._names, items),
                "a sequence of numbers" if numbers else "a list of names",
                True,
            )
        return {
            "None": _Kind(lambda value: None if value is None else NO, "None"),
            "bool": _Kind(lambda value: bool(value) if isinstance(value, bool | np.bool_) else NO, "True or False"),
            "int": _Kind(partial(self._number, (int, np.integer)), f"a whole number{_in_words(self.bounds)}"),
            "float": _Kind(
                partial(self._number, (int, float, np.integer, np.floating)), f"a number{_in_words(self.bounds)}"
            ),
            "str": _Kind(self._text, "a text", True),
            "PathLike": _Kind(lambda value: value if isinstance(value, os.PathLike) else NO, "a path", True),
            "Path": _Kind(lambda value: value if isinstance(value, os.PathLike) else NO, "a path", True),
            "Mapping": _Kind(lambda value: value if isinstance(value, Mapping) else NO, "a dict", True),
            "ArrayLike": _Kind(lambda value: NO if value is None or is_a(value, *NO_ARRAYS) else value, "an array"),
            "NDArray": _Kind(_array, "an array", True),
            "FloatArray": _Kind(_array, "an array of numbers"),
            "csr_array": _Kind(lambda value: value if hasattr(value, "tocsr") else NO, "a sparse matrix (scipy)"),
        }.get(head, _Kind(lambda value: value if is_a(value, head) else NO, OTHERS.get(head, f"a {head}")))

    def _number(self, kinds: tuple[type, ...], value: Any) -> Any:
        if isinstance(value, bool) or not isinstance(value, kinds):
            return NO
        value = value.item() if isinstance(value, np.generic) else value
        return value if self.bounds.holds(value) else NO

    def _text(self, value: Any) -> Any:
        if self.is_label and isinstance(value, int | np.integer) and not isinstance(value, bool):
            return str(value)
        if not isinstance(value, str) or (not value and self.name not in MAY_BE_EMPTY):
            return NO
        if self.name not in MAY_BE_EMPTY and any(letter == "\0" or "\ud800" <= letter <= "\udfff" for letter in value):
            return NO  # no file, column or gene can have such a name
        return NO if self.name == "key_added" and not is_writable(value) else str(value)

    def _names(self, items: list[_Kind], value: Any) -> Any:
        values = [value] if isinstance(value, str) else _listed(value)
        found = [next((f for kind in items if (f := kind.read(item)) is not NO), NO) for item in values or ()]
        if values is None or any(item is NO for item in found):
            return NO
        return tuple(found) if isinstance(value, tuple) else found

    def _numbers(self, items: list[_Kind], value: Any) -> Any:
        values = _listed(value)
        if values is None:
            return NO
        found = [items[0].read(item) for item in values]
        for at, item in enumerate(found):
            if item is NO:
                msg = f"{self.name}[{at}]={short(values[at])} is not possible. Give {items[0].words}."
                raise ArgumentError(msg)
        return tuple(found) if isinstance(value, tuple) else found

    def _advice(self, value: Any) -> str:
        """What to do with a value that is often given here."""
        if isinstance(value, int | float) and not isinstance(value, bool) and value > self.bounds.high_of(value):
            return " This one is too large."
        if self.name == "key_added" and isinstance(value, str) and value and "/" not in value:
            return " It must be more than dots, and have no control characters."
        several = _listed(value)
        if self.words == COLUMN and several and all(isinstance(item, str) for item in several):
            if hasattr(value, "dtype"):
                return f" Put the values into adata.obs first, and give the name of that column as {self.name}."
            joined = " + '_' + ".join(f"adata.obs[{item!r}].astype(str)" for item in several)
            return f" A list of columns does not work yet; join them: adata.obs['joined'] = {joined}."
        if self.words == COLUMN and several is not None:
            return f" Put the values into adata.obs first, and give the name of that column as {self.name}."
        if self.name == "layer" and hasattr(value, "shape"):
            return " layer=None takes X."
        if self.name == "fig" and hasattr(value, "get_figure"):
            return " The figure of an Axes is ax.figure."
        return ""


NO_ARRAYS = ("AnnData", "MuData", "SpatialData", "Mapping", "dict", "set")  # numpy would go through them item by item
OTHERS = {
    "Generator": "a numpy.random.Generator",
    "Figure": "a matplotlib Figure",
    "SubFigure": "a SubFigure",
    "Neighbors": "what sc_vaenb.metrics.knn returns",
    "ClusterScore": "what sc_vaenb.metrics.cluster_scores returns",
}


def _alternatives(node: ast.expr) -> Iterator[ast.expr]:
    """The parts of an annotation between its bars."""
    if isinstance(node, ast.BinOp):
        yield from _alternatives(node.left)
        yield from _alternatives(node.right)
    else:
        yield node


def _choices(node: ast.expr) -> list[str]:
    if isinstance(node, ast.Subscript) and ast.unparse(node.value) == "Literal":
        found = ast.literal_eval(node.slice)
        return list(found) if isinstance(found, tuple) else [found]
    return []


def _in_words(bounds: Bounds) -> str:
    if bounds == Bounds():
        return ""
    low = "" if bounds.low == -math.inf else f" {'above' if bounds.above else 'at least'} {bounds.low:,g}"
    high = "" if bounds.high == math.inf else f" {'below' if bounds.below else 'at most'} {bounds.high:,}"
    return low + (" and" if low and high else "") + high


def _listed(value: Any) -> list[Any] | None:
    """The items of a sequence in one dimension, of whatever kind; None for anything else."""
    if isinstance(value, list | tuple | range):
        return list(value)
    one_dimension = is_a(value, "ndarray", "Index", "Series", "Categorical") and getattr(value, "ndim", 0) == 1
    return list(value) if one_dimension else None


def _array(value: Any) -> Any:
    if not (is_a(value, "ndarray", "Series", "ExtensionArray") or isinstance(value, list | tuple)):
        return NO
    try:
        return NO if np.asarray(value).dtype == object else value
    except ValueError:  # lists of different lengths
        return NO


def is_a(value: object, *names: str) -> bool:
    """Whether the class of a value, or one that it inherits from, has one of these names."""
    return any(kind.__name__ in names for kind in type(value).__mro__)


def short(value: object) -> str:
    """A value as a message shows it: on one line, however large it is."""
    if getattr(value, "shape", ()) != ():
        return f"<{type(value).__name__} of shape {value.shape}>"  # type: ignore[attr-defined]
    try:
        text = " ".join(repr(value).split())
    except Exception:  # an object of the user's, which may do anything
        text = f"<{type(value).__name__}>"
    return text if len(text) <= 100 else f"{text[:80]}..."


def seed_of(rng: Any) -> int:
    """A whole number to seed with: the one given, one drawn from a Generator, or (None) one that nobody knows."""
    return rng if isinstance(rng, int) else int(np.random.default_rng(rng).integers(2**31))


def check_seeds(rng: int, n_seeds: int) -> None:
    """Refuse a seed from which one cannot count up."""
    if rng + n_seeds > LARGEST_SEED:
        msg = f"rng={rng} leaves no room for n_seeds={n_seeds}: the largest seed is {LARGEST_SEED}. Give a smaller rng."
        raise ValueError(msg)


def _no_anndata(name: str, value: object) -> str:
    kind = f"{name} is a {type(value).__name__}, not an AnnData."
    if is_a(value, "MuData"):
        return f"{kind} Give one of its modalities: {name}[{next(iter(value.mod), 'rna')!r}]."  # type: ignore[attr-defined]
    if is_a(value, "SpatialData"):
        return f"{kind} Give one of its tables: {name}.tables[{next(iter(value.tables), 'table')!r}]."  # type: ignore[attr-defined]
    if is_a(value, "Raw"):
        return f"{kind} Give {name}.to_adata()."
    if isinstance(value, str | os.PathLike):
        return f"{kind} Read it with anndata.read_h5ad first."
    if isinstance(value, list | tuple | Mapping):
        return f"{kind} Join several with anndata.concat first."
    if value is None:
        return f"{name} is None, not an AnnData. Functions of scanpy and of sc_vaenb write into adata and return None."
    return f"{kind} Wrap counts with anndata.AnnData(counts) first."


def check_anndata(adata: Any, name: str = "adata", *, genes: bool = True) -> None:
    """Refuse what is no AnnData, is read lazily, or has no cells or, where they are needed, no `genes`."""
    if not is_a(adata, "AnnData"):
        raise ArgumentError(_no_anndata(name, adata))
    for slot in ("obs", "var"):
        if not is_a(table := getattr(adata, slot), "DataFrame"):
            msg = (
                f"{name}.{slot} is a {type(table).__name__}, as read lazily, not a pandas DataFrame. Call "
                f"{name}.{slot} = {name}.{slot}.to_memory() first; the counts can stay on disk."
            )
            raise ArgumentError(msg)
    if adata.n_obs == 0 or (genes and adata.n_vars == 0):
        msg = f"{name} has {adata.n_obs} cells and {adata.n_vars} genes: there is nothing to fit."
        raise ValueError(msg)


def check_adata(adata: Any, *, copy: bool = False) -> None:
    """Refuse an AnnData that cannot take a result, or names genes twice."""
    from .data.matrix import from_a_file, is_dask

    if adata.isbacked and (adata.is_view or copy):
        msg = (
            "adata is backed by a file, where no view can be written to and no copy made. Call adata.to_memory() first."
        )
        raise ValueError(msg)
    if (  # matrices are looked at only with copy: those of a view are cut out when they are
        copy
        and not adata.is_view
        and any(from_a_file(matrix) and not is_dask(matrix) for matrix in (adata.X, *adata.layers.values()))
    ):
        msg = "adata holds matrices on disk, of which no copy can be made. Leave out copy, and results go into adata."
        raise ValueError(msg)
    if not adata.var_names.is_unique:
        twice = adata.var_names[adata.var_names.duplicated()]
        msg = (
            f"var_names holds {len(twice)} duplicates (first: {twice[0]!r}), so genes cannot be told apart by name. "
            "Call adata.var_names_make_unique() first."
        )
        raise ValueError(msg)
