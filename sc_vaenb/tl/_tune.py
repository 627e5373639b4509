from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import joblib
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scanpy import logging as logg
from scanpy import settings

from .. import _adata, _obs
from .._checks import check_seeds, checked, seed_of
from .._session import own_state
from ..fit.device import resolve_device
from ..fit.distributed import rank_and_size
from ..metrics.subsample import stratified_draw
from ._arguments import to_uns
from ._covariates import learn_covariates
from ._cvae import cvae
from ._tune_fit import MAX_CELLS_SCORED, TrialData, clusters_per_batch
from ._tune_space import in_words, read_space, start_config
from ._tune_study import (
    TrialResult,
    finished_trials,
    fit_other_seeds,
    import_optuna,
    open_study,
    quiet_optuna,
    search,
)
from ._vae import vae

if TYPE_CHECKING:
    from anndata import AnnData

CRITERIA = ("score", "kept", "mixed", "log_likelihood", "seconds")


@own_state()
@checked
def tune(
    adata: AnnData,
    batch_key: str | Sequence[str] | None = None,
    *,
    layer: str | None = "counts",
    mask_var: str | NDArray[np.bool_] | None = "highly_variable",
    n_trials: int = 20,
    space: Mapping[str, Any] | None = None,
    n_seeds: int = 3,
    n_jobs: int = 1,
    storage: str | None = None,
    device: str = "auto",
    rng: int | np.random.Generator | None = 0,
    key_added: str = "tune",
    copy: bool = False,
) -> AnnData | None:
    """Search the parameters of a fit that are best for these cells, without labels; needs `sc_vaenb[tune]`.

    Each trial fits a model and scores its embedding: 0.6 `kept` + 0.4 `mixed`, the weights of scIB. `kept` measures
    whether the clusters within each batch (found in a PCA of this batch alone, which has no batch effect) are still
    separate clusters in the embedding of all batches; too much mixing would merge them. `mixed` is the iLISI of the
    batches. Trial 0 is the default configuration; optuna's TPE draws the others (Bergstra et al. 2011). The best of
    many trials is best in part by chance. So it and the defaults are fitted again with other seeds, and it is
    recommended only if it scores higher with each seed. Otherwise the recommendation is to keep the defaults, as it
    often is.

    The log-likelihood of held-out cells is reported, but it is not part of the score: the models that predict counts
    best are not the models with the best embeddings.

    The parameters are in three groups:

    - set these first: `batch_key` to `n_trials`
    - for experts: `space` to `n_seeds`
    - how to run, and where results go: `n_jobs` to `copy`

    Parameters
    ----------
    adata
        Cells x genes.
    batch_key
        Column of `obs` with the batch of each cell, or several columns: :func:`sc_vaenb.tl.cvae` is tuned. `None`:
        :func:`sc_vaenb.tl.vae`, by `kept` alone.
    layer, mask_var
        Counts and genes, as in :func:`sc_vaenb.tl.cvae`.
    n_trials
        Number of trials, including those already in `storage`. A trial is one fit.
    space
        The search space: for each parameter of `cvae` (or `vae`) a list of values, or a pair `(low, high)` of numbers,
        drawn on a logarithmic scale if both are above 0. A list of one value sets the parameter for all trials,
        including trial 0. `None`: `n_latent`, `beta`, `hidden`, `learning_rate` around their defaults, and the `prior`.
    n_seeds
        Number of seeds other than `rng` with which the best trial must beat the defaults; 0 accepts the best trial
        without this test.
    n_jobs
        Trials in parallel, each in its own process with its share of the threads. The trials differ from those of a
        search with `n_jobs=1`.
    storage
        Where finished trials are stored, so that the same call continues after an interruption, or with a higher
        `n_trials`: a file (created if it does not exist), or the URL of a database, such as `"sqlite:///tune.db"`. One
        storage can hold the searches of several data sets. `None`: trials are not stored.
    device
        Device of the fits, as in :func:`sc_vaenb.tl.cvae`.
    rng
        Seed of the search and of its fits. The same seed gives the same trials with the same `n_jobs`, in one call or
        in several.
    key_added
        Key of `uns` for the result.
    copy
        Work on a copy of `adata` and return it.

    Returns
    -------
    `None`, or the copy if `copy`. Only `uns["tune"]` is written. It holds:

    `trials`
        DataFrame, a row per trial: `trial`, a column per parameter searched, `score`, `kept`, `mixed` (with batches),
        `log_likelihood` of the held-out cells in nats per cell, `seconds`, and whether it is the `default` and
        whether it is `chosen`. Failed fits have no scores.
    `seeds`
        DataFrame: `trial`, `seed` and the scores of the fits with other seeds than `rng`.
    `recommended`
        The recommended call, as text.
    `verdict`
        The reason, in words.
    `params`
        The arguments.

    Raises
    ------
    ImportError
        optuna is not installed.
    KeyError, TypeError, ValueError
        A key does not exist, the counts are not valid, or the space has parameters or values that cannot be searched.
        `adata` is unchanged.
    RuntimeError
        The fit with the defaults failed; or torchrun has started several processes.

    See Also
    --------
    sc_vaenb.pl.tune : Plots the search.
    sc_vaenb.tl.compare : Compares a few variants by all scores.

    References
    ----------
    .. [1] Bergstra et al. (2011), Algorithms for hyper-parameter optimization, Advances in Neural Information
       Processing Systems 24.

    Examples
    --------
    >>> import sc_vaenb
    >>> adata = sc_vaenb.datasets.simulate()
    >>> sc_vaenb.pp.prepare(adata, batch_key="batch")
    >>> sc_vaenb.tl.tune(adata, "batch", n_trials=10)
    >>> print(adata.uns["tune"]["verdict"])
    """
    _adata.check_key_added(adata, key_added)
    rng = seed_of(rng)
    check_seeds(rng, n_seeds)
    if rank_and_size()[1] > 1:
        msg = "tl.tune cannot run in one of several processes of torchrun. Start it without torchrun, with n_jobs."
        raise RuntimeError(msg)
    import_optuna()
    function = vae if batch_key is None else cvae
    defaults = function.__kwdefaults__ or {}
    search_space = read_space(adata, function, space, {"batch_key": batch_key})
    base = start_config(search_space, defaults)
    resolve_device(device)
    data = _trial_data(adata, batch_key, layer, mask_var, device, rng, base)
    columns = [np.asarray(data.obs[name], dtype=str) for name in data.obs]
    arrays = [data.counts.data, data.counts.indices, data.counts.indptr, *columns]
    fingerprint = joblib.hash([function.__name__, rng, json.dumps(search_space), version("sc_vaenb"), *arrays])

    start_time = logg.info(f"tuning {function.__name__} in {n_trials} trials of {', '.join(search_space)}")
    adata = adata.copy() if copy else adata
    quiet = settings.verbosity.value <= 0
    with quiet_optuna():
        study = open_study(storage, f"sc_vaenb {fingerprint}")
        if n_stored := len(finished_trials(study)):
            logg.info(f"    {n_stored} trials are in {storage}: continuing from there")
        search(study, data, search_space, base, n_trials, n_jobs, rng, quiet)
        trials = finished_trials(study)
        table = _table([json.loads(t.user_attrs["config"]) for t in trials], [t.user_attrs["found"] for t in trials])
        if np.isnan(table["score"][0]):
            msg = f"the fit with {base} broke down: {trials[0].user_attrs['found']['error']}. Look for extreme counts."
            raise RuntimeError(msg)
        best = int(table["score"].argmax())
        seeds = range(rng + 1, rng + 1 + (n_seeds if best else 0))
        configs = [base, _tuples(json.loads(trials[best].user_attrs["config"]))]
        refits = fit_other_seeds(study, data, configs, seeds, n_jobs, quiet)

    chosen, verdict = _verdict(table, best, refits, configs[1], defaults)
    table["chosen"] = np.arange(len(table)) == chosen
    arguments = [in_words(configs[1] if chosen else base, defaults), in_words({"layer": layer}, defaults)]
    if not isinstance(mask_var, str | None):
        arguments.append("mask_var=mask_var")  # an array has no short text: the user passes the same one again
    elif mask_var != defaults["mask_var"]:
        arguments.append(f"mask_var={mask_var!r}")
    first_arguments = "adata" if batch_key is None else f"adata, batch_key={batch_key!r}"
    call = f"sc_vaenb.tl.{function.__name__}({', '.join([first_arguments, *filter(None, arguments)])})"
    criteria = [name for name in CRITERIA if name in table]
    rows = [
        {"trial": trial, "seed": seed, **{name: result.get(name, np.nan) for name in criteria}}
        for trial, results in zip((0, best), refits, strict=True)
        for seed, result in zip(seeds, results, strict=True)
    ]
    seeds_table = pd.DataFrame(rows, columns=["trial", "seed", *criteria])
    params = {"batch_key": batch_key, "n_trials": n_trials, "n_seeds": n_seeds, "layer": layer, "rng": rng}
    record = {
        "trials": table,
        "seeds": seeds_table.astype({"trial": int, "seed": int, **dict.fromkeys(criteria, float)}),  # also without rows
        "recommended": call,
        "verdict": f"{verdict}\nRecommended call: {call}",
        "params": to_uns(params) | {"method": function.__name__, "space": json.dumps(search_space)},
    }
    _adata.write_record(adata, key_added, record)
    logg.info(record["verdict"])
    logg.info("    finished", time=start_time, deep=f"added\n    {key_added!r}, the search (adata.uns)")
    return adata if copy else None


