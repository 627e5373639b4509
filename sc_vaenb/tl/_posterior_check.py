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
from ..fit.split import MAX_CELLS_HELD_OUT, split
from ..fit.state import FitConfig
from ..inference.marginal import Fitness, refit
from ..inference.posterior_check import compare_replicates, held_out_again
from ..model.config import ModelConfig
from ._check_tables import batch_table, likelihood_table, tables
from ._check_verdict import verdict_in_words
from ._counts import read_counts

if TYPE_CHECKING:
    from anndata import AnnData

MIN_CELLS = 10  # cells that a check needs
COUNT_LIKELIHOODS = ("nb", "zinb", "poisson")  # these can be compared: all are distributions of counts
PATIENCE = 10  # evaluations without a lower loss, after which a refit stops
SHARE_HELD_OUT = 0.1  # share of the cells that is held out if the held-out cells of the fit are not known


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
    """Check whether cells simulated by a fitted model look like the data, and which likelihood fits the data best.

    A posterior predictive check (Gelman, Meng & Stern 1996): every cell is encoded, a state is drawn from q(z | x), and
    counts are drawn given this state at the cell's own size factor and batch; this is done `n_samples` times. The
    cells are those that the fit held out, if these are known: on cells of the fit any model looks better than it is.

    Whether zero inflation (or over-dispersion) is needed depends on the likelihood of new cells, not on the number of
    zeros. With `likelihoods`, the same model is fitted again with each likelihood. All refits use the same cells, with
    early stopping on a part of these, and are evaluated on cells that were held out from all refits.

    Parameters
    ----------
    adata
        Cells x genes, with a model in `uns[key]` (from :func:`sc_vaenb.tl.vae` or :func:`sc_vaenb.tl.cvae`).
    key
        Name of the stored model.
    n_samples
        Number of replicates of every cell, and of draws of its state for the lower bound of its likelihood.
    likelihoods
        Likelihoods to fit again and compare: `("nb", "zinb", "poisson")`, or `"nb"` and one of the others. `None`:
        nothing is fitted.
    n_seeds
        Fits of each likelihood. With one fit, the standard errors do not include the variation between fits.
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
        A row per gene of the model: `mean`, `variance` and `zeros` (share of cells without a count) in the data;
        `..._replicates`, the mean of the same statistic over the replicates; `..._pit` (probability integral
        transform), the rank of the data among the replicates: 0 below all, 1 above all. PITs are uniform if the data
        look like one more replicate.
    `cells`
        A row per checked cell, with the same columns for its `depth` and its number of `detected` genes.
    `correlations`
        A row per pair (`gene`, `other`) of the 50 most variable genes, with the same columns for Pearson's
        `correlation` of log1p of the scaled counts.
    `coverage`
        A row per statistic: `n` (genes, cells, pairs or counts) and the share of them that lies within the central
        `50%`, `80%`, `90%` and `95%` of the replicates. `count` is for single counts, `count_expressed` for counts
        whose mean over the replicates is 1 or more.
    `pit`
        Share of the PITs in each of 40 bins (rows: lower edges of the bins; columns: the statistics).
    `likelihoods` (with `likelihoods`)
        A row per likelihood: `log_likelihood` per held-out cell in nats with its standard error `se` (a lower bound
        with `n_samples` draws of the state: IWAE, Burda, Grosse & Salakhutdinov 2016), `elbo` (the looser bound),
        `difference` (to `"nb"`, paired over the cells) with `difference_se`, `better_for` (share of the cells with a
        difference above zero), `zeros` (expected share), `steps` (the step whose weights were kept, mean over fits).
        Standard errors include the variation between cells and between fits.
    `by_batch` (with `likelihoods`, if the model knows batches)
        The same for the held-out cells of each batch, because technologies differ.

    and `verdict` (text) and `params` (the arguments; `n_cells`; `cells`: `held_out` or `given`; `zeros`, the share in
    the data; for refits the planned `n_steps` and the number of cells `n_held_out`).

    Raises
    ------
    KeyError, TypeError, ValueError
        There is no such model, it cannot be read, some of its genes are missing, the counts are not valid, or an
        argument is not possible. `adata` is unchanged.
    FloatingPointError
        The loss of a refit became NaN or infinite. `adata` is unchanged.

    See Also
    --------
    sc_vaenb.pl.posterior_check : Plots the result.
    sc_vaenb.tl.sample : Draws new cells.

    Notes
    -----
    A cell's state is drawn given the cell's own counts. So statistics of single cells and counts lie closer to the
    middle of the replicates than expected by chance, even if the model is right, and their coverage may exceed the
    nominal coverage. The same holds for the depth, which is also the size factor by default. Only a coverage below the
    nominal one is evidence against a model. The more cells, the smaller the deviations that the coverage of genes
    shows: also look at the size of a deviation.

    References
    ----------
    .. [1] Gelman, Meng and Stern (1996), Posterior predictive assessment of model fitness via realized discrepancies,
       Statistica Sinica 6:733-807.
    .. [2] Burda, Grosse and Salakhutdinov (2016), Importance weighted autoencoders, arXiv:1509.00519.

    Examples
    --------
    >>> import sc_vaenb
    >>> adata = sc_vaenb.datasets.simulate()
    >>> sc_vaenb.pp.prepare(adata)
    >>> sc_vaenb.tl.vae(adata)
    >>> sc_vaenb.tl.posterior_check(adata, likelihoods=("nb", "zinb", "poisson"))
    >>> print(adata.uns["posterior_check"]["verdict"])
    """
    _adata.check_key_added(adata, key_added)
    rng = seed_of(rng)
    check_seeds(rng, n_seeds)
    torch_device = resolve_device(device)
    fitted = FittedModel.from_uns(adata, key)
    names = _check_likelihoods(likelihoods, fitted.model.config)
    options = _fit_config(fitted.params, key) if names else None
    min_cells = round(MIN_CELLS / SHARE_HELD_OUT) if names else MIN_CELLS
    if adata.n_obs < min_cells:
        msg = f"adata has {adata.n_obs} cells: a check {'of likelihoods ' if names else ''}needs {min_cells} at least."
        raise ValueError(msg)
    counts = read_counts(adata, key, fitted)

    start = logg.info(f"checking the model in uns[{key!r}]")
    adata = adata.copy() if copy else adata
    progress = settings.verbosity.value > 0
    held_out = _held_out(read_record(adata, key), fitted, counts, torch_device)
    params = {"key": key, "n_samples": n_samples, "rng": rng, "cells": "given" if held_out is None else "held_out"}
    generator = np.random.default_rng(rng)
    cells = np.sort(generator.permutation(len(counts))[:MAX_CELLS_HELD_OUT]) if held_out is None else held_out
    checked_counts = counts.subset(cells)
    params |= {"n_cells": len(cells), "zeros": 1 - checked_counts.matrix.nnz / (len(cells) * len(fitted.genes))}
    check = compare_replicates(fitted.model, checked_counts, n_samples, torch_device, rng, progress)
    record: dict[str, Any] = tables(check, fitted.genes, adata.obs_names[cells], generator)
    if options:
        if held_out is None:
            held_out = split(np.zeros_like(counts.batch_index), SHARE_HELD_OUT, MAX_CELLS_HELD_OUT, generator)[1]
        params |= {"likelihoods": np.array(names, dtype=object), "n_seeds": n_seeds}
        params |= {"n_steps": options.n_steps, "n_held_out": len(held_out)}
        fitness: dict[str, list[Fitness]] = {name: [] for name in names}
        for seed, name in itertools.product(range(rng, rng + n_seeds), names):
            logg.info(f"    fitting {name} without {len(held_out):,} cells, seed {seed}")
            config, offset = replace(fitted.model.config, likelihood=name), fitted.model.batch_offset
            try:
                fit_arguments = config, counts, held_out, options, n_samples, torch_device, seed, progress
                fitness[name].append(refit(*fit_arguments, None if offset is None else offset.cpu().numpy()))
            except FloatingPointError as error:
                msg = (
                    f"The refit with {name} broke down: {error}. Leave it out of likelihoods; look for extreme counts."
                )
                raise FloatingPointError(msg) from error
        record["likelihoods"] = likelihood_table(fitness)
        if fitted.batches:
            record["by_batch"] = batch_table(fitness, np.array(fitted.batches)[counts.batch_index[held_out]])
    record |= {"params": params, "verdict": verdict_in_words(record, params)}
    _adata.write_record(adata, key_added, record)
    logg.info(record["verdict"])
    logg.info("    finished", time=start, deep=f"added\n    {key_added!r}, the check (adata.uns)")
    return adata if copy else None


