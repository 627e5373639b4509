"""The embeddings of a comparison (`tl.compare`): which to compute, with which arguments, under which keys."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from .. import _adata
from .._checks import check_values
from .._constraints import ArgumentError
from .._names import is_writable
from ._arguments import check_together
from ._cvae import cvae
from ._equal_fit import equal_fit
from ._fingerprints import fingerprint, free_key, has_graph
from ._harmony import harmony
from ._pca import log_pca
from ._vae import vae

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

METHODS = "PCA", "Harmony", "VAE", "CVAE"


@dataclass(frozen=True)
class Run:
    """One embedding: `compute` writes it under `key`; `fingerprint` changes with its parameters and with the data.

    `source` is the key of an equal fit that exists already, if there is one.
    """

    method: str
    seed: int
    key: str
    fingerprint: str
    compute: Callable[[AnnData], Any]
    source: str | None


def plan_runs(
    adata: AnnData,
    batch_key: str | Sequence[str],
    variants: Mapping[str, Mapping[str, Any]],
    n_seeds: int,
    rng: int,
    options: Mapping[str, Any],
    data_checksum: int,
    made: pd.DataFrame,
) -> list[Run]:
    """The embeddings to compute. `data_checksum`: of counts and batches. `made`: embeddings of earlier comparisons."""
    _check_variants(adata, batch_key, variants, options)
    layer, mask_var = options["layer"], options["mask_var"]
    own_keys = set(made.index[~made["found"]])

    def run(method: str, seed: int, name: str, function: Callable[..., Any], arguments: Mapping[str, Any]) -> Run:
        is_fit = function in (vae, cvae)
        params = {**(function.__kwdefaults__ or {}), **arguments} if is_fit else {}
        made_from = fingerprint(adata, method, seed, params, data_checksum)
        earlier = made.index[made["made_from"] == made_from]
        source = equal_fit(adata, function, params, name) if is_fit and earlier.empty else None
        in_place = {name} if source == name and not has_graph(adata, name) else set()
        key = earlier[0] if len(earlier) else free_key(adata, name, own_keys | in_place)
        return Run(method, seed, key, made_from, partial(function, key_added=key, **arguments), source)

    def pca(adata: AnnData, *, key_added: str) -> None:
        _adata.write_result(adata, key_added, log_pca(adata, layer, mask_var, rng))

    runs = [run("PCA", rng, "pca", pca, {})]
    arguments = {"batch_key": batch_key, "basis": f"X_{runs[0].key}", "rng": rng}
    runs.append(run("Harmony", rng, "pca_harmony", harmony, arguments))
    for seed in range(rng, rng + n_seeds):
        suffix = "" if seed == rng else f"_seed{seed - rng}"
        runs.append(run("VAE", seed, "vae" + suffix, vae, {**options, "rng": seed}))
        for name, changes in {"cvae": {}, **variants}.items():
            arguments = {"batch_key": batch_key, **options, **changes, "rng": seed}
            runs.append(run("CVAE" if name == "cvae" else name, seed, name + suffix, cvae, arguments))
    order = {label: i for i, label in enumerate([*METHODS, *variants])}
    return sorted(runs, key=lambda r: (order[r.method], r.seed))


def _check_variants(
    adata: AnnData, batch_key: str | Sequence[str], variants: Mapping[str, Any], options: Mapping[str, Any]
) -> None:
    defaults = cvae.__kwdefaults__ or {}
    for name, arguments in variants.items():
        if not (isinstance(name, str) and is_writable(name)):
            msg = f"variants has the name {name!r}, which is not possible. Give a text without '/'."
            raise ArgumentError(msg)
        if name in METHODS or name.startswith(("umap", "pca", "vae", "cvae_seed")) or name == "cvae":
            msg = f"variants has {name!r}, which is or looks like a name of tl.compare's own. Choose another name."
            raise ValueError(msg)
        if not isinstance(arguments, Mapping):
            msg = f"variants[{name!r}] is {arguments!r}. Give a dict of arguments of sc_vaenb.tl.cvae."
            raise TypeError(msg)
        unknown = sorted(set(arguments) - set(defaults) | set(arguments) & {"rng", "copy", "key_added", "checkpoint"})
        if unknown:
            msg = f"variants[{name!r}] has {unknown}, which cannot be set here. Give arguments of sc_vaenb.tl.cvae."
            raise TypeError(msg)
        all_arguments = {**defaults, **options, **arguments, "batch_key": batch_key}
        try:
            check_together(adata, check_values(cvae, all_arguments))
        except (TypeError, ValueError) as error:
            msg = f"variants[{name!r}]: {error}"
            raise type(error)(msg) from error


def stop_if_interrupted(adata: AnnData, key: str) -> None:
    """Remove a fit that Ctrl-C ended early, and stop the comparison: it would score a model that is half fitted."""
    if adata.uns.get(key, {}).get("verdict", {}).get("status") == "interrupted":
        del adata.uns[key], adata.obsm[f"X_{key}"], adata.varm[_adata.loadings_key(key)]
        raise KeyboardInterrupt