def _trial_data(
    adata: AnnData,
    batch_key: str | Sequence[str] | None,
    layer: str | None,
    mask_var: str | NDArray[np.bool_] | None,
    device: str,
    rng: int,
    base: Mapping[str, Any],
) -> TrialData:
    """The data of all trials, read once."""
    codes = np.zeros(adata.n_obs, np.int64) if batch_key is None else _obs.read_batches(adata, batch_key)[0]
    mask = _adata.gene_mask(adata, mask_var)
    allow_non_integer = bool(base.get("allow_non_integer", False))
    counts = _adata.read_counts(adata, layer, mask, allow_non_integer=allow_non_integer)
    counts, genes = _adata.without_silent_genes(counts, adata.var_names[mask].to_numpy(dtype=str))
    size_factor = base.get("size_factor")
    _adata.read_size_factor(adata, size_factor, counts)
    learn_covariates(adata, base.get("covariate_keys") or (), batch_key)
    batch_keys = [] if batch_key is None else _obs.columns_of(batch_key)
    keys = (*batch_keys, size_factor, *(base.get("covariate_keys") or ()))
    columns = list(dict.fromkeys(key for key in keys if key is not None))
    obs = adata.obs[columns].set_axis(np.arange(adata.n_obs).astype(str))
    n_scored = min(MAX_CELLS_SCORED, adata.n_obs)
    cells = stratified_draw(codes, n_scored, np.random.default_rng(rng))
    batch_clusters = clusters_per_batch(counts[cells], codes[cells], rng)
    if (batch_clusters < 0).all():
        msg = (
            f"no batch has two clusters of its own among the {n_scored} cells that are scored, so whether biology is "
            "kept cannot be measured. A search needs more cells."
        )
        raise ValueError(msg)
    return TrialData(counts, obs, pd.DataFrame(index=genes), batch_key, cells, codes[cells], batch_clusters, device)


