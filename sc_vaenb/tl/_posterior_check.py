from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scanpy import logging as logg
from scanpy import settings

from .. import _adata
from .._checks import check_seeds, checked, seed_of
from .._record import FittedModel, read_record
from .._session import own_state
from ..data.counts import Counts
from ..fit.device import resolve_device
from ..fit.split import HELD_OUT, split
from ..fit.state import FitConfig
from ..inference.marginal import Fitness, refit
from ..inference.posterior_check import compare_replicates, held_out_again
from ..model.config import ModelConfig
from ._check_tables import batch_table, likelihood_table, tables
from ._check_verdict import verdict_in_words
from ._counts import read_counts

if TYPE_CHECKING:
    from anndata import AnnData

MIN_CELLS = 10  # cells from which anything can be said
OF_COUNTS = ("nb", "zinb", "poisson")  # the likelihoods that are comparable: the same counts are their outcomes
PATIENCE = 10  # looks without gain, after which a refit stops
SHARE_HELD_OUT = 0.1  # of the cells, held out where the fit's own cannot be told


@own_state()
@checked
def posterior_check(
    adata: AnnData,
    key: str = "vae",
    *,
    n_samples: int = 50,
    likelihoods: Sequence[Literal["nb", "zinb", "poisson"]] | None = None,
    n_seeds: int = 3,
    device: str = "auto",
    rng: int | np.random.Generator | None = 0,
    key_added: str = "posterior_check",
    copy: bool = False,
) -> AnnData | None:
    """Check whether cells drawn from a fitted model look like those counted, and which likelihood suits them best.

    A posterior predictive check (Gelman, Meng & Stern 1996): every cell is encoded, a state is drawn from q(z | x), and
    counts are drawn from it at the cell's own size factor and batch, `n_samples` times over. The cells are those that
    the fit held out, where these can be told: on fitted cells any model looks better than it is.

    Whether zero inflation (or over-dispersion) is needed is a question of how likely new cells are, not of how many
    zeros there are. With `likelihoods`, the same model is fitted again with each, all on the same cells, with early
    stopping on a part of these, and judged by the cells held out from all of it.

    Parameters
    ----------
    adata
        Cells x genes, with a model in `uns[key]` (from :func:`sc_vaenb.tl.vae` or :func:`sc_vaenb.tl.cvae`).
    key
        Name of the stored model.
    n_samples
        Replicates of every cell, and draws of its state for the bound of its likelihood.
    likelihoods
        What to fit again and compare: `("nb", "zinb", "poisson")`, or `"nb"` and one of these. `None`: nothing is
        fitted.
    n_seeds
        Fits of each likelihood. With one, standard errors know nothing of the chance of a fit.
    device
        `"auto"` takes CUDA, then MPS, then CPU; or torch's name of a device.
    rng
        Seed of all draws; the fits have the seeds `rng`, `rng + 1`, ...
    key_added
        Where in `uns` the check goes.
    copy
        Work on a copy of `adata` and return it.

    Returns
    -------
    `None`, or the copy if `copy`. `uns["posterior_check"]` holds DataFrames:

    `genes`
        Of every gene of the model: `mean`, `variance` and `zeros` (share of cells without a count) in the data;
        `..._replicates`, the mean of the same over the replicates; `..._pit`, where the data lie among the
        replicates: 0 below all, 1 above all, uniform where the data look like one more replicate.
    `cells`
        Of every cell checked, in the same way: `depth` and number of `detected` genes.
    `correlations`
        Of every pair (`gene`, `other`) of the 50 genes that vary most, in the same way: Pearson's `correlation` of
        log1p of the scaled counts.
    `coverage`
        A row per statistic: `n` (genes, cells, pairs or counts) and the share of them that lies within the central
        `50%`, `80%`, `90%` and `95%` of the replicates. `count` is of single counts, `count_expressed` of those of
        which the replicates have 1 or more on average.
    `pit`
        Share of the values of these PITs in each of 40 bins (rows: their lower edges; columns: the statistics).
    `likelihoods`
        Where asked for, a row per likelihood: `log_likelihood` per held-out cell in nats with its standard error `se`
        (a lower bound with `n_samples` draws of the state: IWAE, Burda, Grosse & Salakhutdinov 2016), `elbo` (the
        looser bound), `difference` (to `"nb"`, paired over the cells) with `difference_se`, `better_for` (share of
        the cells with a difference above zero), `zeros` (expected share), `steps` (mean of the steps whose weights were
        kept). Standard errors are of cells and of fits together.
    `by_batch`
        The same for the held-out cells of each batch, where the model knows batches: technologies differ.

    and `verdict` (text) and `params` (the arguments; `n_cells`, `cells`: `held_out` or `given`, and `zeros`, the share
    in the data; of refits the `n_steps` planned and `n_held_out` cells).

    Raises
    ------
    KeyError, TypeError, ValueError
        There is no such model, it cannot be read, genes of it are missing, the counts are not what they must be, or an
        argument is not possible. `adata` is unchanged.
    FloatingPointError
        The loss of a refit left the numbers. `adata` is unchanged.

    Notes
    -----
    A cell's state is drawn given its own counts, so statistics of single cells and counts lie nearer the middle of
    the replicates than chance would have it even where the model is right, and coverage may exceed the nominal one.
    So does that of the depth, which is also the size factor by default. What speaks against a model is coverage below.
    The more cells, the smaller a deviation that shows in the coverage of genes: look at its size too.

    Examples
    --------
    >>> import sc_vaenb
    >>> adata = sc_vaenb.datasets.simulate()
    >>> sc_vaenb.pp.prepare(adata)
    >>> sc_vaenb.tl.vae(adata)
    >>> sc_vaenb.tl.posterior_check(adata, likelihoods=("nb", "zinb", "poisson"))
    >>> print(adata.uns["posterior_check"]["verdict"])
    """
    if key_added == key:
        msg = f"key_added={key_added!r} is the key of the model, which would be lost. Choose another name."
        raise ValueError(msg)
    rng = seed_of(rng)
    check_seeds(rng, n_seeds)
    where = resolve_device(device)
    fitted = FittedModel.from_uns(adata, key)
    names = _check_likelihoods(likelihoods, fitted.model.config)
    options = _fit_config(fitted.params, key) if names else None
    fewest = round(MIN_CELLS / SHARE_HELD_OUT) if names else MIN_CELLS
    if adata.n_obs < fewest:
        msg = f"adata has {adata.n_obs} cells: a check {'of likelihoods ' if names else ''}needs {fewest} at least."
        raise ValueError(msg)
    counts = read_counts(adata, key, fitted)

    start = logg.info(f"checking the model in uns[{key!r}]")
    adata = adata.copy() if copy else adata
    progress = settings.verbosity.value > 0
    held_out = _held_out(read_record(adata, key), fitted, counts, where)
    told = {"key": key, "n_samples": n_samples, "rng": rng, "cells": "given" if held_out is None else "held_out"}
    draw = np.random.default_rng(rng)
    cells = np.sort(draw.permutation(len(counts))[:HELD_OUT]) if held_out is None else held_out
    chosen = counts.subset(cells)
    told |= {"n_cells": len(cells), "zeros": 1 - chosen.matrix.nnz / (len(cells) * len(fitted.genes))}
    found = compare_replicates(fitted.model, chosen, n_samples, where, rng, progress)
    record: dict[str, Any] = tables(found, fitted.genes, adata.obs_names[cells], draw)
    if options:
        if held_out is None:
            held_out = split(np.zeros_like(counts.batch_index), SHARE_HELD_OUT, HELD_OUT, draw)[1]
        told |= {"likelihoods": np.array(names, dtype=object), "n_seeds": n_seeds}
        told |= {"n_steps": options.n_steps, "n_held_out": len(held_out)}
        judged: dict[str, list[Fitness]] = {name: [] for name in names}
        for seed, name in itertools.product(range(rng, rng + n_seeds), names):
            logg.info(f"    fitting {name} without {len(held_out):,} cells, seed {seed}")
            config = replace(fitted.model.config, likelihood=name)
            try:
                judged[name].append(refit(config, counts, held_out, options, n_samples, where, seed, progress))
            except FloatingPointError as error:
                msg = (
                    f"The refit with {name} broke down: {error}. Leave it out of likelihoods; look for extreme counts."
                )
                raise FloatingPointError(msg) from error
        record["likelihoods"] = likelihood_table(judged)
        if fitted.batches:
            record["by_batch"] = batch_table(judged, np.array(fitted.batches)[counts.batch_index[held_out]])
    record |= {"params": told, "verdict": verdict_in_words(record, told)}
    _adata.write_record(adata, key_added, record)
    logg.info(record["verdict"])
    logg.info("    finished", time=start, deep=f"added\n    {key_added!r}, the check (adata.uns)")
    return adata if copy else None


