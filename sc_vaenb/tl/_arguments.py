"""The arguments of `tl.vae` and `tl.cvae`: check their combinations, and convert them for Python and for files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..fit.checkpoint import check_folder, remove_states

if TYPE_CHECKING:
    from anndata import AnnData

BATCH_PENALTIES = ("adversary", "mmd")  # weights of the penalties that remove batch effects from the latent space


def check_together(adata: AnnData, params: Mapping[str, Any]) -> None:
    """Raise if arguments are valid one by one, but not together; called before the counts are read."""
    if params["size_factor_as"] == "covariate" and params["link"] == "softmax" and params["likelihood"] != "gaussian":
        msg = (
            "size_factor_as='covariate' needs rates that can change with the depth, but link='softmax' gives shares. "
            "Choose link='exp' or 'softplus'."
        )
        raise ValueError(msg)
    if params["prior"] == "vamp" and params["norm"] == "batch":
        msg = (
            "prior='vamp' encodes its pseudo-inputs together with the cells of a minibatch, and norm='batch' would mix "
            "them. Choose norm='layer', or prior='mog'."
        )
        raise ValueError(msg)
    n_fitted = adata.n_obs - round(params["validation_fraction"] * adata.n_obs)
    if params["norm"] == "batch" and min(params["batch_size"], n_fitted) < 2:
        msg = "norm='batch' needs two cells or more in each minibatch. Raise batch_size, or choose norm='layer'."
        raise ValueError(msg)
    given = [name for name in ("controls", "time_key") if params.get(name) is not None]
    if len(given) == 2:
        msg = "controls= and time_key= cannot be combined: each says with which cells a batch is compared. Give one."
        raise ValueError(msg)
    if given:
        _check_offsets(params, *given)
    keys = params["covariate_keys"] or []
    if (time_key := params.get("time_key")) in keys:
        msg = f"time_key={time_key!r} is among covariate_keys, whose effects are removed. Leave it out of these."
        raise ValueError(msg)
    if params["labels_key"] is not None and params["labels_key"] in keys:
        key = params["labels_key"]
        msg = f"labels_key={key!r} is among covariate_keys: the model would see the labels that it should predict."
        raise ValueError(msg)


def _check_offsets(params: Mapping[str, Any], name: str) -> None:
    """Raise for arguments that do not fit `controls` or `time_key`: batches only shift the log expression of genes."""
    if name == "time_key" and params["overlap"] == "all":
        msg = "overlap='all' and time_key= cannot be combined: batches of different time points would be one group."
        raise ValueError(msg)
    if params["likelihood"] == "gaussian" or params["link"] == "softplus":
        msg = (
            f"{name}= shifts the log of the expected counts, which likelihood='gaussian' and link='softplus' do not "
            "have. Choose likelihood='nb' and link='softmax' or 'exp'."
        )
        raise ValueError(msg)
    conflicts = [f"{penalty}={params[penalty]!r}" for penalty in BATCH_PENALTIES if params[penalty]]
    conflicts += ["prior='conditional'"] if params["prior"] == "conditional" else []
    if conflicts:
        kept = "cases" if name == "controls" else "time points"
        msg = (
            f"{', '.join(conflicts)} cannot be combined with {name}=, as it would remove the differences of the "
            f"{kept}. Leave it out, or leave {name} out."
        )
        raise ValueError(msg)


def check_shareable(params: Mapping[str, Any], n_processes: int) -> None:
    """Raise for arguments whose result changes if each process sees only its part of a minibatch."""
    if params["rng"] is None:
        msg = f"{n_processes} processes need one seed: with rng=None each draws its own. Give rng a whole number."
        raise ValueError(msg)
    for name in ("controls", "time_key"):
        if params.get(name) is not None:
            msg = f"{name}= needs all cells in one process, not in {n_processes}. Fit without torchrun."
            raise ValueError(msg)
    not_shared = (*BATCH_PENALTIES, "dropout", "free_bits", "peaks_key")
    conflicts = [f"{name}={params[name]!r}" for name in not_shared if params.get(name)]
    conflicts += [
        f"{name}={params[name]!r}"
        for name, value in (("norm", "batch"), ("prior", "mog"), ("prior", "vamp"))
        if params[name] == value
    ]
    if conflicts:
        msg = (
            f"{', '.join(conflicts)} cannot be shared by {n_processes} processes, as each would need all cells of a "
            "minibatch. Fit in one process (without torchrun), or leave it out."
        )
        raise ValueError(msg)


def checkpoint_folder(checkpoint: Any, rng: Any, *, checked: bool) -> Path | None:
    """The folder for the state of a fit that can be continued. Raise if another call would not be the same fit."""
    if checkpoint is None:
        return None
    if rng is None:
        msg = "checkpoint needs a seed: with rng=None every fit is a different one. Give rng a whole number."
        raise ValueError(msg)
    if checked:
        check_folder(Path(checkpoint))
    return Path(checkpoint)


def to_python(value: Any) -> Any:
    """Convert numpy numbers and arrays to Python numbers and lists, as the checks and JSON need."""
    if isinstance(value, list | tuple):
        return [to_python(item) for item in value]
    return value.tolist() if isinstance(value, np.generic | np.ndarray) else value


def to_uns(params: Mapping[str, Any]) -> dict[str, Any]:
    """Convert parameters to strings, numbers and arrays, which every file format can hold."""
    return {
        name: np.array(value, dtype=object if value and isinstance(value[0], str) else np.int64)
        if isinstance(value, tuple | list)
        else value
        for name, value in params.items()
        if value is not None
    }


def forget_states(folder: Path) -> None:
    """Remove the saved states of a fit, after its results are written."""
    remove_states(folder)
