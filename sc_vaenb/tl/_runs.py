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
from ._fingerprints import fingerprint, free_key
from ._harmony import harmony
from ._pca import log_pca
from ._vae import vae

if TYPE_CHECKING:
    from anndata import AnnData

METHODS = "PCA", "Harmony", "VAE", "CVAE"
METHOD_KEYS = "pca", "pca_harmony", "vae", "cvae"


@dataclass(frozen=True)
class Run:
    """One embedding: `compute` writes it under `key`; `fingerprint` changes with its parameters and with the data."""

    method: str
    seed: int
    key: str
    fingerprint: str
    compute: Callable[[], Any]


def plan_runs(
    adata: AnnData,
    batch_key: str | Sequence[str],
    variants: Mapping[str, Mapping[str, Any]],
    n_seeds: int,
    rng: int,
    options: Mapping[str, Any],
    data_checksum: int,
    own_keys: set[str],
) -> list[Run]:
    """The embeddings to compute. `data_checksum`: of counts and batches. `own_keys`: keys of an earlier comparison."""
    _check_variants(adata, batch_key, variants, options)
    layer, mask_var = options["layer"], options["mask_var"]

    def run(method: str, seed: int, name: str, params: Mapping[str, Any], compute: Callable[..., Any]) -> Run:
        key = free_key(adata, name, own_keys)
        made_from = fingerprint(adata, method, seed, params, data_checksum)
        return Run(method, seed, key, made_from, partial(compute, key_added=key))

    def pca(key_added: str) -> None:
        _adata.write_result(adata, key_added, log_pca(adata, layer, mask_var, rng))

    runs = [run("PCA", rng, "pca", {}, pca)]
    harmony_of_pca = partial(harmony, adata, batch_key, basis=f"X_{runs[0].key}", rng=rng)
    runs.append(run("Harmony", rng, "pca_harmony", {}, harmony_of_pca))
    for seed in range(rng, rng + n_seeds):
        suffix = "" if seed == rng else f"_seed{seed - rng}"
        vae_arguments = {**options, "rng": seed}
        params = {**(vae.__kwdefaults__ or {}), **vae_arguments}
        runs.append(run("VAE", seed, "vae" + suffix, params, partial(vae, adata, **vae_arguments)))
        for name, arguments in {"cvae": {}, **variants}.items():
            cvae_arguments = {**options, **arguments, "rng": seed}
            params = {**(cvae.__kwdefaults__ or {}), **cvae_arguments}
            label = "CVAE" if name == "cvae" else name
            runs.append(run(label, seed, name + suffix, params, partial(cvae, adata, batch_key, **cvae_arguments)))
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
