"""The search space: which parameters a search varies, and the configurations drawn from it."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from .._checks import check_values
from .._constraints import ArgumentError
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
NOT_SEARCHED = (  # `tl.tune` sets these itself, or does not support them
    "batch_key",
    "labels_key",
    "unlabeled",
    "protein_key",
    "peaks_key",
    "layer",
    "mask_var",
    "controls",
    "time_key",
    "device",
    "rng",
    "checkpoint",
    "key_added",
    "copy",
)
DATA_PARAMETERS = (  # with different values, scores are of different data
    "size_factor",
    "covariate_keys",
    "allow_non_integer",
    "validation_fraction",
)
DIGITS = 3  # of a number drawn from a range: enough for a fit, and the recommended call stays easy to read


def default_space(batches: bool) -> Space:
    """A space around the defaults, with the priors that a model can have (with or without batches)."""
    return DEFAULT | {"prior": [prior for prior in PRIORS if batches or prior != "conditional"]}


def read_space(
    adata: AnnData, function: Callable, space: Mapping[str, Any] | None, arguments: Mapping[str, Any]
) -> Space:
    """The search space, after a check that `function` (`tl.vae` or `tl.cvae`) accepts every value in it."""
    defaults = function.__kwdefaults__ or {}
    if space is None:
        return default_space(arguments.get("batch_key") is not None)
    if not space:
        msg = f"space={space!r} is not possible. Give a dict such as {{'n_latent': [10, 30], 'beta': (0.1, 2.0)}}."
        raise ArgumentError(msg)
    known = [name for name in defaults if name not in NOT_SEARCHED]
    unknown = [name for name in space if name not in known]
    if unknown:
        msg = f"space has {unknown}, which cannot be searched. tl.{function.__name__} has {known}."
        raise ValueError(msg)
    checked = {str(name): _values(name, values, function) for name, values in space.items()}
    base = {**defaults, **arguments, **start_config(checked, defaults)}
    for name, values in checked.items():
        for value in values:
            try:
                check_together(adata, check_values(function, {**base, name: value}))
            except (TypeError, ValueError) as error:
                msg = f"space[{name!r}]: {error}"
                raise type(error)(msg) from error
    likelihoods = checked.get("likelihood", [])
    if "gaussian" in likelihoods and len(likelihoods) > 1:
        msg = "space['likelihood'] has 'gaussian' beside others: its likelihood is not one of counts. Leave it out."
        raise ValueError(msg)
    return checked


def _values(name: str, values: Any, function: Callable) -> list[Any] | tuple[float, float]:
    """The values of one parameter, checked: a list, or a range (low, high)."""
    if isinstance(values, list | np.ndarray) and len(values):
        unique = {json.dumps(_plain(value)): _plain(value) for value in values}
        if name in DATA_PARAMETERS and len(unique) > 1:
            msg = f"space[{name!r}] has {len(unique)} values, between which scores cannot be compared. Give one."
            raise ValueError(msg)
        return list(unique.values())
    is_pair = isinstance(values, tuple) and len(values) == 2
    are_numbers = is_pair and all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    if not are_numbers or not -np.inf < values[0] < values[1] < np.inf or name in DATA_PARAMETERS:
        msg = f"space[{name!r}]={values!r} is not possible. Give a list of values, or a pair (low, high) of numbers."
        raise ValueError(msg)
    annotation = str(inspect.signature(function).parameters[name].annotation)
    if not annotation.startswith(("int", "float")):
        msg = f"space[{name!r}]={values!r} is a range, but {name} is no number. Give a list of values."
        raise ValueError(msg)
    return values if annotation.startswith("int") else (float(values[0]), float(values[1]))


def _plain(value: Any) -> Any:
    """Python values in place of numpy values, tuples in place of other sequences."""
    if isinstance(value, list | tuple | np.ndarray):
        return tuple(_plain(item) for item in value)
    return value.item() if isinstance(value, np.generic) else value


def start_config(space: Space, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The defaults; if the space lacks one, the first value of the list, or the nearest end of the range."""
    config: dict[str, Any] = {}
    for name, values in space.items():
        default = _plain(defaults[name])
        if isinstance(values, list):
            config[name] = default if default in values else values[0]
        else:
            config[name] = values[0] if default is None else min(max(default, values[0]), values[1])
    return config


def suggest(trial: Any, space: Space) -> dict[str, Any]:
    """The configuration of a trial of optuna."""
    config: dict[str, Any] = {}
    for name, values in space.items():
        if isinstance(values, list):
            config[name] = _plain(json.loads(trial.suggest_categorical(name, [json.dumps(v) for v in values])))
            continue
        low, high = values
        is_integer = isinstance(low, int) and isinstance(high, int)
        value = (trial.suggest_int if is_integer else trial.suggest_float)(name, low, high, log=low > 0)
        config[name] = value if is_integer else min(max(float(f"{value:.{DIGITS}g}"), low), high)
    return config


def for_optuna(config: Mapping[str, Any], space: Space) -> dict[str, Any]:
    """A configuration in optuna's form: a value of a list as JSON text, a number of a range as it is."""
    return {name: json.dumps(value) if isinstance(space[name], list) else value for name, value in config.items()}


def in_words(config: Mapping[str, Any], defaults: Mapping[str, Any]) -> str:
    """The values of a configuration that differ from the defaults, as arguments of a call."""
    return ", ".join(f"{name}={value!r}" for name, value in config.items() if value != _plain(defaults[name]))