def _check_likelihoods(likelihoods: Sequence[str] | None, config: ModelConfig) -> list[str]:
    if likelihoods is None:
        return []
    names = list(dict.fromkeys(likelihoods))
    if isinstance(likelihoods, str) or "nb" not in names or len(names) < 2 or not set(names) <= set(COUNT_LIKELIHOODS):
        msg = (
            f"likelihoods={likelihoods!r} is not possible. Give 'nb', with which the others are compared, and one or "
            f"more of 'zinb' and 'poisson': likelihoods={COUNT_LIKELIHOODS}."
        )
        raise ValueError(msg)
    if config.size_factor_as == "covariate" and config.link == "softmax":  # possible for a gaussian model only
        msg = (
            "the model has size_factor_as='covariate' and link='softmax', with which likelihoods of counts cannot be "
            "fitted. Fit it again with link='exp' first, or leave likelihoods out."
        )
        raise ValueError(msg)
    return names


def _fit_config(params: Mapping[str, Any], key: str) -> FitConfig:
    """The options of the model's fit, but with early stopping, because some likelihoods overfit in fewer steps."""
    options = {
        "patience": PATIENCE,
        "validation_fraction": params.get("validation_fraction") or SHARE_HELD_OUT,
        "target_kl": params.get("target_kl"),
    }
    for name in (field.name for field in fields(FitConfig) if field.name not in options):
        if name not in params:
            msg = (
                f"uns[{key!r}]['params'] does not say how the model was fitted ({name} is missing), so that "
                "likelihoods cannot be compared in the same way. Leave likelihoods out, or fit with sc_vaenb first."
            )
            raise ValueError(msg)
        options[name] = params[name]
    return FitConfig(**{name: np.asarray(value).item() for name, value in options.items()})


def _held_out(
    record: Mapping[str, Any], fitted: FittedModel, counts: Counts, device: torch.device
) -> NDArray[np.int64] | None:
    """The cells that the fit held out; None, with a warning, if they cannot be determined."""
    params, history = record["params"], record.get("history", {})
    cells = None
    if "validation_loss" in history and {"rng", "validation_fraction"} <= set(params):
        row = np.flatnonzero(np.asarray(history["step"]) == record["verdict"]["kept_step"])
        kl_per_dim = np.asarray(history["kl_per_dim"])[row].sum(0)
        fraction, seed = float(params["validation_fraction"]), int(params["rng"])
        cells = held_out_again(fitted.model, counts, fraction, seed, kl_per_dim, device)
    if cells is not None and len(cells) >= MIN_CELLS:
        return cells
    logg.warning(
        "The cells that the fit held out are not known: it held out none or few, or these are other cells, or in "
        "another order. All cells of adata are used for the check; on cells that the model was fitted on, it looks "
        "better than it is."
    )
    return None
