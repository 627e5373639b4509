from __future__ import annotations

import json
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from itertools import chain, count
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scanpy import logging as logg

from .. import _adata, _obs
from .._checks import check_seeds, check_values, checked, seed_of
from .._constraints import ArgumentError
from .._names import is_writable
from .._results import check_result
from .._session import own_state
from ._arguments import check_together
from ._cvae import cvae
from ._design import audit
from ._graph import neighbors_leiden_umap
from ._harmony import harmony
from ._null_split import null_split
from ._pca import log_pca
from ._score import check_scored, score_embeddings
from ._seeds import seed_overlap
from ._vae import vae
from ._verdict import judge

if TYPE_CHECKING:
    from anndata import AnnData

MAX_CELLS_SCORED = 20_000  # cells, above which scores are means over draws
SUFFIX = "_compare"  # put behind the name of a method where something else has that name
OWN_LABELS = "PCA", "Harmony", "VAE", "CVAE"
OWN_KEYS = "pca", "pca_harmony", "vae", "cvae"


@dataclass(frozen=True)
class Run:
    """One embedding: `compute` writes it under `key`; `print` changes with its parameters and with the data."""

    method: str
    seed: int
    key: str
    print: str
    compute: Callable[[], Any]


@own_state()
@checked
def compare(
    adata: AnnData,
    batch_key: str,
    *,
    label_key: str | None = None,
    condition_key: str | None = None,
    variants: Mapping[str, Mapping[str, Any]] | None = None,
    n_seeds: int = 1,
    layer: str | None = "counts",
    mask_var: str | NDArray[np.bool_] | None = "highly_variable",
    resolution: float = 1.0,
    device: str = "auto",
    rng: int | np.random.Generator | None = 0,
    key_added: str = "compare",
    copy: bool = False,
) -> AnnData | None:
    """Compute PCA, Harmony, VAE and CVAE in one AnnData, score them, and say which is best on these data.

    Each gets its embedding, neighbours, Leiden clusters and UMAP under keys of its own. What an earlier call computed
    from the same data and parameters is not computed again, so that a comparison that was interrupted goes on, and a
    further variant costs only itself. A method that fails is reported and leaves the others as they are.

    Parameters
    ----------
    adata
        Cells x genes, prepared by :func:`sc_vaenb.pp.prepare`.
    batch_key
        Column of `obs` with the batch of each cell; two batches or more.
    label_key
        Column of `obs` with the cell types. `None`: there are no labels; then methods are compared by how well batches
        mix and how much of each batch's own neighbourhoods they keep. A fit that was told these labels (`labels_key`)
        is scored, but left out of the best.
    condition_key
        Column of `obs` with what is to be compared later, such as treated and control: `design` then says whether it
        can be told from batches.
    variants
        Further CVAEs: a name and the arguments of :func:`sc_vaenb.tl.cvae` for each, such as
        `{"cvae_wide": {"hidden": (256,)}}`.
    n_seeds
        Fits of each model, with the seeds `rng`, `rng + 1`, ... The first is what plots show. With one, the verdict
        assumes how much scores vary over seeds (a standard deviation of 0.02), so that only a lead of about 0.1 is
        called one; three measure it.
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
    `_compare` behind it where something has that name that no comparison made: it stays) are written:

    `obsm["X_NAME"]`, `obsm["X_umap_NAME"]`, `obs["leiden_NAME"]`
        Embedding, UMAP, clusters.
    `uns["neighbors_NAME"]`, `obsp["neighbors_NAME_distances"]`, `obsp["neighbors_NAME_connectivities"]`
        The 15 nearest neighbours.
    `uns["NAME"]`
        What :func:`sc_vaenb.tl.vae` and :func:`sc_vaenb.tl.cvae` write. Further seeds write `NAME_seed1`, ... and have
        an embedding alone.

    `uns["compare"]` holds

    `verdict`
        Text: which method is best and what to do, whether correction is needed, what each method loses or leaves. Each
        line is a sentence with its numbers behind it.
    `findings`
        The same as a DataFrame: `question`, `subject` (the method, where it is about one; for "Which method is best?"
        the one to go on with), `answer` (such as "yes", "no", "hardly", "few", "cannot be told", or names joined by
        " or "), `confidence` ("high", "moderate", "low"), `sentence` and `evidence`.
    `design`
        DataFrame of the same columns: which questions the design of the data can answer, as
        :func:`sc_vaenb.tl.design` finds before any fit.
    `scores`
        As :func:`sc_vaenb.tl.score` writes them.
    `methods`
        DataFrame: a row per embedding with `method`, `seed`, `embedding`, and the `seconds` that it took, without
        neighbours and UMAP.
    `null_split`
        DataFrame: the purity of clusters `before` and `after` each correction of the largest batch, split at random
        into two; only where that batch has 100 cells.
    `seed_overlap`
        DataFrame, with `n_seeds` above 1: for each model, how many fits (`n_seeds`) and the mean share of a cell's 15
        nearest cells that two of them have in common (`overlap`; among 2,000 cells at most).
    `params`, `failed`, `made`
        Arguments, the error of each method that failed, and what this and earlier calls computed, with checksums.

    Notes
    -----
    *Is correction needed?* Batches are permuted within types (without labels: clusters) of the PCA. *Harm*: a type is
    lost if the share of its cells' neighbours that are of the type falls by 0.1 or more below PCA's, and a bootstrap
    over its cells excludes half of that. A method by which a tenth of all purity, or most of a third of the types, is
    lost is never best, and one that loses any type only where no other correction keeps it. *Best*: the highest total
    among these; methods that it does not lead beyond chance (over seeds, and over draws of half of the cells) are named
    beside it. The total is computed in twelve ways, of which the default is one.

    Raises
    ------
    KeyError, TypeError, ValueError
        A key is not there, the counts are not counts, or a variant is not possible. `adata` is unchanged.
    RuntimeError
        Every method failed.

    Examples
    --------
    >>> import sc_vaenb
    >>> adata = sc_vaenb.datasets.simulate()
    >>> sc_vaenb.pp.prepare(adata, batch_key="batch")
    >>> sc_vaenb.tl.compare(adata, "batch", label_key="cell_type")
    >>> print(adata.uns["compare"]["verdict"])
    """
    rng = seed_of(rng)
    _check(adata, batch_key, label_key, n_seeds, rng, key_added)
    counts = _adata.read_counts(adata, layer, _adata.gene_mask(adata, mask_var), allow_non_integer=False)
    codes = _obs.read_batches(adata, batch_key)[0]
    data = _checksum(counts.data, counts.indices, counts.indptr, codes)
    del counts
    made = _made_before(adata, key_added)
    options = {"layer": layer, "mask_var": mask_var, "device": device}
    runs = _runs(adata, batch_key, variants or {}, n_seeds, rng, options, data, set(made.index))
    _check_keys(runs, key_added, batch_key, label_key)
    if copy:
        adata = adata.copy()
        runs = _runs(adata, batch_key, variants or {}, n_seeds, rng, options, data, set(made.index))

    layout = audit(adata, batch_key, label_key, condition_key, layer, mask_var, rng)
    logg.info(layout.in_words())
    rows: list[dict[str, Any]] = []
    failed: dict[str, str] = {}
    for run in runs:
        start = time.perf_counter()
        there = run.key in made.index and made.loc[run.key, "made_from"] == run.print
        try:
            if not there:
                run.compute()
                _stop_if_interrupted(adata, run.key)
                checksum = _checksum(np.asarray(adata.obsm[f"X_{run.key}"]))
                made.loc[run.key] = [run.print, checksum, time.perf_counter() - start]
                adata.uns.pop(f"neighbors_{run.key}", None)  # of another embedding of this name
                # at once, so that an interrupted comparison can go on; the scores of an earlier one stay until its end
                adata.uns[key_added] = {**adata.uns.get(key_added, {}), "made": made.copy()}
            if run.seed == rng:
                neighbors_leiden_umap(adata, run.key, resolution, rng, again=not there)
        except Exception as error:  # whatever a method runs into, the others go on
            failed[run.key] = f"{type(error).__name__}: {error}"
            logg.warning(f"{run.key} failed and is left out: {failed[run.key]}")
            continue
        seconds = float(made.loc[run.key, "seconds"])
        rows.append({"method": run.method, "seed": run.seed, "embedding": f"X_{run.key}", "seconds": seconds})
    if not rows:
        msg = f"every method failed: {failed}"
        raise RuntimeError(msg)

    methods = pd.DataFrame(rows)
    keys = methods["embedding"].tolist()
    uncorrected = keys[0] if methods["method"][0] == "PCA" else None
    scores = score_embeddings(adata, keys, batch_key, label_key, uncorrected, MAX_CELLS_SCORED, rng)
    fitted = set(methods["method"])

    def null_runs(null: AnnData, half_key: str, n_steps: int) -> list[Run]:
        most = min(n_steps, (cvae.__kwdefaults__ or {})["n_steps"] or n_steps)
        short = {name: {**v, "n_steps": min(v.get("n_steps") or most, most)} for name, v in (variants or {}).items()}
        own = {*OWN_KEYS, *short}  # nothing of the user's is in a null split
        found = _runs(null, half_key, short, 1, rng, {**options, "n_steps": most}, data, own)
        return [run for run in found if run.method in fitted]

    null, losses = null_split(adata, batch_key, null_runs, adata.uns.get(key_added, {}).get("null_split"), rng)
    overlap = seed_overlap(adata, methods, rng)
    findings, verdict = judge(adata, methods, scores, batch_key, label_key, losses, rng, overlap)
    params: dict[str, Any] = {"batch_key": batch_key, "label_key": label_key, "condition_key": condition_key}
    params |= {"n_seeds": n_seeds, "resolution": resolution, "rng": rng}
    adata.uns[key_added] = {
        "scores": scores,
        "methods": methods,
        "findings": findings,
        "design": layout.findings,
        "verdict": verdict,
        "params": {name: value for name, value in params.items() if value is not None},
        "failed": failed,
        "made": made,
        **({"null_split": null} if len(null) else {}),
        **({"seed_overlap": overlap} if len(overlap) else {}),
    }
    logg.hint(adata.uns[key_added]["verdict"])
    return adata if copy else None