def _check_likelihoods(likelihoods: Sequence[str] | None, config: ModelConfig) -> list[str]:
    if likelihoods is None:
        return []
    names = list(dict.fromkeys(likelihoods))
    if isinstance(likelihoods, str) or "nb" not in names or len(names) < 2 or not set(names) <= set(OF_COUNTS):
        msg = (
            f"likelihoods={likelihoods!r} is not possible. Give 'nb', with which the others are compared, and one or "
            f"more of 'zinb' and 'poisson': likelihoods={OF_COUNTS}."
        )
        raise ValueError(msg)
    if config.size_factor_as == "covariate" and config.link == "softmax":  # what only a gaussian model can have
        msg = (
            "the model has size_factor_as='covariate' and link='softmax', with which likelihoods of counts cannot be "
            "fitted. Fit it again with link='exp' first, or leave likelihoods out."
        )
        raise ValueError(msg)
    return names


def _fit_config(params: Mapping[str, Any], key: str) -> FitConfig:
    """How the model was fitted, but with early stopping: late steps learn fitted cells by heart, some models faster."""
    given = {
        "patience": PATIENCE,
        "validation_fraction": params.get("validation_fraction") or SHARE_HELD_OUT,
        "target_kl": params.get("target_kl"),
    }
    for name in (field.name for field in fields(FitConfig) if field.name not in given):
        if name not in params:
            msg = (
                f"uns[{key!r}]['params'] does not say how the model was fitted ({name} is missing), so that "
                "likelihoods cannot be compared in the same way. Leave likelihoods out, or fit with sc_vaenb first."
            )
            raise ValueError(msg)
        given[name] = params[name]
    return FitConfig(**{name: np.asarray(value).item() for name, value in given.items()})


def _held_out(
    record: Mapping[str, Any], fitted: FittedModel, counts: Counts, device: torch.device
) -> NDArray[np.int64] | None:
    """The cells that the fit held out, or None, with a warning, where these cannot be told."""
    params, history = record["params"], record.get("history", {})
    cells = None
    if "validation_loss" in history and {"rng", "validation_fraction"} <= set(params):
        kept = np.flatnonzero(np.asarray(history["step"]) == record["verdict"]["kept_step"])
        kl_per_dim = np.asarray(history["kl_per_dim"])[kept].sum(0)
        fraction, seed = float(params["validation_fraction"]), int(params["rng"])
        cells = held_out_again(fitted.model, counts, fraction, seed, kl_per_dim, device)
    if cells is not None and len(cells) >= MIN_CELLS:
        return cells
    logg.warning(
        "The cells that the fit held out cannot be told: it held out none or few, or these are other cells, or in "
        "another order. All cells given are taken to be checked; where the model was fitted on them, it looks better "
        "than it is."
    )
    return None
