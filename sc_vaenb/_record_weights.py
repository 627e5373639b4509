"""The weights of a stored model, checked, and the model with them."""

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
FORMAT_1 = "sc_vaenb model 1"  # the same under other names: they are translated as a record is read
LARGEST_WEIGHT = 1e12
LARGEST_LOG_VAR = 50.0  # of a component of the prior; its exponential is still a number


def expected_weights(config: ModelConfig, version: str) -> dict[str, torch.Tensor]:
    """Tensors without memory, of the shapes and types that the weights must have, by their names in that format."""
    try:
        weights = dict(_empty_model(config).state_dict())
    except (RuntimeError, OverflowError, MemoryError) as error:  # sizes whose product no computer can hold
        raise Damaged(
            f"model['config'] asks for weights that cannot be ({' '.join(str(error).split())[:100]})"
        ) from error
    if version == FORMAT_1:
        return {re.sub("^batch_embedding[.]", "condition.", name): like for name, like in weights.items()}
    return weights


def _since_1(name: str) -> str:
    """What a weight is called in the model that has this name in a record of either format."""
    return re.sub("^condition[.]", "batch_embedding.", name)


def _empty_model(config: ModelConfig) -> CountVAE:
    """The model before it has weights: none are drawn, so no random state is touched and no memory taken."""
    with torch.device("meta"):
        return CountVAE(config)


def _tensor(name: str, value: Any, like: torch.Tensor) -> torch.Tensor:
    """One weight, of the type and shape that the model has there."""
    where = f"model['weights'][{name!r}]"
    # files make Python's numbers of arrays without dimensions: they get their type back
    found = np.asarray(value) if isinstance(value, int | float | np.generic) else value
    kind, width = ("f", 4) if like.dtype == torch.float32 else ("i", 8)
    if not isinstance(found, np.ndarray) or found.dtype.kind != kind or (found.ndim and found.dtype.itemsize != width):
        raise schema.refuse(where, value, f"an array of {str(like.dtype).removeprefix('torch.')}")
    if like.ndim == 0 and found.shape == (1,):
        found = found.reshape(())  # as the first versions wrote numbers to files of their own
    if found.shape != tuple(like.shape):
        raise Damaged(f"{where} has the shape {found.shape}, not {tuple(like.shape)}")
    schema.check_values(found, where, -LARGEST_WEIGHT, LARGEST_WEIGHT)
    return torch.from_numpy(np.array(found, dtype=f"={kind}{width}", order="C"))


def _check_meaning(weights: Mapping[str, torch.Tensor], config: ModelConfig) -> None:
    """Refuse weights whose values cannot be, wherever they point or whatever they are divided by."""
    n = config.n_batches
    code = list(config.batch_code or range(n))
    group = list(config.batch_group or [0] * n)
    for name, value in weights.items():
        last = name.rpartition(".")[2]
        if name == "depth" or name == "penalties.protein.spread":
            good, wanted = bool((value > 0).all()), "above 0"
        elif last in {"running_var", "num_batches_tracked"}:
            good, wanted = bool((value >= 0).all()), "0 or above"
        elif name == "batch_embedding.code":
            good, wanted = value.tolist() == code, "those in model['config']"
        elif last == "group":
            good, wanted = value.tolist() == group, "those in model['config']"
        elif name == "prior.weight":
            good = bool((value >= 0).all() and abs(float(value.sum()) - 1) < 1e-2)
            wanted = "shares of 1"
        elif name == "prior.log_var" and issubclass(PRIORS[config.prior], Mixture):
            good, wanted = (
                bool((value.abs() <= LARGEST_LOG_VAR).all()),
                f"within -{LARGEST_LOG_VAR:g} to {LARGEST_LOG_VAR:g}",
            )
        else:
            continue
        if not good:
            raise Damaged(f"model['weights'][{name!r}] holds values that are not {wanted}")


def build_model(weights: Any, config: ModelConfig, version: str) -> CountVAE:
    """The model with these weights, after every check of them; `version` is the format of the record."""
    stored = schema.fields({}, others=schema.anything)(weights, "model['weights']")
    shapes = expected_weights(config, version)
    if missing := [name for name in shapes if name not in stored]:
        raise Damaged(f"model['weights'] lacks {missing[0]!r}")
    if unknown := [name for name in stored if name not in shapes]:
        raise Damaged(f"model['weights'] has {schema.brief(unknown[0])}, which is not known")
    tensors = {_since_1(name): _tensor(name, stored[name], like) for name, like in shapes.items()}
    _check_meaning(tensors, config)
    model = _empty_model(config)
    model.load_state_dict(tensors, assign=True)
    return model.eval()