def _check(
    adata: AnnData,
    batch_key: str,
    label_key: str | None,
    n_seeds: int,
    rng: int,
    key_added: str,
) -> None:
    _adata.check_can_be_subset(adata)
    _obs.read_batches(adata, batch_key)
    check_scored(adata, batch_key, label_key)
    if label_key is not None:
        _obs.warn_about_no_label_words(adata, label_key, _obs.NOT_A_LABEL)
    check_seeds(rng, n_seeds)
    taken = adata.uns.get(key_added)
    if taken is not None and not (isinstance(taken, dict) and "made" in taken):
        msg = f"uns[{key_added!r}] holds something that is no comparison. Choose another key_added."
        raise ValueError(msg)
    if taken is not None:
        check_result({"made": taken["made"]}, key_added, "compare")


def _check_variants(adata: AnnData, batch_key: str, variants: Mapping[str, Any], options: Mapping[str, Any]) -> None:
    defaults = cvae.__kwdefaults__ or {}
    for name, arguments in variants.items():
        if not (isinstance(name, str) and is_writable(name)):
            msg = f"variants has the name {name!r}, which is not possible. Give a text without '/'."
            raise ArgumentError(msg)
        if name in OWN_LABELS or name.startswith(("umap", "pca", "vae", "cvae_seed")) or name == "cvae":
            msg = f"variants has {name!r}, which is or looks like a name of tl.compare's own. Choose another name."
            raise ValueError(msg)
        if not isinstance(arguments, Mapping):
            msg = f"variants[{name!r}] is {arguments!r}. Give a dict of arguments of sc_vaenb.tl.cvae."
            raise TypeError(msg)
        unknown = sorted(set(arguments) - set(defaults) | set(arguments) & {"rng", "copy", "key_added", "checkpoint"})
        if unknown:
            msg = f"variants[{name!r}] has {unknown}, which cannot be set here. Give arguments of sc_vaenb.tl.cvae."
            raise TypeError(msg)
        given = {**defaults, **options, **arguments, "batch_key": batch_key}
        try:
            check_together(adata, check_values(cvae, given))
        except (TypeError, ValueError) as error:
            msg = f"variants[{name!r}]: {error}"
            raise type(error)(msg) from error


