"""Check the weights of a stored model, and build the model with them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from . import _schema as schema
from ._schema import Damaged
from .model.config import ModelConfig
from .model.mixture import Mixture
from .model.prior import PRIORS
from .model.vae import CountVAE

FORMAT = "sc_vaenb model 2"
FORMAT_1 = "sc_vaenb model 1"  # the same content under other names, which are translated when a record is read
LARGEST_WEIGHT = 1e12
LARGEST_OFFSET = 50.0  # of log expression in a batch
LARGEST_LOG_VAR = 50.0  # of a component of the prior; its exponential is still finite


def expected_weights(config: ModelConfig, version: str) -> dict[str, torch.Tensor]:
    """Meta tensors with the shapes and types that the weights must have, by the names in that format."""
    try:
        weights = dict(_empty_model(config).state_dict())
    except (RuntimeError, OverflowError, MemoryError) as error:  # sizes that no computer can hold
        raise Damaged(
            f"model['config'] asks for weights that cannot be ({' '.join(str(error).split())[:100]})"
        ) from error
    if version == FORMAT_1:
        return {re.sub("^batch_embedding[.]", "condition.", name): like for name, like in weights.items()}
    return weights


def _current_name(name: str) -> str:
    """The name in the model of a weight that has this name in a record of either format."""
    return re.sub("^condition[.]", "batch_embedding.", name)


def _empty_model(config: ModelConfig) -> CountVAE:
    """The model without weights, on the meta device: no random numbers are drawn and no memory is used."""
    with torch.device("meta"):
        return CountVAE(config)


def _tensor(name: str, value: Any, like: torch.Tensor) -> torch.Tensor:
    """One weight, with the type and shape that the model requires."""
    where = f"model['weights'][{name!r}]"
    # files turn 0-d arrays into Python numbers, which become arrays again here
    array = np.asarray(value) if isinstance(value, int | float | np.generic) else value
    kind, width = ("f", 4) if like.dtype == torch.float32 else ("i", 8)
    if not isinstance(array, np.ndarray) or array.dtype.kind != kind or (array.ndim and array.dtype.itemsize != width):
        raise schema.unexpected(where, value, f"an array of {str(like.dtype).removeprefix('torch.')}")
    if like.ndim == 0 and array.shape == (1,):
        array = array.reshape(())  # the first versions wrote single numbers to model files in this shape
    if array.shape != tuple(like.shape):
        raise Damaged(f"{where} has the shape {array.shape}, not {tuple(like.shape)}")
    schema.check_values(array, where, -LARGEST_WEIGHT, LARGEST_WEIGHT)
    return torch.from_numpy(np.asarray(array, dtype=f"={kind}{width}", order="C")).clone()


def _check_meaning(weights: Mapping[str, torch.Tensor], config: ModelConfig) -> None:
    """Refuse weights with impossible values, such as unknown batch codes or shares that do not add up to 1."""
    n = config.n_batches
    code = list(config.batch_code or range(n))
    group = list(config.batch_group or [0] * n)
    for name, value in weights.items():
        last = name.rpartition(".")[2]
        if name in {"depth", "penalties.protein.spread", "penalties.peaks.depth"}:
            valid, expected = bool((value > 0).all()), "above 0"
        elif last in {"running_var", "num_batches_tracked"}:
            valid, expected = bool((value >= 0).all()), "0 or above"
        elif name == "batch_offset":
            valid = bool((value.abs() <= LARGEST_OFFSET).all())
            expected = f"within -{LARGEST_OFFSET:g} to {LARGEST_OFFSET:g}"
        elif name == "batch_embedding.code":
            valid, expected = value.tolist() == code, "those in model['config']"
        elif last == "group":
            valid, expected = value.tolist() == group, "those in model['config']"
        elif name == "embedding_map.matrix":
            pivot = torch.linalg.lu_factor_ex(value.double())[0].diagonal().abs()
            valid, expected = bool(pivot.min() > 1e-6 * pivot.max()), "those of a matrix that has an inverse"
        elif name == "prior.weight":
            valid = bool((value >= 0).all() and abs(float(value.sum()) - 1) < 1e-2)
            expected = "shares of 1"
        elif name == "prior.log_var" and issubclass(PRIORS[config.prior], Mixture):
            valid, expected = (
                bool((value.abs() <= LARGEST_LOG_VAR).all()),
                f"within -{LARGEST_LOG_VAR:g} to {LARGEST_LOG_VAR:g}",
            )
        else:
            continue
        if not valid:
            raise Damaged(f"model['weights'][{name!r}] holds values that are not {expected}")


def build_model(weights: Any, config: ModelConfig, version: str) -> CountVAE:
    """Check all weights and return the model with them; `version` is the format of the record."""
    stored = schema.fields({}, others=schema.anything)(weights, "model['weights']")
    shapes = expected_weights(config, version)
    if missing := [name for name in shapes if name not in stored]:
        raise Damaged(f"model['weights'] lacks {missing[0]!r}")
    if unknown := [name for name in stored if name not in shapes]:
        raise Damaged(f"model['weights'] has {schema.brief(unknown[0])}, which is not known")
    tensors = {_current_name(name): _tensor(name, stored[name], like) for name, like in shapes.items()}
    _check_meaning(tensors, config)
    model = _empty_model(config)
    model.load_state_dict(tensors, assign=True)
    return model.eval()
