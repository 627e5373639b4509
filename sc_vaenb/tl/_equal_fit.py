"""Find a stored fit that is, to the bit, the one that a call of `tl.vae` or `tl.cvae` would make."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import asdict
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _adata
from .._checks import check_values, seed_of
from .._record import FORMAT, FittedModel, read_history
from ..data.counts import checksum
from ..fit.distributed import Processes, own_device
from ._arguments import to_python
from ._inputs import Inputs, read_inputs

if TYPE_CHECKING:
    from anndata import AnnData

NOT_IN_PARAMS = {"adata", "copy", "key_added", "checkpoint"}  # arguments that do not change the fit
FINGERPRINT = "fingerprint"  # its entry in the record of a fit


def params_of(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `tl.vae` or `tl.cvae` that determine the fit."""
    return {name: to_python(value) for name, value in arguments.items() if name not in NOT_IN_PARAMS}


def fingerprint(
    method: str, params: Mapping[str, Any], seed: int, device: object, inputs: Inputs
) -> dict[str, str] | None:
    """What a fit is made from; None if it cannot be told cheaply, as of counts on disk that are not read at once."""
    held = inputs.counts.held
    if held is not None and len(held) < len(inputs.counts):
        return None
    return {"params": _params(method, params, seed, device), "data": _data(inputs)}


def seal(adata: AnnData, key: str, made_from: Mapping[str, str]) -> None:
    """Store the fingerprint of a fit that was just written, with a checksum of its results."""
    adata.uns[key][FINGERPRINT] = {**made_from, "results": _results(adata, key)}


def equal_fit(adata: AnnData, fit: Callable[..., Any], arguments: Mapping[str, Any], preferred: str) -> str | None:
    """The key of a fit in `adata` that equals what `fit(adata, **arguments)` would write, or None.

    Counts are read only if a fit has the same parameters. Of several equal fits, the one with the `preferred` key.
    """
    stored = {
        key: value
        for key, record in adata.uns.items()
        if isinstance(record, Mapping) and isinstance(value := record.get(FINGERPRINT), Mapping)
    }
    if not stored:
        return None
    try:
        params = params_of(check_values(fit, arguments))
        seed, device = seed_of(params["rng"]), own_device(params["device"])
        params_digest = _params(fit.__name__, params, seed, device)
        keys = [key for key, value in stored.items() if str(value.get("params")) == params_digest]
        if not keys:
            return None
        data_digest = _data(read_inputs(adata, params, seed, Processes()))
    except (KeyError, TypeError, ValueError):  # the fit will say what is wrong
        return None
    equal = [key for key in keys if str(stored[key].get("data")) == data_digest and _is_intact(adata, key)]
    return preferred if preferred in equal else next(iter(equal), None)


def take_over(adata: AnnData, source: str, key: str) -> float:
    """Copy a fit to another key, unless it is its own; return the seconds that the fit took."""
    if source != key:
        _adata.remove_extras(adata, key)
        _adata.write_result(adata, key, adata.obsm[f"X_{source}"].copy(), deepcopy(adata.uns[source]))
        adata.varm[_adata.loadings_key(key)] = adata.varm[_adata.loadings_key(source)].copy()
    return float(read_history(adata, key)[0]["seconds"][-1])


def _params(method: str, params: Mapping[str, Any], seed: int, device: object) -> str:
    versions = {"version": version("sc_vaenb"), "format": FORMAT}
    return _digest({**params, **versions, "method": method, "rng": seed, "device": str(device)})


def _data(inputs: Inputs) -> str:
    return _digest({**vars(inputs), "counts": inputs.counts.fingerprint(), "options": asdict(inputs.options)})


def _digest(facts: Mapping[str, Any]) -> str:
    text = json.dumps(facts, sort_keys=True, default=lambda array: np.asarray(array).tolist())
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _results(adata: AnnData, key: str) -> str:
    """A checksum of embedding, loadings and weights, which someone may have changed since the fit."""
    embedding, loadings = np.asarray(adata.obsm[f"X_{key}"]), np.asarray(adata.varm[_adata.loadings_key(key)])
    stored = adata.uns[key]["model"]["weights"]
    # as float64, because a file makes that of single numbers
    weights = [np.asarray(stored[name], np.float64) for name in sorted(stored)]
    return f"{checksum(embedding, loadings, *weights):08x}"


def _is_intact(adata: AnnData, key: str) -> bool:
    """Whether a stored fit is complete, passes every check, and was not changed since."""
    try:
        FittedModel.from_uns(adata, key)
        return bool(adata.uns[key][FINGERPRINT].get("results") == _results(adata, key))
    except (KeyError, TypeError, ValueError):
        return False