def _beside(adata: AnnData, params: Mapping[str, Any]) -> list[int]:
    """Checksums of what a fit with these parameters reads beside counts and batches."""
    named = (params.get("size_factor"), params.get("labels_key"), *(params.get("covariate_keys") or ()))
    columns = [name for name in named if name in adata.obs]  # what is not there the fit will refuse
    found = [_checksum(pd.util.hash_pandas_object(adata.obs[name], index=False).to_numpy()) for name in columns]
    if (key := params.get("protein_key")) in adata.obsm:
        names = adata.uns.get("protein_names", getattr(adata.obsm[key], "columns", []))
        found += [_checksum(np.asarray(adata.obsm[key], np.float64)), zlib.crc32(repr(list(names)).encode())]
    return found


def _check_keys(runs: list[Run], key_added: str, batch_key: str, label_key: str | None) -> None:
    keys = [run.key for run in runs]
    for key in keys:
        if keys.count(key) > 1 or key == key_added:
            msg = f"two results would have the name {key!r}. Rename the variant, or choose another key_added."
            raise ValueError(msg)
        for name, column in (("batch_key", batch_key), ("label_key", label_key)):
            if column == f"leiden_{key}":
                msg = f"{name}={column!r} is a column that the comparison writes. Copy it to another name first."
                raise ValueError(msg)


