from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import joblib
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scanpy import logging as logg
from scanpy import settings

from .. import _adata
from .._checks import check_seeds, checked, seed_of
from .._session import own_state
from ..fit.device import resolve_device
from ..fit.distributed import rank_and_size
from ..metrics.subsample import stratified_draw
from ._covariates import learn_covariates
from ._cvae import cvae
from ._tune_fit import MAX_CELLS_SCORED, Bench, own_clusters
from ._tune_space import in_words, read_space, start
from ._tune_study import Found, finished, import_optuna, open_study, quiet_optuna, search, with_other_seeds
from ._vae import vae

if TYPE_CHECKING:
    from anndata import AnnData

CRITERIA = ("score", "kept", "mixed", "log_likelihood", "seconds")


@own_state()
@checked
def tune(
    adata: AnnData,
    batch_key: str | None = None,
    *,
    n_trials: int = 20,
    space: Mapping[str, Any] | None = None,
    n_seeds: int = 3,
    n_jobs: int = 1,
    storage: str | None = None,
    layer: str | None = "counts",
    mask_var: str | NDArray[np.bool_] | None = "highly_variable",
    device: str = "auto",
    rng: int | np.random.Generator | None = 0,
    key_added: str = "tune",
    copy: bool = False,
) -> AnnData | None:
    """Search the parameters of a fit for those that serve these cells best, without labels; needs `sc_vaenb[tune]`.

    Each trial fits a model and scores its embedding: 0.6 `kept` + 0.4 `mixed`, the weights of scIB. `kept` asks whether
    the clusters that each batch has on its own (in a PCA of its own, where no batch effect can be) are still told apart
    by clusters of all batches together, which mixing too much would merge; `mixed` is iLISI of the batches. Trial 0 is
    the default configuration, the others are drawn by optuna's TPE (Bergstra et al. 2011). The best of many trials is
    best in part by chance, so it is fitted again beside the defaults with other seeds, and recommended only if it
    scores higher with each of them. Otherwise the answer is to keep the defaults, and it often is.

    The log-likelihood of the cells held out is reported, and not part of the score: models that predict counts best
    are not those whose embeddings are best.

    Parameters
    ----------
    adata
        Cells x genes.
    batch_key
        Column of `obs` with the batch of each cell: :func:`sc_vaenb.tl.cvae` is tuned. `None`:
        :func:`sc_vaenb.tl.vae`, by `kept` alone.
    n_trials
        Trials in all, those that `storage` has included. A trial is one fit.
    space
        What to search: for each parameter of `cvae` (or `vae`) a list of values, or a pair `(low, high)` of numbers,
        drawn on a logarithmic scale if both are above 0. A list of one value sets the parameter for all trials, trial 0
        included. `None`: `n_latent`, `beta`, `hidden`, `learning_rate` around their defaults, and the `prior`.
    n_seeds
        Seeds other than `rng` with which the best trial must beat the defaults; 0 takes the best trial at its word.
    n_jobs
        Trials at a time, each in a process of its own with its share of the threads. More than one draws other trials
        than one at a time would.
    storage
        Where trials are kept as they end, so that the same call goes on after an interruption, or with a higher
        `n_trials`: a file (made if it is not there), or a URL of a database, such as `"sqlite:///tune.db"`. One
        storage can hold the searches of several data sets. `None`: nowhere.
    layer, mask_var
        Counts and genes, as in :func:`sc_vaenb.tl.cvae`.
    device
        Of the fits, as in :func:`sc_vaenb.tl.cvae`.
    rng
        Seed of the search and of its fits. The same seed gives the same trials with the same `n_jobs`, in one call or
        in several.
    key_added
        Where in `uns` the search goes.
    copy
        Work on a copy of `adata` and return it.

    Returns
    -------
    `None`, or the copy if `copy`. Nothing but `uns["tune"]` is written. It holds:

    `trials`
        DataFrame, a row per trial: `trial`, a column per parameter searched, `score`, `kept`, `mixed` (with batches),
        `log_likelihood` of the held-out cells in nats per cell, `seconds`, and whether it is the `default` and
        whether it is `chosen`. Fits that broke down have no scores.
    `seeds`
        DataFrame: `trial`, `seed` and the scores of the fits with other seeds.
    `recommended`
        The call to make, as text.
    `verdict`
        Why, in words.
    `params`
        The arguments.

    Raises
    ------
    ImportError
        optuna is not installed.
    KeyError, TypeError, ValueError
        A key is not there, the counts are not counts, or the space has what cannot be searched. `adata` is unchanged.
    RuntimeError
        The fit with the defaults broke down; or torchrun has started several processes.

    Examples
    --------
    >>> import sc_vaenb
    >>> adata = sc_vaenb.datasets.simulate()
    >>> sc_vaenb.pp.prepare(adata, batch_key="batch")
    >>> sc_vaenb.tl.tune(adata, "batch", n_trials=10)
    >>> print(adata.uns["tune"]["verdict"])
    """
    rng = seed_of(rng)
    check_seeds(rng, n_seeds)
    if rank_and_size()[1] > 1:
        msg = "tl.tune cannot run in one of several processes of torchrun. Start it without torchrun, with n_jobs."
        raise RuntimeError(msg)
    import_optuna()
    function = vae if batch_key is None else cvae
    defaults = function.__kwdefaults__ or {}
    wanted = read_space(adata, function, space, {"batch_key": batch_key})
    base = start(wanted, defaults)
    resolve_device(device)
    bench = _bench(adata, batch_key, layer, mask_var, device, rng, base)
    columns = [np.asarray(bench.obs[name], dtype=str) for name in bench.obs]
    arrays = [bench.counts.data, bench.counts.indices, bench.counts.indptr, *columns]
    same = joblib.hash([function.__name__, rng, json.dumps(wanted), version("sc_vaenb"), *arrays])

    begun = logg.info(f"tuning {function.__name__} in {n_trials} trials of {', '.join(wanted)}")
    adata = adata.copy() if copy else adata
    quiet = settings.verbosity.value <= 0
    with quiet_optuna():
        study = open_study(storage, f"sc_vaenb {same}")
        if there := len(finished(study)):
            logg.info(f"    {there} trials are in {storage}: going on from there")
        search(study, bench, wanted, base, n_trials, n_jobs, rng, quiet)
        trials = finished(study)
        table = _table([json.loads(t.user_attrs["config"]) for t in trials], [t.user_attrs["found"] for t in trials])
        if np.isnan(table["score"][0]):
            msg = f"the fit with {base} broke down: {trials[0].user_attrs['found']['error']}. Look for extreme counts."
            raise RuntimeError(msg)
        best = int(table["score"].argmax())
        seeds = range(rng + 1, rng + 1 + (n_seeds if best else 0))
        configs = [base, _tuples(json.loads(trials[best].user_attrs["config"]))]
        again = with_other_seeds(study, bench, configs, seeds, n_jobs, quiet)

    chosen, verdict = _verdict(table, best, again, configs[1], defaults)
    table["chosen"] = np.arange(len(table)) == chosen
    arguments = [in_words(configs[1] if chosen else base, defaults), in_words({"layer": layer}, defaults)]
    if not isinstance(mask_var, str | None):
        arguments.append("mask_var=mask_var")  # as in the call of this function: an array has no short text
    elif mask_var != defaults["mask_var"]:
        arguments.append(f"mask_var={mask_var!r}")
    first = "adata" if batch_key is None else f"adata, batch_key={batch_key!r}"
    call = f"sc_vaenb.tl.{function.__name__}({', '.join([first, *filter(None, arguments)])})"
    criteria = [name for name in CRITERIA if name in table]
    rows = [
        {"trial": trial, "seed": seed, **{name: found.get(name, np.nan) for name in criteria}}
        for trial, part in zip((0, best), again, strict=True)
        for seed, found in zip(seeds, part, strict=True)
    ]
    seeds_table = pd.DataFrame(rows, columns=["trial", "seed", *criteria])
    params = {"batch_key": batch_key, "n_trials": n_trials, "n_seeds": n_seeds, "layer": layer, "rng": rng}
    record = {
        "trials": table,
        "seeds": seeds_table.astype({"trial": int, "seed": int, **dict.fromkeys(criteria, float)}),  # also without rows
        "recommended": call,
        "verdict": f"{verdict}\nThe call to make: {call}",
        "params": {name: value for name, value in params.items() if value is not None}
        | {"method": function.__name__, "space": json.dumps(wanted)},
    }
    _adata.write_record(adata, key_added, record)
    logg.info(record["verdict"])
    logg.info("    finished", time=begun, deep=f"added\n    {key_added!r}, the search (adata.uns)")
    return adata if copy else None


