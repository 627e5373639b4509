"""The search itself: configurations asked of optuna and fitted, what came of each kept where the next call finds it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from joblib import Parallel, delayed
from scanpy import logging as logg
from tqdm import tqdm

from ._tune_fit import Bench, judged
from ._tune_space import Space, for_optuna, suggest

Found = dict[str, Any]


def import_optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        msg = "tl.tune needs optuna, which is not installed. Run: pip install 'sc_vaenb[tune]'"
        raise ImportError(msg) from error
    return optuna


@contextmanager
def quiet_optuna() -> Iterator[None]:
    """Without optuna's own log of every trial, for a block."""
    level = import_optuna().logging
    before = level.get_verbosity()
    level.set_verbosity(level.WARNING)
    try:
        yield
    finally:
        level.set_verbosity(before)


def open_study(storage: str | None, name: str) -> Any:
    """The study of this name: in memory, in a file, or in a database."""
    optuna = import_optuna()
    where: Any = storage
    try:
        if storage is not None and "://" not in storage:
            where = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(storage))
        return optuna.create_study(study_name=name, storage=where, direction="maximize", load_if_exists=True)
    except Exception as error:  # a database of any kind may run into anything
        msg = (
            f"storage={storage!r} cannot be opened ({type(error).__name__}: {error}). Give the name of a file in a "
            "folder that is there, or a URL such as 'sqlite:///tune.db'."
        )
        raise ValueError(msg) from error


def finished(study: Any) -> list[Any]:
    """The trials with a result, or with an error of their own; those cut short by an interruption do not count."""
    return [trial for trial in study.get_trials(deepcopy=False) if "found" in trial.user_attrs]


def search(
    study: Any, bench: Bench, space: Space, base: Mapping[str, Any], n_trials: int, n_jobs: int, seed: int, quiet: bool
) -> None:
    """Add trials to the study until it has so many, the first of them of the configuration `base`."""
    optuna = import_optuna()
    n_done = len(finished(study))
    bar = tqdm(total=n_trials, initial=min(n_done, n_trials), disable=quiet, leave=False)
    with Parallel(n_jobs) as pool, bar:
        while n_done < n_trials:
            trials, configs = [], []
            for number in range(n_done, min(n_done + n_jobs, n_trials)):
                if number == 0:
                    study.enqueue_trial(for_optuna(base, space))
                # a seed for each trial: a search that goes on later is the same as one that was never interrupted
                own = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
                study.sampler = optuna.samplers.TPESampler(seed=own)
                trials.append(study.ask())
                configs.append(suggest(trials[-1], space))
            try:
                results = pool(delayed(judged)(bench, config, seed) for config in configs)
            except BaseException:
                for trial in trials:
                    study.tell(trial, state=optuna.trial.TrialState.FAIL)
                raise
            for trial, config, found in zip(trials, configs, results, strict=True):
                trial.set_user_attr("config", json.dumps(config))
                trial.set_user_attr("found", found)
                if "error" in found:
                    logg.warning(f"a fit with {config} broke down and is left out: {found['error']}")
                    study.tell(trial, state=optuna.trial.TrialState.FAIL)
                else:
                    study.tell(trial, found["score"])
            n_done += len(trials)
            bar.update(len(trials))


def with_other_seeds(
    study: Any, bench: Bench, configs: Sequence[Mapping[str, Any]], seeds: range, n_jobs: int, quiet: bool
) -> list[list[Found]]:
    """What each of the configurations gives with each of the seeds; what an earlier call found is not fitted again."""
    runs = [(config, seed, json.dumps([config, seed], sort_keys=True)) for config in configs for seed in seeds]
    todo = [run for run in runs if run[2] not in study.user_attrs]
    with Parallel(n_jobs) as pool, tqdm(total=len(todo), disable=quiet, leave=False) as bar:
        for at in range(0, len(todo), n_jobs):
            part = todo[at : at + n_jobs]
            for run, found in zip(part, pool(delayed(judged)(bench, *run[:2]) for run in part), strict=True):
                study.set_user_attr(run[2], found)
            bar.update(len(part))
    kept = study.user_attrs
    return [[kept[key] for given, _, key in runs if given is config] for config in configs]