def _runs(
    adata: AnnData,
    batch_key: str,
    variants: Mapping[str, Mapping[str, Any]],
    n_seeds: int,
    rng: int,
    options: Mapping[str, Any],
    data: int,
    own: set[str],
) -> list[Run]:
    """What to compute. `data` is the checksum of counts and batches, `own` the names of an earlier comparison."""
    _check_variants(adata, batch_key, variants, options)
    layer, mask_var = options["layer"], options["mask_var"]

    def run(method: str, seed: int, name: str, params: Mapping[str, Any], compute: Callable[..., Any]) -> Run:
        key = _own_key(adata, name, own)
        untold = {"layer", "mask_var", "device", "checkpoint", "key_added", "copy"}
        told = {k: v for k, v in params.items() if k not in untold}
        text = json.dumps(
            [method, seed, told, version("sc_vaenb"), _beside(adata, params)], sort_keys=True, default=str
        )
        return Run(method, seed, key, f"{zlib.crc32(text.encode()):08x}{data:08x}", partial(compute, key_added=key))

    def pca(key_added: str) -> None:
        _adata.write_result(adata, key_added, log_pca(adata, layer, mask_var, rng))

    runs = [run("PCA", rng, "pca", {}, pca)]
    of_pca = partial(harmony, adata, batch_key, basis=f"X_{runs[0].key}", rng=rng)
    runs.append(run("Harmony", rng, "pca_harmony", {}, of_pca))
    for seed in range(rng, rng + n_seeds):
        suffix = "" if seed == rng else f"_seed{seed - rng}"
        given = {**options, "rng": seed}
        params = {**(vae.__kwdefaults__ or {}), **given}
        runs.append(run("VAE", seed, "vae" + suffix, params, partial(vae, adata, **given)))
        for name, arguments in {"cvae": {}, **variants}.items():
            given = {**options, **arguments, "rng": seed}
            params = {**(cvae.__kwdefaults__ or {}), **given}
            label = "CVAE" if name == "cvae" else name
            runs.append(run(label, seed, name + suffix, params, partial(cvae, adata, batch_key, **given)))
    order = {label: at for at, label in enumerate([*OWN_LABELS, *variants])}
    return sorted(runs, key=lambda r: (order[r.method], r.seed))


def _own_key(adata: AnnData, name: str, own: set[str]) -> str:
    """`name`, or name_compare, name_compare2, ...: the first that is free, or of this comparison."""

    def is_free(key: str) -> bool:
        in_uns, in_obsm = (key, f"neighbors_{key}"), (f"X_{key}", f"X_umap_{key}")
        there = any(name in adata.uns for name in in_uns) or any(name in adata.obsm for name in in_obsm)
        return not there and f"leiden_{key}" not in adata.obs

    keys = chain((name, name + SUFFIX), (f"{name}{SUFFIX}{n}" for n in count(2)))
    return next(key for key in keys if key in own or is_free(key))


def _stop_if_interrupted(adata: AnnData, key: str) -> None:
    """A fit that Ctrl-C ended early keeps its best weights; a comparison must not: it would score half a fit."""
    if adata.uns.get(key, {}).get("verdict", {}).get("status") == "interrupted":
        del adata.uns[key], adata.obsm[f"X_{key}"]
        raise KeyboardInterrupt


def _made_before(adata: AnnData, key_added: str) -> pd.DataFrame:
    """What earlier comparisons made and nobody has changed since: a row per key."""
    made = adata.uns.get(key_added, {}).get("made")
    if made is None:
        return pd.DataFrame(
            {"made_from": pd.Series(dtype=object), "checksum": pd.Series(dtype=np.int64), "seconds": 0.0}
        )
    made = made.astype({"made_from": object})
    for key in list(made.index):
        if f"X_{key}" not in adata.obsm:
            made.loc[key, "made_from"] = ""  # its graph and clusters may still be there
        elif _checksum(np.asarray(adata.obsm[f"X_{key}"])) != made.loc[key, "checksum"]:
            made = made.drop(index=key)
    return made


def _checksum(*arrays: NDArray) -> int:
    value = 0
    for array in arrays:
        value = zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data, value)
    return value