def _bench(
    adata: AnnData,
    batch_key: str | None,
    layer: str | None,
    mask_var: str | NDArray[np.bool_] | None,
    device: str,
    rng: int,
    base: Mapping[str, Any],
) -> Bench:
    """The data of all trials, read once."""
    codes = np.zeros(adata.n_obs, np.int64) if batch_key is None else _adata.read_batches(adata, batch_key)[0]
    mask = _adata.gene_mask(adata, mask_var)
    allowed = bool(base.get("allow_non_integer", False))
    counts = _adata.read_counts(adata, layer, mask, allow_non_integer=allowed)
    counts, genes = _adata.without_silent_genes(counts, adata.var_names[mask].to_numpy(dtype=str))
    size_factor = base.get("size_factor")
    _adata.read_size_factor(adata, size_factor, counts)
    learn_covariates(adata, base.get("covariate_keys") or (), batch_key)
    named = (batch_key, size_factor, *(base.get("covariate_keys") or ()))
    columns = list(dict.fromkeys(name for name in named if name is not None))
    obs = adata.obs[columns].set_axis(np.arange(adata.n_obs).astype(str))
    most = min(MAX_CELLS_SCORED, adata.n_obs)
    cells = stratified_draw(codes, most, np.random.default_rng(rng))
    own = own_clusters(counts[cells], codes[cells], rng)
    if (own < 0).all():
        msg = (
            f"no batch has two clusters of its own among the {most} cells looked at, so that nothing tells whether "
            "biology is kept. A search needs more cells."
        )
        raise ValueError(msg)
    return Bench(counts, obs, pd.DataFrame(index=genes), batch_key, cells, codes[cells], own, device)


