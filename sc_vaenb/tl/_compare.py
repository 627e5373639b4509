from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scanpy as sc
from numpy.typing import NDArray
from scanpy import logging as logg

from .. import _adata
from ._cvae import cvae
from ._harmony import harmony
from ._pca import log_pca
from ._score import score
from ._vae import vae
from ._verdict import verdict_in_words

if TYPE_CHECKING:
    from anndata import AnnData

EXACT_NEIGHBOURS = 30_000  # cells, up to which the search for neighbours is exact
BESIDE = "_compare"  # put behind the name of a method where another result has that name


@dataclass(frozen=True)
class Run:
    """One embedding to compute: `compute(key)` writes it under `key`; `asked` tells whether one there is the same."""

    method: str
    seed: int
    key: str
    asked: dict[str, Any]
    compute: Callable[[str], Any]


def compare(
    adata: AnnData,
    batch_key: str,
    *,
    label_key: str | None = None,
    variants: Mapping[str, Mapping[str, Any]] | None = None,
    n_seeds: int = 1,
    layer: str | None = "counts",
    mask_var: str | NDArray[np.bool_] | None = "highly_variable",
    resolution: float = 1.0,
    device: str = "auto",
    rng: int = 0,
    key_added: str = "compare",
    copy: bool = False,
) -> AnnData | None:
    """Compute PCA, Harmony, VAE and CVAE in one AnnData, score them, and say which is best on these data.

    Each gets its embedding, neighbours, Leiden clusters and UMAP under keys of its own. What is there already, from the
    same parameters, is not computed again, so that a comparison that was interrupted goes on, and a further variant
    costs only itself. A method that fails is reported and leaves the others as they are.

    Parameters
    ----------
    adata
        Cells x genes, prepared by :func:`sc_vaenb.pp.prepare`.
    batch_key
        Column of `obs` with the batch of each cell; two batches or more.
    label_key
        Column of `obs` with the cell types. `None`: there are no labels; then methods are compared by how well batches
        mix and how much of each batch's own neighbourhoods they keep.
    variants
        Further CVAEs: a name and the arguments of :func:`sc_vaenb.tl.cvae` for each, such as
        `{"cvae_wide": {"hidden": (256,)}}`.
    n_seeds
        Fits of each model, with the seeds `rng`, `rng + 1`, ...: with two or more, the verdict knows whether a lead
        exceeds chance. The first is what plots show.
    layer, mask_var
        Counts and genes, as in :func:`sc_vaenb.tl.cvae`.
    resolution
        Of the Leiden clusters that are written. Scores do not depend on it.
    device
        Of the fits, as in :func:`sc_vaenb.tl.cvae`.
    rng
        Seed.
    key_added
        Where in `uns` the comparison goes.
    copy
        Work on a copy of `adata` and return it.

    Returns
    -------
    `None`, or the copy if `copy`. For each method NAME (`pca`, `pca_harmony`, `vae`, `cvae`, the variants; with
    `_compare` behind it where another result has that name, which is kept) are written:

    `obsm["X_NAME"]`, `obsm["X_umap_NAME"]`, `obs["leiden_NAME"]`
        Embedding, UMAP, clusters.
    `uns["neighbors_NAME"]`, `obsp["neighbors_NAME_distances"]`, `obsp["neighbors_NAME_connectivities"]`
        The 15 nearest neighbours.
    `uns["NAME"]`
        What :func:`sc_vaenb.tl.vae` and :func:`sc_vaenb.tl.cvae` write. Further seeds write `NAME_seed1`, ... and have
        an embedding alone.

    `uns["compare"]` holds `scores` (as :func:`sc_vaenb.tl.score` writes them), `methods` (DataFrame: a row per
    embedding with `method`, `seed`, `embedding` and `seconds` it took to compute), `verdict` (text), `params`, and
    `failed` (the error of each method that failed).

    Raises
    ------
    KeyError, TypeError, ValueError
        A key is not there, the counts are not counts, or a variant is not possible. `adata` is unchanged.

    Examples
    --------
    >>> import sc_vaenb
    >>> adata = sc_vaenb.datasets.simulate()
    >>> sc_vaenb.pp.prepare(adata, batch_key="batch")
    >>> sc_vaenb.tl.compare(adata, "batch", label_key="cell_type")
    >>> print(adata.uns["compare"]["verdict"])
    """
    _check(adata, batch_key, label_key, variants, n_seeds, resolution, rng, key_added, copy=copy)
    _adata.read_counts(adata, layer, _adata.gene_mask(adata, mask_var), allow_non_integer=False)
    adata = adata.copy() if copy else adata

    options = {"layer": layer, "mask_var": mask_var, "device": device}
    seconds_before = _seconds_before(adata, key_added)
    rows, failed = [], {}
    for run in _runs(adata, batch_key, variants or {}, n_seeds, rng, options):
        start = time.perf_counter()
        there = _is_there(adata, run)
        try:
            if not there:
                run.compute(run.key)
            if run.seed == rng:
                _downstream(adata, run.key, resolution, rng, again=not there)
        except Exception as error:  # whatever a method runs into, the others go on
            failed[run.key] = f"{type(error).__name__}: {error}"
            logg.warning(f"{run.key} failed and is left out: {failed[run.key]}")
            continue
        took = seconds_before.get(run.key, np.nan) if there else time.perf_counter() - start
        rows.append({"method": run.method, "seed": run.seed, "embedding": f"X_{run.key}", "seconds": took})
    if not rows:
        msg = f"every method failed: {failed}"
        raise RuntimeError(msg)

    methods = pd.DataFrame(rows)
    score(
        adata,
        methods["embedding"].tolist(),
        batch_key=batch_key,
        label_key=label_key,
        rng=rng,
        key_added=key_added,
    )
    scores = adata.uns.pop(key_added)
    verdict = verdict_in_words(adata, methods, scores, label_key)
    params = {"batch_key": batch_key, "label_key": label_key, "n_seeds": n_seeds, "resolution": resolution, "rng": rng}
    adata.uns[key_added] = {
        "scores": scores,
        "methods": methods,
        "verdict": verdict,
        "params": {name: value for name, value in params.items() if value is not None},
        "failed": failed,
    }
    logg.info(verdict)
    return adata if copy else None


