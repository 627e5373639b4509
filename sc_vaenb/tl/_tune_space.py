"""What a search may vary: a space of parameters, and the configurations drawn from it."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from .._checks import ArgumentError, check_values
from ..model.prior import PRIORS
from ._arguments import check_together

if TYPE_CHECKING:
    from anndata import AnnData

Space = dict[str, list[Any] | tuple[float, float]]

DEFAULT: Space = {
    "n_latent": [10, 20, 30, 50],
    "beta": (0.1, 2.0),
    "hidden": [(64,), (128,), (256,), (128, 128)],
    "learning_rate": (2e-3, 1.2e-2),
}
OF_TUNE = (
    "batch_key",
    "labels_key",
    "unlabeled",
    "protein_key",
    "layer",
    "mask_var",
    "device",
    "rng",
    "checkpoint",
    "key_added",
    "copy",
)  # told otherwise, or not
OF_DATA = (
    "size_factor",
    "covariate_keys",
    "allow_non_integer",
    "validation_fraction",
)  # with others, scores are of other data
DIGITS = 3  # of a number drawn from a range: no fit depends on more, and the call to make is easy to read


def default_space(batches: bool) -> Space:
    """Around the defaults, with the priors that a model with batches, or one without, can have."""
    return DEFAULT | {"prior": [prior for prior in PRIORS if batches or prior != "conditional"]}


def read_space(adata: AnnData, function: Callable, space: Mapping[str, Any] | None, given: Mapping[str, Any]) -> Space:
    """The space to search, every value of which `function` (`tl.vae` or `tl.cvae`) takes."""
    defaults = function.__kwdefaults__ or {}
    if space is None:
        return default_space(given.get("batch_key") is not None)
    if not space:
        msg = f"space={space!r} is not possible. Give a dict such as {{'n_latent': [10, 30], 'beta': (0.1, 2.0)}}."
        raise ArgumentError(msg)
    known = [name for name in defaults if name not in OF_TUNE]
    unknown = [name for name in space if name not in known]
    if unknown:
        msg = f"space has {unknown}, which cannot be searched. tl.{function.__name__} has {known}."
        raise ValueError(msg)
    found = {str(name): _values(name, values, function) for name, values in space.items()}
    base = {**defaults, **given, **start(found, defaults)}
    for name, values in found.items():
        for value in values:
            try:
                check_together(adata, check_values(function, {**base, name: value}))
            except (TypeError, ValueError) as error:
                msg = f"space[{name!r}]: {error}"
                raise type(error)(msg) from error
    likelihoods = found.get("likelihood", [])
    if "gaussian" in likelihoods and len(likelihoods) > 1:
        msg = "space['likelihood'] has 'gaussian' beside others: its likelihood is not one of counts. Leave it out."
        raise ValueError(msg)
    return found


def _values(name: str, values: Any, function: Callable) -> list[Any] | tuple[float, float]:
    if isinstance(values, list | np.ndarray) and len(values):
        unique = {json.dumps(_plain(value)): _plain(value) for value in values}
        if name in OF_DATA and len(unique) > 1:
            msg = f"space[{name!r}] has {len(unique)} values, between which scores do not compare. Give one."
            raise ValueError(msg)
        return list(unique.values())
    numbers = isinstance(values, tuple) and all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
    if not numbers or len(values) != 2 or not -np.inf < values[0] < values[1] < np.inf or name in OF_DATA:
        msg = f"space[{name!r}]={values!r} is not possible. Give a list of values, or a pair (low, high) of numbers."
        raise ValueError(msg)
    kind = str(inspect.signature(function).parameters[name].annotation)
    if not kind.startswith(("int", "float")):
        msg = f"space[{name!r}]={values!r} is a range, but {name} is no number. Give a list of values."
        raise ValueError(msg)
    return values if kind.startswith("int") else (float(values[0]), float(values[1]))


def _plain(value: Any) -> Any:
    """numpy's values as Python's own, sequences as tuples."""
    if isinstance(value, list | tuple | np.ndarray):
        return tuple(_plain(part) for part in value)
    return value.item() if isinstance(value, np.generic) else value


def start(space: Space, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The defaults, as far as the space has them: else the first value of a list, or the end of a range nearest."""
    chosen: dict[str, Any] = {}
    for name, values in space.items():
        default = _plain(defaults[name])
        if isinstance(values, list):
            chosen[name] = default if default in values else values[0]
        else:
            chosen[name] = values[0] if default is None else min(max(default, values[0]), values[1])
    return chosen


def suggest(trial: Any, space: Space) -> dict[str, Any]:
    """The configuration that a trial of optuna stands for."""
    chosen: dict[str, Any] = {}
    for name, values in space.items():
        if isinstance(values, list):
            chosen[name] = _plain(json.loads(trial.suggest_categorical(name, [json.dumps(v) for v in values])))
            continue
        low, high = values
        whole = isinstance(low, int) and isinstance(high, int)
        value = (trial.suggest_int if whole else trial.suggest_float)(name, low, high, log=low > 0)
        chosen[name] = value if whole else min(max(float(f"{value:.{DIGITS}g}"), low), high)
    return chosen


def for_optuna(config: Mapping[str, Any], space: Space) -> dict[str, Any]:
    """A configuration in the form in which optuna knows it: a choice as text, a number of a range as it is."""
    return {name: json.dumps(value) if isinstance(space[name], list) else value for name, value in config.items()}


def in_words(config: Mapping[str, Any], defaults: Mapping[str, Any]) -> str:
    """What of a configuration differs from the defaults, as arguments of a call."""
    return ", ".join(f"{name}={value!r}" for name, value in config.items() if value != _plain(defaults[name]))
