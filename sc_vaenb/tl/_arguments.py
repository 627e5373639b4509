"""The arguments of `tl.vae` and `tl.cvae`: refused where they cannot be, and in the forms that code and files need."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _adata
from ..fit.checkpoint import check_folder
from ..model.likelihood import LIKELIHOODS, LINKS
from ..model.network import ACTIVATIONS, NORMS
from ..model.prior import PRIORS

if TYPE_CHECKING:
    from anndata import AnnData

DIALS = ("adversary", "mmd")  # weights of the penalties that take batch effects out of the latent space


def check_arguments(adata: AnnData, arguments: Mapping[str, Any]) -> None:
    """Refuse what cannot be, before the counts are read."""
    params = {name: builtin(value) for name, value in arguments.items()}
    choices: dict[str, Iterable[str]] = {
        "likelihood": LIKELIHOODS,
        "link": LINKS,
        "activation": ACTIVATIONS,
        "norm": NORMS,
        "size_factor_as": ("multiplier", "covariate"),
        "dispersion": ("gene", "gene-batch"),
        "condition": ("embedding", "onehot"),
        "overlap": ("auto", "all"),
        "prior": PRIORS,
    }
    for name, valid in choices.items():
        if name in params:
            _adata.check_choice(name, params[name], valid)
    for name in ("n_latent", "n_steps", "batch_size", "patience"):
        if name not in {"n_steps", "patience"} or params[name] is not None:
            _adata.check_number(name, params[name], 1, whole=True)
    _adata.check_number("n_components", params["n_components"], 1, 100, whole=True)
    for name in ("hidden", "decoder_hidden"):
        widths = () if name == "decoder_hidden" and params[name] is None else params[name]
        if not isinstance(widths, Sequence):
            msg = f"{name}={widths!r} is not possible. Give a sequence of widths: (128,), or () for no hidden layer."
            raise TypeError(msg)
        for width in widths:
            _adata.check_number(f"a width in {name}", width, 1, whole=True)
    _adata.check_number("learning_rate", params["learning_rate"], 0, above=True)
    if params["target_kl"] is not None:
        _adata.check_number("target_kl", params["target_kl"], 0, above=True)
    for name, high in (("beta", np.inf), ("free_bits", np.inf), ("weight_decay", np.inf), ("warmup", 1)):
        if name != "weight_decay" or params[name] is not None:
            _adata.check_number(name, params[name], 0, high)
    for name in DIALS:
        _adata.check_number(name, params.get(name, 0.0), 0)
    for name in ("dropout", "validation_fraction"):
        _adata.check_number(name, params[name], 0, 0.9)
    if params["size_factor_as"] == "covariate" and params["link"] == "softmax" and params["likelihood"] != "gaussian":
        msg = (
            "size_factor_as='covariate' needs rates free to follow the depth, but link='softmax' gives shares. "
            "Choose link='exp' or 'softplus'."
        )
        raise ValueError(msg)
    if params["prior"] == "conditional" and params.get("batch_key") is None:
        msg = "prior='conditional' needs batches. Use sc_vaenb.tl.cvae(adata, batch_key=...), or prior='normal'."
        raise ValueError(msg)
    if params["prior"] == "vamp" and params["norm"] == "batch":
        msg = (
            "prior='vamp' encodes its pseudo-inputs beside the cells of a step, which norm='batch' would mix up. "
            "Choose norm='layer', or prior='mog'."
        )
        raise ValueError(msg)
    if params["dispersion"] == "gene-batch" and params.get("batch_key") is None:
        msg = "dispersion='gene-batch' needs batches. Use sc_vaenb.tl.cvae(adata, batch_key=...), or dispersion='gene'."
        raise ValueError(msg)
    n_fitted = adata.n_obs - round(params["validation_fraction"] * adata.n_obs)
    if params["norm"] == "batch" and min(params["batch_size"], n_fitted) < 2:
        msg = "norm='batch' needs two cells or more in each step. Raise batch_size, or choose norm='layer'."
        raise ValueError(msg)
    keys = params["covariate_keys"] or []
    if isinstance(keys, str) or not isinstance(keys, Sequence) or not all(isinstance(key, str) for key in keys):
        msg = f"covariate_keys={keys!r} is not possible. Give a list of columns of obs."
        raise TypeError(msg)
    if not isinstance(params["protein_key"], str | None):
        msg = f"protein_key={params['protein_key']!r} is not possible. Give the name of a table in obsm."
        raise TypeError(msg)
    if params["labels_key"] is not None and params["labels_key"] in keys:
        key = params["labels_key"]
        msg = f"labels_key={key!r} is among covariate_keys: the model would be told what it is to predict."
        raise ValueError(msg)
    for name in ("align", "encode_batch"):
        if not isinstance(params.get(name, True), bool):
            msg = f"{name}={params[name]!r} is not possible. Choose True or False."
            raise TypeError(msg)


def check_shareable(params: Mapping[str, Any], n_processes: int) -> None:
    """Refuse what is not the same when each process sees its part of a minibatch alone."""
    if params["rng"] is None:
        msg = f"{n_processes} processes need one seed: with rng=None each draws its own. Give rng a whole number."
        raise ValueError(msg)
    found = [f"{name}={params[name]!r}" for name in (*DIALS, "dropout", "free_bits") if params.get(name)]
    found += [
        f"{name}={params[name]!r}"
        for name, value in (("norm", "batch"), ("prior", "mog"), ("prior", "vamp"))
        if params[name] == value
    ]
    if found:
        msg = (
            f"{', '.join(found)} cannot be shared by {n_processes} processes, as each would need all cells of a step. "
            "Fit in one process (without torchrun), or leave it out."
        )
        raise ValueError(msg)


def folder_of(checkpoint: Any, rng: Any, *, checked: bool) -> Path | None:
    """The folder for the state of a fit that can go on: one that will be the same fit when it is called again."""
    if checkpoint is None:
        return None
    if not isinstance(checkpoint, str | os.PathLike):
        msg = f"checkpoint={checkpoint!r} is not possible. Give a folder, or None."
        raise TypeError(msg)
    if rng is None:
        msg = "checkpoint needs a seed: with rng=None no fit is that of before. Give rng a whole number."
        raise ValueError(msg)
    if checked:
        check_folder(Path(checkpoint))
    return Path(checkpoint)


def seed_of(rng: int | np.random.Generator | None) -> int:
    if isinstance(rng, int | np.integer) and not isinstance(rng, bool):
        _adata.check_number("rng", rng, 0, 2**63 - 1, whole=True)
        return int(rng)
    if rng is not None and not isinstance(rng, np.random.Generator):
        msg = f"rng={rng!r} is not possible. Give a whole number, a numpy.random.Generator or None."
        raise TypeError(msg)
    return int(np.random.default_rng(rng).integers(2**31))


def builtin(value: Any) -> Any:
    """Numbers and arrays of numpy as Python's own, which the checks expect and JSON can hold."""
    if isinstance(value, list | tuple):
        return [builtin(part) for part in value]
    return value.tolist() if isinstance(value, np.generic | np.ndarray) else value


def plain(params: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters as strings, numbers and arrays: what every file format can hold."""
    return {
        name: np.array(value, dtype=object if value and isinstance(value[0], str) else np.int64)
        if isinstance(value, tuple | list)
        else value
        for name, value in params.items()
        if value is not None
    }