def _check(
    adata: AnnData,
    batch_key: str,
    label_key: str | None,
    variants: Mapping[str, Mapping[str, Any]] | None,
    n_seeds: int,
    resolution: float,
    rng: int,
    key_added: str,
    *,
    copy: bool,
) -> None:
    _adata.check_adata(adata, copy=copy)
    _adata.check_key(key_added)
    _adata.read_batches(adata, batch_key)
    if label_key is not None:
        _adata.check_obs_key(adata, "label_key", label_key)
        if adata.obs[label_key].nunique() < 2:
            msg = f"obs[{label_key!r}] holds one label: nothing tells how well types are kept. Pass label_key=None."
            raise ValueError(msg)
    _adata.check_number("n_seeds", n_seeds, 1, whole=True)
    _adata.check_number("rng", rng, 0, 2**31, whole=True)
    _adata.check_number("resolution", resolution, 0, above=True)
    for name, arguments in (variants or {}).items():
        if name in {"pca", "pca_harmony", "vae", "cvae"}:
            msg = f"variants has {name!r}, which is a method of its own. Choose another name."
            raise ValueError(msg)
        _adata.check_key(name)
        unknown = sorted(
            set(arguments) - set(cvae.__kwdefaults__ or {}) | set(arguments) & {"rng", "copy", "key_added"}
        )
        if unknown:
            msg = f"variants[{name!r}] has {unknown}, which cannot be set here. Give arguments of sc_vaenb.tl.cvae."
            raise TypeError(msg)