def _tuples(config: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in config.items()}


def _table(configs: list[dict[str, Any]], found: list[Found]) -> pd.DataFrame:
    """A row per trial; parameters that are not numbers throughout are text."""
    columns: dict[str, Any] = {"trial": np.arange(len(configs))}
    for name in configs[0]:
        values = [_tuples(config)[name] for config in configs]
        numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
        columns[name] = values if numbers else [value if isinstance(value, str) else repr(value) for value in values]
    for name in CRITERIA:
        if name == "score" or any(name in part for part in found):
            columns[name] = np.array([part.get(name, np.nan) for part in found], np.float64)
    columns["default"] = np.arange(len(configs)) == 0
    return pd.DataFrame(columns)


def _verdict(
    table: pd.DataFrame, best: int, again: list[list[Found]], config: Mapping[str, Any], defaults: Mapping[str, Any]
) -> tuple[int, str]:
    """Which trial to choose, 0 or the best, and why."""
    score = table["score"]
    if best == 0:
        return 0, f"Keep the defaults: of {len(table)} trials none scores higher ({score[0]:.3f})."
    lead = f"Trial {best} ({in_words(config, defaults)}) scores {score[best]:.3f}, the defaults {score[0]:.3f}"
    if not again[0]:
        return best, f"{lead}. With a single seed that may be chance."
    pairs = [(theirs.get("score", np.nan), ours.get("score", np.nan)) for theirs, ours in zip(*again, strict=True)]
    ahead = sum(ours > theirs for theirs, ours in pairs)
    theirs, ours = np.mean(pairs, axis=0)
    compared = f"with {len(pairs)} other seeds {ours:.3f} against {theirs:.3f} on average"
    if ahead == len(pairs):
        return best, f"{lead}; {compared}, higher with each of them."
    return 0, f"Keep the defaults. {lead}, but {compared}, higher with {ahead} of {len(pairs)}: its lead is chance."