def _tuples(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration with tuples in place of the lists that JSON makes of them."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in config.items()}


def _table(configs: list[dict[str, Any]], results: list[TrialResult]) -> pd.DataFrame:
    """A row per trial; a parameter whose values are not all numbers is text."""
    columns: dict[str, Any] = {"trial": np.arange(len(configs))}
    for name in configs[0]:
        values = [_tuples(config)[name] for config in configs]
        are_numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
        columns[name] = (
            values if are_numbers else [value if isinstance(value, str) else repr(value) for value in values]
        )
    for name in CRITERIA:
        if name == "score" or any(name in result for result in results):
            columns[name] = np.array([result.get(name, np.nan) for result in results], np.float64)
    columns["default"] = np.arange(len(configs)) == 0
    return pd.DataFrame(columns)


def _verdict(
    table: pd.DataFrame,
    best: int,
    refits: list[list[TrialResult]],
    config: Mapping[str, Any],
    defaults: Mapping[str, Any],
) -> tuple[int, str]:
    """Which trial to choose, 0 or the best, and why; `refits` are of the defaults and of the best trial."""
    score = table["score"]
    if best == 0:
        return 0, f"Keep the defaults: of {len(table)} trials none scores higher ({score[0]:.3f})."
    lead = f"Trial {best} ({in_words(config, defaults)}) scores {score[best]:.3f}, the defaults {score[0]:.3f}"
    if not refits[0]:
        return best, f"{lead}. With a single seed this may be chance."
    scores = np.array([[result.get("score", np.nan) for result in results] for results in refits])
    n_seeds, n_higher = scores.shape[1], int((scores[1] > scores[0]).sum())
    default_mean, best_mean = scores.mean(axis=1)
    comparison = f"with {n_seeds} other seeds {best_mean:.3f} against {default_mean:.3f} on average"
    if n_higher == n_seeds:
        return best, f"{lead}; {comparison}, higher with each of them."
    return 0, f"Keep the defaults. {lead}, but {comparison}, higher with {n_higher} of {n_seeds}: its lead is chance."