def _runs(
    adata: AnnData,
    batch_key: str,
    variants: Mapping[str, Mapping[str, Any]],
    n_seeds: int,
    rng: int,
    options: Mapping[str, Any],
) -> list[Run]:
    layer, mask_var = options["layer"], options["mask_var"]

    def pca(key: str) -> None:
        _adata.write_result(adata, key, log_pca(adata, layer, mask_var, rng))

    def corrected(key: str) -> None:
        harmony(adata, batch_key, layer=layer, mask_var=mask_var, rng=rng, key_added=key)

    runs = [Run("PCA", rng, "pca", {}, pca)]
    asked = {"method": "harmony", "batch_key": batch_key, "basis": "X_pca", "rng": rng}
    runs.append(Run("Harmony", rng, _own_key(adata, "pca_harmony", asked), asked, corrected))
    models: dict[str, tuple[str, Mapping[str, Any]]] = {"vae": ("VAE", {}), "cvae": ("CVAE", {})}
    models |= {name: (name, arguments) for name, arguments in variants.items()}
    for name, (label, arguments) in models.items():
        for seed in range(rng, rng + n_seeds):
            given = {**options, **arguments, "rng": seed}

            def fit(key: str, name: str = name, given: dict[str, Any] = given) -> None:
                if name == "vae":
                    vae(adata, key_added=key, **given)
                else:
                    cvae(adata, batch_key, key_added=key, **given)

            function = vae if name == "vae" else cvae
            wanted: dict[str, Any] = {"method": function.__name__}
            if name != "vae":
                wanted["batch_key"] = batch_key
            everything = {**(function.__kwdefaults__ or {}), **given}
            wanted |= {k: v for k, v in everything.items() if k not in {"device", "key_added", "copy"}}
            suffix = "" if seed == rng else f"_seed{seed - rng}"
            runs.append(Run(label, seed, _own_key(adata, name + suffix, wanted), wanted, fit))
    return runs


def _own_key(adata: AnnData, name: str, asked: Mapping[str, Any]) -> str:
    """`name`, unless a result of other parameters has it: that is the user's, and stays."""
    taken = name in adata.uns or f"X_{name}" in adata.obsm
    return name + BESIDE if taken and not _same(adata, name, asked) else name


def _is_there(adata: AnnData, run: Run) -> bool:
    return f"X_{run.key}" in adata.obsm and (run.method == "PCA" or _same(adata, run.key, run.asked))


def _same(adata: AnnData, key: str, asked: Mapping[str, Any]) -> bool:
    """Whether the result under `key` was made with these parameters (those of `None` were chosen by the data)."""
    record = adata.uns.get(key)
    params = record.get("params", {}) if isinstance(record, dict) else {}
    if not params or f"X_{key}" not in adata.obsm:
        return False
    for name, value in asked.items():
        if name == "n_steps" or (name == "weight_decay" and value is None):
            if value is not None and params.get(name) != value:
                return False
        elif value is None:
            if name in params:
                return False
        elif not np.array_equal(np.asarray(params.get(name)), np.asarray(value)):
            return False
    return True


def _downstream(adata: AnnData, key: str, resolution: float, seed: int, *, again: bool) -> None:
    """Neighbours, Leiden clusters and UMAP of an embedding, where they are not there or `again`."""
    graph, plane, clusters = f"neighbors_{key}", f"X_umap_{key}", f"leiden_{key}"
    again = again or graph not in adata.uns
    with sc.settings.verbosity.override("error"):
        if again:
            exact = {"transformer": "sklearn"} if adata.n_obs <= EXACT_NEIGHBOURS else {}
            k = min(15, adata.n_obs - 1)
            sc.pp.neighbors(adata, k, use_rep=f"X_{key}", key_added=graph, random_state=seed, **exact)
        kept = adata.uns.get(clusters, {}).get("params", {}) if clusters in adata.obs else {}
        if again or kept.get("resolution") != resolution:
            sc.tl.leiden(
                adata, resolution, neighbors_key=graph, key_added=clusters, random_state=seed,
                flavor="igraph", n_iterations=2, directed=False,
            )  # fmt: skip
        if again or plane not in adata.obsm:
            sc.tl.umap(adata, neighbors_key=graph, key_added=plane, random_state=seed)


def _seconds_before(adata: AnnData, key_added: str) -> dict[str, float]:
    """Seconds that embeddings of an earlier comparison took, by key."""
    before = adata.uns.get(key_added)
    methods = before.get("methods") if isinstance(before, dict) else None
    if methods is None:
        return {}
    return {key.removeprefix("X_"): s for key, s in zip(methods["embedding"], methods["seconds"], strict=True)}
