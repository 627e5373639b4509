"""The search: fit the configurations that optuna suggests, and store each result in the study for the next call."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from joblib import Parallel, delayed
from scanpy import logging as logg
from tqdm import tqdm

from ._tune_fit import TrialData, fit_and_score
from ._tune_space import Space, for_optuna, suggest

TrialResult = dict[str, Any]


def import_optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        msg = "tl.tune needs optuna, which is not installed. Run: pip install 'sc_vaenb[tune]'"
        raise ImportError(msg) from error
    return optuna


@contextmanager
def quiet_optuna() -> Iterator[None]:
    """Silence optuna's own log of every trial."""
    optuna_logging = import_optuna().logging
    verbosity = optuna_logging.get_verbosity()
    optuna_logging.set_verbosity(optuna_logging.WARNING)
    try:
        yield
    finally:
        optuna_logging.set_verbosity(verbosity)


def open_study(storage: str | None, name: str) -> Any:
    """The study of this name: in memory, in a file, or in a database."""
    optuna = import_optuna()
    optuna_storage: Any = storage
    try:
        if storage is not None and "://" not in storage:
            optuna_storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(storage))
        return optuna.create_study(study_name=name, storage=optuna_storage, direction="maximize", load_if_exists=True)
    except Exception as error:  # databases raise errors of many types
        msg = (
            f"storage={storage!r} cannot be opened ({type(error).__name__}: {error}). Give the name of a file in a "
            "folder that exists, or a URL such as 'sqlite:///tune.db'."
        )
        raise ValueError(msg) from error


def finished_trials(study: Any) -> list[Any]:
    """The trials that ended with a result or an error; interrupted trials do not count."""
    return [trial for trial in study.get_trials(deepcopy=False) if "found" in trial.user_attrs]


def search(
    study: Any,
    data: TrialData,
    space: Space,
    base: Mapping[str, Any],
    n_trials: int,
    n_jobs: int,
    seed: int,
    quiet: bool,
) -> None:
    """Add trials to the study until it has `n_trials`; the first one has the configuration `base`."""
    optuna = import_optuna()
    n_done = len(finished_trials(study))
    bar = tqdm(total=n_trials, initial=min(n_done, n_trials), disable=quiet, leave=False)
    with Parallel(n_jobs) as pool, bar:
        while n_done < n_trials:
            trials, configs = [], []
            for number in range(n_done, min(n_done + n_jobs, n_trials)):
                if number == 0:
                    study.enqueue_trial(for_optuna(base, space))
                # each trial has its own seed, so a search that continues later gives the same trials
                trial_seed = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
                study.sampler = optuna.samplers.TPESampler(seed=trial_seed)
                trials.append(study.ask())
                configs.append(suggest(trials[-1], space))
            try:
                results = pool(delayed(fit_and_score)(data, config, seed) for config in configs)
            except BaseException:
                for trial in trials:
                    study.tell(trial, state=optuna.trial.TrialState.FAIL)
                raise
            for trial, config, result in zip(trials, configs, results, strict=True):
                trial.set_user_attr("config", json.dumps(config))
                trial.set_user_attr("found", result)
                if "error" in result:
                    logg.warning(f"a fit with {config} broke down and is left out: {result['error']}")
                    study.tell(trial, state=optuna.trial.TrialState.FAIL)
                else:
                    study.tell(trial, result["score"])
            n_done += len(trials)
            bar.update(len(trials))


def fit_other_seeds(
    study: Any, data: TrialData, configs: Sequence[Mapping[str, Any]], seeds: range, n_jobs: int, quiet: bool
) -> list[list[TrialResult]]:
    """Results of each configuration with each seed; fits of an earlier call are read from the study."""
    keys = [[json.dumps([config, seed], sort_keys=True) for seed in seeds] for config in configs]
    fits = [(config, seed) for config in configs for seed in seeds]
    missing = [
        (key, *fit) for key, fit in zip(itertools.chain(*keys), fits, strict=True) if key not in study.user_attrs
    ]
    with Parallel(n_jobs) as pool, tqdm(total=len(missing), disable=quiet, leave=False) as bar:
        for start in range(0, len(missing), n_jobs):
            batch = missing[start : start + n_jobs]
            results = pool(delayed(fit_and_score)(data, config, seed) for _, config, seed in batch)
            for (key, *_), result in zip(batch, results, strict=True):
                study.set_user_attr(key, result)
            bar.update(len(batch))
    stored = study.user_attrs
    return [[stored[key] for key in row] for row in keys]
