"""What `tl.vae` and `tl.cvae` share: their parameters' meaning, and the way from an AnnData to a fitted model in it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from scanpy import logging as logg
from scanpy import settings

from .. import _adata
from .._disk import on_disk
from ..fit.align import align, n_clusters
from ..fit.batches import Counts
from ..fit.checkpoint import Checkpoint, identity, open_folder
from ..fit.classify import classify, hold_back
from ..fit.cuda import to_device
from ..fit.distributed import Processes, SharedStep, own_device, place, together
from ..fit.embed import aligned, embed, memberships
from ..fit.loop import FitConfig, fit
from ..fit.overlap import Overlap, assumed, find_overlap
from ..fit.schedule import default_steps, default_weight_decay
from ..model.labels import UNKNOWN
from ..model.likelihood import LIKELIHOODS, LINKS
from ..model.network import ACTIVATIONS, NORMS
from ..model.prior import PRIORS
from ..model.protein import protein_weight
from ..model.vae import ModelConfig
from ._covariates import learn_covariates, read_covariates
from ._labels import classifier_of, read_labels, write_labels
from ._proteins import learn_proteins, read_proteins
from ._stored import counts_to_fit

if TYPE_CHECKING:
    from anndata import AnnData

DIALS = ("adversary", "mmd")  # weights of the penalties that take batch effects out of the latent space
LABELS_WEIGHT = 10.0  # of the cross-entropy of known labels: 50 learns few of them by heart, to the others' cost
CONDITION_WIDTH = 10  # dimensions of a learned batch embedding, or fewer where there are fewer batches

PARAMETERS = """\
layer
        Where the raw counts are: a layer, or `None` for `X`. Non-negative integers. Counts on disk (`X` of a backed
        AnnData, or a layer that :func:`anndata.io.sparse_dataset` opened) stay there: the fit is the same, and holds no
        more than the cells that its steps see, 131,072 at a time.
    mask_var
        The genes to model: a boolean column of `var`, or an array with one value per gene. The default column,
        which :func:`sc_vaenb.pp.prepare` and scanpy write, is used if it is there; `None` takes all genes.
    size_factor
        Column of `obs` with a positive size factor per cell. `None`: the depth, each cell's counts over the genes used.
        Only ratios matter: size factors are divided by their mean.
    size_factor_as
        `"multiplier"`: the expected count is the size factor times the decoded expression. `"covariate"`: the decoder
        gets the logarithm of the size factor beside the latent state and learns the rest (needs the link `"exp"` or
        `"softplus"`).
    likelihood
        Distribution of a count given the latent state. `"nb"`: negative binomial with mean mu and inverse dispersion
        theta, variance mu + mu^2 / theta. `"zinb"`: the same with a share of extra zeros per cell and gene.
        `"poisson"`: no over-dispersion. `"gaussian"`: a normal distribution of log1p of the scaled counts.
    dispersion
        One theta (or variance) per `"gene"`, or per gene and batch (`"gene-batch"`, in `cvae` only).
    link
        From the decoder's output to the expected expression: `"softmax"` over the genes (shares of the cell's depth,
        as scVI), or a free rate per gene through `"exp"` or `"softplus"`. Not used by `"gaussian"`.
    covariate_keys
        Columns of `obs` that the model is told, so that the embedding need not say them: numbers (a share of
        mitochondrial counts, a score) or categories (the chemistry, beside the sample in `batch_key`). They are not
        aligned as batches are. Decoded expression is that at their mean.
    protein_key
        Table in `obsm` with raw counts of surface proteins (CITE-seq), cells x proteins: a DataFrame, or an array with
        names in `uns["protein_names"]`. The embedding is then that of genes and proteins. A count is of background
        alone, or of background and what is bound (Gayoso et al. 2021, Nature Methods, totalVI), which
        :func:`sc_vaenb.tl.denoised_protein` tells apart. NaN says that a protein was not measured in a cell, as do
        zeros in all cells of a batch. There are no size factors of proteins. `None`: genes alone.
    n_components
        The most components that a prior of several may have (`"mog"`, `"vamp"`), 100 at most. Those that explain less
        than about 2 % of the cells go unused, so the cells decide how many there are.
    labels_key
        Column of `obs` with labels that are known of some cells or of all (cell types), to be predicted for all and to
        shape the embedding (Xu et al. 2021, scANVI). Cells of a label that no cell is known to have get one of the
        others.
    unlabeled
        What stands for no label in that column, beside missing values.
    n_latent
        Dimensions of the embedding.
    hidden
        Widths of the encoder's hidden layers, from the genes to the latent space; `()` for a linear one.
    decoder_hidden
        Widths of the decoder's hidden layers, from the latent space to the genes. `None`: the encoder's, mirrored.
    activation
        Of the hidden layers: `"relu"`, `"gelu"` or `"silu"`.
    norm
        Of the hidden layers: `"layer"` (LayerNorm), `"batch"` (BatchNorm) or `"none"`.
    dropout
        Share of hidden units dropped in each step, 0 to 0.9.
    beta
        Final weight of the KL divergence in the objective, reconstruction + beta * KL. Below 1, cells keep more of
        what tells them apart; above 1, the embedding is smoother.
    warmup
        Share of the steps over which the weight of the KL rises from 0 to `beta`.
    free_bits
        Nats of KL that each latent dimension may carry at no cost (averaged over the cells of a step): above 0
        (0.1, say) it keeps dimensions from collapsing onto the prior.
    target_kl
        Nats of KL that the latent state of a cell shall carry: `beta`, then only where it starts, is changed during the
        fit until it does (20 came within 0.02 of the default's scores on all data tried). `None`: `beta` is kept.
    n_steps
        Steps of the fit. `None`: 400 and one for every ten cells, 700 at most, so that large data cost no more (of a
        million cells, a fit of 700 steps of 128 sees an eleventh).
    batch_size
        Cells per step (fewer if there are fewer).
    learning_rate
        Peak of the one-cycle schedule of AdamW. When the loss rises far or is no number any more, the fit goes back to
        the weights with the lowest and on with a third of it.
    weight_decay
        Of AdamW: every step shrinks the networks' matrices, the batch vectors and the logarithms of the dispersions by
        this times the learning rate, which keeps few cells from being learned by heart. `None`: 1,800 / number of
        cells, 2 at most, so that the weights remember the same number of passes over the cells.
    validation_fraction
        Share of each batch's cells (2,048 cells in all at most) that is held out from the fit to judge it, at most
        0.9; 0 for none.
    patience
        Stop after this many looks at the held-out cells (there are 20 to 50 in a fit) without a lower loss, and go back
        to the weights with the lowest. `None`: use all steps and keep the last weights. On small data the held-out
        loss turns up long before the embedding is at its best, so stop early for the sake of decoding, not embedding.
    device
        `"auto"` takes CUDA, then MPS, then CPU; or torch's name of a device. Several processes that torchrun has
        started share the fit, each on a CUDA device of its own or all on the CPU, to the same result but for rounding.
    rng
        Seed, or a numpy Generator to draw one from; `None` for a random one. The same seed gives the same result on
        the same machine and CPU with the same number of threads; the global random state is neither read nor changed.
    allow_non_integer
        Accept counts with fractions, as ambient-RNA correction makes them.
    checkpoint
        A folder where the fit keeps its state, which takes about 2 % of its time. If it is killed and called again with
        the same data and arguments, it goes on from there, to the result that it would have had: bit for bit on a CPU
        with the same number of threads. The last state stays until you remove the folder. `None`: nothing is kept.
    key_added
        Name for the results, `"vae"` by default: `obsm["X_" + key_added]` and `uns[key_added]`.
    copy
        Work on a copy of `adata` and return it."""

RETURNS = """\
`None`, or the copy if `copy`. Written are:

    `obsm["X_vae"]`
        The embedding: the posterior mean of each cell's latent state, float32, cells x `n_latent`.
    `uns["vae"]["params"]`
        The parameters as used (a parameter that is `None` is left out), with `method` and `version`.
    `uns["vae"]["history"]`
        Arrays with one value per look (once a pass over the cells, but 20 to 50 times): `step`, `epoch` (passes so
        far), `beta`, `learning_rate`, `seconds`, `active_units` (dimensions with more than 0.01 nats of KL), and
        in nats per cell `train_loss`, `train_reconstruction`, `train_kl`, `validation_loss`,
        `validation_reconstruction`, `validation_kl`; `kl_per_dim` is looks x dimensions. The validation loss is taken
        at the final `beta` (at 1 with `target_kl`). What else is in the losses (`adversary`, `labels`, `mmd`, and
        `protein`, the negative log-likelihood of proteins) adds `train_` and `validation_` columns of its name. A look
        at which the fit had to go back is left out.
    `uns["vae"]["verdict"]`
        `status` (`converged`, `still_improving`, `stopped_early` or `interrupted`), `posterior_collapse`, `best_step`
        (with the lowest held-out loss), `kept_step` (whose weights the model has), `setbacks` (how often the fit had to
        go back and on with smaller steps) and `message`.
    `uns["vae"]["overlap"]` (`cvae` only)
        `batches`, the `group` of each (a number), and `share` (batches x batches): of the cells of the first, those to
        which the second is about as close as the closest.
    `obsm["vae_components"]`, `obs["vae_component"]` (`prior="mog"` and `"vamp"` only; named after `key_added`)
        Soft and hard clusters: the probability of each used component of the prior given q(z | x), before any
        alignment, float32, cells x components, largest component first; and the likeliest, a category per component.
        :func:`sc_vaenb.tl.embed` and :func:`sc_vaenb.tl.map_query` do not write them.
    `uns["vae"]["components"]` (these priors only)
        In the same order, unused ones last: the `weight` of each component in the prior, the `share` of the cells in it
        (the mean of their probabilities), and whether it is `live`, that is used.
    `obs["vae_label"]`, `obs["vae_label_probability"]`, `obsm["vae_label_probabilities"]` (with `labels_key` only)
        The most probable label of every cell, those with a known label included; its probability; and a table with the
        probability of each label (a "/" in its name becomes "|").
    `uns["vae"]["labels"]` (with `labels_key` only)
        `names`, `n_known` (cells with a label), and `temperature`, by which the logits are divided. Where 250 labels
        or more are known, a tenth of them (`n_held_back`; 50 to 1,000) is held back from the fit to choose it, so that
        probabilities come true; `accuracy` and `calibration_error` are on these cells. Else it is 1.
    `uns["vae"]["model"]`
        The model itself as strings and arrays; :func:`sc_vaenb.tl.embed` reads it."""

RAISES = """\
KeyError, TypeError, ValueError
        An argument is unknown or impossible, or the counts, size factors or batches are not what they must be. The
        message names the place and the first offender; or `checkpoint` holds the state of another fit. `adata` is
        unchanged.
    FileExistsError, OSError
        `checkpoint` is a file, or cannot be written to. `adata` is unchanged.
    FloatingPointError
        The loss left the numbers. `adata` is unchanged.
    MemoryError
        The device has too little memory. `adata` is unchanged."""


def describe(function: Callable) -> Callable:
    """Put the shared parts into a docstring."""
    if function.__doc__:  # python -OO has none
        for name, text in (("{parameters}", PARAMETERS), ("{returns}", RETURNS), ("{raises}", RAISES)):
            function.__doc__ = function.__doc__.replace(name, text)
    return function


def fit_into(adata: AnnData, method: str, arguments: Mapping[str, Any]) -> AnnData | None:
    """Validate, fit, embed, write: the body of `tl.vae` and `tl.cvae`, given all their arguments by name."""
    not_of_the_result = {"adata", "copy", "key_added", "checkpoint"}
    params = {name: _builtin(value) for name, value in arguments.items() if name not in not_of_the_result}
    key = "vae" if arguments["key_added"] is None else arguments["key_added"]
    _adata.check_adata(adata, copy=arguments["copy"])
    _adata.check_key(key)
    check_arguments(adata, params)
    rank, n_processes = place()
    if n_processes > 1:
        check_shareable(params, n_processes)
    folder = _folder(arguments["checkpoint"], params["rng"], opened=rank == 0)
    device, seed = own_device(params["device"]), _seed(params["rng"])
    codes, batches = np.zeros(adata.n_obs, np.int64), np.array([], dtype=str)
    if method == "cvae":
        codes, batches = _adata.read_batches(adata, params["batch_key"])
    covariates = learn_covariates(adata, params["covariate_keys"] or [], params.get("batch_key"))
    labels: tuple[str, ...] = ()
    label = judges = np.array([], np.int64)
    if params["labels_key"] is not None:
        label, labels = read_labels(adata, params["labels_key"], params["unlabeled"], params.get("batch_key"))
    protein_key, allowed = params["protein_key"], params["allow_non_integer"]
    proteins = {} if protein_key is None else learn_proteins(adata, protein_key, codes, batches, allowed)
    mask = _adata.gene_mask(adata, params["mask_var"])
    options = _fit_config(params, adata.n_obs)
    beside = {"covariates": read_covariates(adata, covariates)} if covariates else {}
    if labels:
        judges = hold_back(label, seed)
        beside["label"] = np.where(np.isin(np.arange(len(label)), judges), UNKNOWN, label)
    if proteins:
        beside["protein"] = read_proteins(adata, protein_key, proteins, codes, allowed)
    counts: Counts
    if on_disk(*_adata.matrix_of(adata, params["layer"])):
        counts, genes, size_factor_mean = counts_to_fit(adata, params, mask, codes, beside, options, seed)
    else:
        matrix = _adata.read_counts(adata, params["layer"], mask, allow_non_integer=allowed)
        matrix, genes = _adata.without_silent_genes(matrix, adata.var_names[mask].to_numpy(dtype=str))
        size_factor = _adata.read_size_factor(adata, params["size_factor"], matrix)
        size_factor_mean = size_factor.mean()
        counts = Counts(matrix, (size_factor / size_factor_mean).astype(np.float32), codes, beside)
    overlap = find_overlap(counts) if params.get("overlap") == "auto" else assumed(len(batches))
    config = _model_config(params, len(genes), overlap, counts, labels)
    with together(device) as processes:
        checkpoint = _checkpoint(folder, config, counts, options, seed, device, processes)
        start = logg.info(
            f"fitting {method} to {len(counts):,} cells x {len(genes):,} genes"
            + (f" and {len(proteins['names'])} proteins" if proteins else "")
            + (f" of {len(batches)} batches" if len(batches) else "")
            + f" on {device} ({options.n_steps:,} steps)"
        )
        if checkpoint and checkpoint.step:
            logg.info(f"    going on from step {checkpoint.step:,}, as kept in {folder}")
        adata = adata.copy() if arguments["copy"] else adata

        try:
            counts, step = to_device(counts, device)
            progress = settings.verbosity.value > 0 and processes.rank == 0
            make_step = partial(SharedStep, processes) if processes.size > 1 else step
            model, history, verdict = fit(config, counts, options, device, seed, progress, make_step, checkpoint)
            embedding = processes.gather(embed(model, counts, device, processes.part(len(counts))), len(counts))
            member = memberships(model, counts, device)
            if model.alignment is not None:
                align(model.alignment, embedding, codes, overlap.group, seed)
                embedding = aligned(model, embedding, codes, device)
            told = {}
            if labels:
                told = classify(classifier_of(model), embedding, label, judges, seed)
        except (torch.OutOfMemoryError, MemoryError) as error:
            msg = (
                f"{device} ran out of memory. Lower batch_size ({options.batch_size}) or hidden, or pass device='cpu'."
            )
            raise MemoryError(msg) from error
        except FloatingPointError as error:
            advice = f"Lower learning_rate ({options.learning_rate:g}); look for extreme counts."
            msg = f"The fit broke down: {error}. {advice}"
            raise FloatingPointError(msg) from error

    weights = {name: value.cpu().numpy() for name, value in model.state_dict().items()}
    model_config = asdict(config) | {"size_factor_mean": size_factor_mean, "covariates": covariates}
    model_config |= {"proteins": proteins} if proteins else {}
    used = params | {
        "rng": seed,
        "n_steps": options.n_steps,
        "weight_decay": options.weight_decay,
        "device": str(device),
    }
    if not isinstance(params["mask_var"], str | None):
        used["mask_var"] = mask
    record = {
        "params": _plain(used | {"method": method, "version": version("sc_vaenb")}),
        "history": history.columns(),
        "verdict": asdict(verdict),
        "model": _adata.pack_model(model_config, weights, genes, batches),
    }
    if member is not None:
        member, record["components"] = _in_order(member, weights["prior.weight"])
    if labels:
        record["labels"] = {"names": np.array(labels, dtype=object), **told}
    if len(batches):
        record["overlap"] = {"batches": batches.astype(object), **asdict(overlap)}
    if key in adata.uns or f"X_{key}" in adata.obsm:
        logg.warning(f"replacing uns[{key!r}] and obsm['X_{key}']; pass key_added to keep several results side by side")
    _adata.write_components(adata, key, member)
    _adata.write_result(adata, key, embedding, record)
    predicted = write_labels(adata, key, model, embedding)
    fine = verdict.status in {"converged", "stopped_early"} and not verdict.posterior_collapse
    (logg.info if fine else logg.warning)(verdict.message)
    if overlap.group.any():
        logg.warning(_groups_in_words(batches, overlap))
    added = f"added\n    'X_{key}', the embedding (adata.obsm)\n    {key!r}, the model and its history (adata.uns)"
    if member is not None:
        logg.info(_components_in_words(member.shape[1], config.n_components))
        added += f"\n    '{key}_components', cells' probabilities of components (adata.obsm)"
        added += f"\n    '{key}_component', the likeliest (adata.obs)"
    logg.info("    finished", time=start, deep="\n    ".join([added, *predicted]))
    return adata if arguments["copy"] else None


def check_arguments(adata: AnnData, arguments: Mapping[str, Any]) -> None:
    """Refuse what cannot be, before the counts are read."""
    params = {name: _builtin(value) for name, value in arguments.items()}
    choices: dict[str, Iterable[str]] = {
        "likelihood": LIKELIHOODS,
        "link": LINKS,
        "activation": ACTIVATIONS,
        "norm": NORMS,
        "size_factor_as": ("multiplier", "covariate"),
        "dispersion": ("gene", "gene-batch"),
        "condition": ("embedding", "onehot"),
        "overlap": ("auto", "all"),
        "prior": PRIORS,
    }
    for name, valid in choices.items():
        if name in params:
            _adata.check_choice(name, params[name], valid)
    for name in ("n_latent", "n_steps", "batch_size", "patience"):
        if name not in {"n_steps", "patience"} or params[name] is not None:
            _adata.check_number(name, params[name], 1, whole=True)
    _adata.check_number("n_components", params["n_components"], 1, 100, whole=True)
    for name in ("hidden", "decoder_hidden"):
        widths = () if name == "decoder_hidden" and params[name] is None else params[name]
        if not isinstance(widths, Sequence):
            msg = f"{name}={widths!r} is not possible. Give a sequence of widths: (128,), or () for no hidden layer."
            raise TypeError(msg)
        for width in widths:
            _adata.check_number(f"a width in {name}", width, 1, whole=True)
    _adata.check_number("learning_rate", params["learning_rate"], 0, above=True)
    if params["target_kl"] is not None:
        _adata.check_number("target_kl", params["target_kl"], 0, above=True)
    for name, high in (("beta", np.inf), ("free_bits", np.inf), ("weight_decay", np.inf), ("warmup", 1)):
        if name != "weight_decay" or params[name] is not None:
            _adata.check_number(name, params[name], 0, high)
    for name in DIALS:
        _adata.check_number(name, params.get(name, 0.0), 0)
    for name in ("dropout", "validation_fraction"):
        _adata.check_number(name, params[name], 0, 0.9)
    if params["size_factor_as"] == "covariate" and params["link"] == "softmax" and params["likelihood"] != "gaussian":
        msg = (
            "size_factor_as='covariate' needs rates free to follow the depth, but link='softmax' gives shares. "
            "Choose link='exp' or 'softplus'."
        )
        raise ValueError(msg)
    if params["prior"] == "conditional" and params.get("batch_key") is None:
        msg = "prior='conditional' needs batches. Use sc_vaenb.tl.cvae(adata, batch_key=...), or prior='normal'."
        raise ValueError(msg)
    if params["dispersion"] == "gene-batch" and params.get("batch_key") is None:
        msg = "dispersion='gene-batch' needs batches. Use sc_vaenb.tl.cvae(adata, batch_key=...), or dispersion='gene'."
        raise ValueError(msg)
    n_fitted = adata.n_obs - round(params["validation_fraction"] * adata.n_obs)
    if params["norm"] == "batch" and min(params["batch_size"], n_fitted) < 2:
        msg = "norm='batch' needs two cells or more in each step. Raise batch_size, or choose norm='layer'."
        raise ValueError(msg)
    keys = params["covariate_keys"] or []
    if isinstance(keys, str) or not isinstance(keys, Sequence) or not all(isinstance(key, str) for key in keys):
        msg = f"covariate_keys={keys!r} is not possible. Give a list of columns of obs."
        raise TypeError(msg)
    if not isinstance(params["protein_key"], str | None):
        msg = f"protein_key={params['protein_key']!r} is not possible. Give the name of a table in obsm."
        raise TypeError(msg)
    for name in ("align", "encode_batch"):
        if not isinstance(params.get(name, True), bool):
            msg = f"{name}={params[name]!r} is not possible. Choose True or False."
            raise TypeError(msg)


def check_shareable(params: Mapping[str, Any], n_processes: int) -> None:
    """Refuse what is not the same when each process sees its part of a minibatch alone."""
    if params["rng"] is None:
        msg = f"{n_processes} processes need one seed: with rng=None each draws its own. Give rng a whole number."
        raise ValueError(msg)
    found = [f"{name}={params[name]!r}" for name in (*DIALS, "dropout", "free_bits") if params.get(name)]
    found += [
        f"{name}={params[name]!r}"
        for name, value in (("norm", "batch"), ("prior", "mog"), ("prior", "vamp"))
        if params[name] == value
    ]
    if found:
        msg = (
            f"{', '.join(found)} cannot be shared by {n_processes} processes, as each would need all cells of a step. "
            "Fit in one process (without torchrun), or leave it out."
        )
        raise ValueError(msg)


def _in_order(
    member: NDArray[np.float32], weight: NDArray[np.float32]
) -> tuple[NDArray[np.float32], dict[str, NDArray]]:
    """The used components, largest first; and all of them for the record, unused ones last."""
    live = member.max(axis=0) > 0
    order = np.lexsort([-weight, ~live])
    about = {"weight": weight[order], "share": member.mean(axis=0)[order], "live": live[order]}
    return member[:, order[: live.sum()]], about


def _components_in_words(n_live: int, n_components: int) -> str:
    if n_live == n_components > 1:
        return f"All {n_components} components of the prior are used. There may be more: raise n_components to see."
    return f"{n_live} of {n_components} components of the prior are used."


def _groups_in_words(batches: NDArray[np.str_], overlap: Overlap) -> str:
    groups = [", ".join(batches[overlap.group == g]) for g in np.unique(overlap.group)]
    return (
        f"The batches fall into {len(groups)} groups that seem to have no kind of cell in common: "
        f"{' | '.join(groups)}. Batch effects are taken out within each; the differences between the groups stay in. "
        "If the groups do have cells of the same kinds (two protocols, say), fit with overlap='all'."
    )


def _model_config(
    params: Mapping[str, Any], n_genes: int, overlap: Overlap, counts: Counts, labels: tuple[str, ...]
) -> ModelConfig:
    hidden = tuple(params["hidden"])
    mirrored = params["decoder_hidden"] is None
    names = ["n_latent", "activation", "norm", "dropout", "likelihood", "dispersion", "link", "size_factor_as"]
    names += ["prior", "n_components"]
    conditional: dict[str, Any] = {}
    n_proteins = counts.beside["protein"].shape[1] if "protein" in counts.beside else 0
    n_batches, codes = len(overlap.group), overlap.code().tolist()
    if n_batches:
        conditional = {
            "encode_batch": params["encode_batch"],
            "condition_code": tuple(codes),
            "condition_group": tuple(overlap.group.tolist()),
            "condition_width": min(CONDITION_WIDTH, max(codes) + 1) if params["condition"] == "embedding" else 0,
            "alignment_clusters": n_clusters(len(counts)) if params["align"] else 0,
        }
    penalties = {name: params.get(name, 0) for name in DIALS} | {
        "labels": LABELS_WEIGHT if labels else 0,
        "protein": protein_weight(n_genes, n_proteins) if n_proteins else 0,
    }
    return ModelConfig(
        n_genes=n_genes,
        n_conditions=n_batches,
        hidden=hidden,
        decoder_hidden=hidden[::-1] if mirrored else tuple(params["decoder_hidden"]),
        n_covariates=counts.beside["covariates"].shape[1] if "covariates" in counts.beside else 0,
        labels=labels,
        n_proteins=n_proteins,
        penalties={name: float(weight) for name, weight in penalties.items() if weight},
        **{name: params[name] for name in names},
        **conditional,
    )


def _fit_config(params: Mapping[str, Any], n_cells: int) -> FitConfig:
    chosen = {field.name: params[field.name] for field in fields(FitConfig)}
    if chosen["n_steps"] is None:
        chosen["n_steps"] = default_steps(n_cells)
    if chosen["weight_decay"] is None:
        chosen["weight_decay"] = default_weight_decay(n_cells)
    return FitConfig(**chosen)


def _folder(checkpoint: Any, rng: Any, *, opened: bool) -> Path | None:
    """The folder for the state of a fit that can go on: one that will be the same fit when it is called again."""
    if checkpoint is None:
        return None
    if not isinstance(checkpoint, str | os.PathLike):
        msg = f"checkpoint={checkpoint!r} is not possible. Give a folder, or None."
        raise TypeError(msg)
    if rng is None:
        msg = "checkpoint needs a seed: with rng=None no fit is that of before. Give rng a whole number."
        raise ValueError(msg)
    if opened:
        open_folder(Path(checkpoint))
    return Path(checkpoint)


def _checkpoint(
    folder: Path | None,
    config: ModelConfig,
    counts: Counts,
    options: FitConfig,
    seed: int,
    device: torch.device,
    processes: Processes,
) -> Checkpoint | None:
    """The state to go on from, which the first process reads for all and writes, once all are known to fit the same."""
    if folder is None and processes.size == 1:
        return None
    about = identity(config, counts, options, seed)
    if processes.size > 1:
        processes.check_same(about | {"device": device.type, "checkpoint": folder is not None})
    if folder is None:
        return None
    checkpoint = processes.first(lambda: Checkpoint(folder, about, logg.warning))
    checkpoint.writes = processes.rank == 0
    return checkpoint


def _seed(rng: int | np.random.Generator | None) -> int:
    if isinstance(rng, int | np.integer) and not isinstance(rng, bool):
        _adata.check_number("rng", rng, 0, 2**63 - 1, whole=True)
        return int(rng)
    if rng is not None and not isinstance(rng, np.random.Generator):
        msg = f"rng={rng!r} is not possible. Give a whole number, a numpy.random.Generator or None."
        raise TypeError(msg)
    return int(np.random.default_rng(rng).integers(2**31))


def _builtin(value: Any) -> Any:
    """Numbers and arrays of numpy as Python's own, which the checks expect and JSON can hold."""
    if isinstance(value, list | tuple):
        return [_builtin(part) for part in value]
    return value.tolist() if isinstance(value, np.generic | np.ndarray) else value


def _plain(params: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters as strings, numbers and arrays: what every file format can hold."""
    return {
        name: np.array(value, dtype=object if value and isinstance(value[0], str) else np.int64)
        if isinstance(value, tuple | list)
        else value
        for name, value in params.items()
        if value is not None
    }
