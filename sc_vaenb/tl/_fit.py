"""The common part of `tl.vae` and `tl.cvae`: read an AnnData, fit a model, and write it into the AnnData."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
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
from .._checks import seed_of
from .._record import FittedModel
from ..data.counts import Counts, checksum
from ..fit.align import align
from ..fit.checkpoint import Checkpoint, identity, only_fit
from ..fit.classify import classify
from ..fit.cuda import SHARE_OF_FREE_MEMORY, to_device
from ..fit.device import release
from ..fit.distributed import Processes, SharedStep, own_device, process_group, rank_and_size
from ..fit.embedding_map import fit_map
from ..fit.history import History, Verdict
from ..fit.loop import Step, fit
from ..fit.lost_kinds import lost_kinds
from ..fit.overlap import Overlap, apart_in_time, find_overlap, groups_by_time, nothing_to_compare
from ..fit.state import FitConfig
from ..inference.embed import aligned, latent_states, memberships, to_embedding
from ..inference.offsets import find_offsets, with_offsets
from ..model.config import ModelConfig
from ..model.vae import CountVAE
from ._arguments import check_shareable, check_together, checkpoint_folder, to_uns
from ._components import order_components, write_components
from ._equal_fit import fingerprint, params_of, seal
from ._fit_words import (
    all_in_words,
    apart_in_words,
    groups_in_words,
    lost_in_words,
    not_compared_in_words,
    start_in_words,
)
from ._inputs import Inputs, model_config, read_inputs
from ._labels import classifier_of, write_labels

if TYPE_CHECKING:
    from anndata import AnnData

NO_WARNING = ("converged", "stopped_early", "not_judged")  # verdicts that are logged as info


@dataclass(frozen=True)
class Result:
    """The result of a fit.

    Attributes
    ----------
    options
        Settings of the fit; the batch size is lower than requested if memory was short.
    embedding
        The embedding of all cells, aligned.
    loadings
        Log expression for one unit of each dimension of the embedding (genes x dimensions).
    memberships
        Probabilities of the components of the prior (cells x components); None if the prior is no mixture.
    label_scores
        Quality of the predicted labels; empty without labels.
    """

    model: CountVAE
    history: History
    verdict: Verdict
    options: FitConfig
    embedding: NDArray[np.float32]
    loadings: NDArray[np.float32]
    memberships: NDArray[np.float32] | None
    label_scores: dict[str, float]


def fit_and_write(adata: AnnData, method: str, arguments: Mapping[str, Any]) -> AnnData | None:
    """Validate, fit, embed, write: the body of `tl.vae` and `tl.cvae`. `arguments` are all of their arguments."""
    params = params_of(arguments)
    key = "vae" if arguments["key_added"] is None else arguments["key_added"]
    check_together(adata, params)
    rank, n_processes = rank_and_size()
    if n_processes > 1:
        check_shareable(params, n_processes)
    folder = checkpoint_folder(arguments["checkpoint"], params["rng"], checked=rank == 0)
    device, seed = own_device(params["device"]), seed_of(params["rng"])

    with process_group(device) as processes, ExitStack() as locks:
        inputs = read_inputs(adata, params, seed, processes)
        overlap = _find_overlap(inputs, params)
        # with time points, the first model has one group: only so do its clusters hold cells of all batches
        first_overlap = overlap if inputs.time is None else overlap.in_one_group()
        config = fitted_config = model_config(params, inputs, first_overlap)
        if inputs.has_offsets:
            fitted_config = with_offsets(config, None if inputs.time is None else overlap.group)
        checkpoint = _checkpoint(folder, config, fitted_config, inputs, seed, device, processes, locks)
        made_from = fingerprint(method, params, seed, device, inputs)
        start = logg.info(start_in_words(method, inputs, config, device))
        if checkpoint and checkpoint.step:
            logg.info(f"    continuing from step {checkpoint.step:,}, saved in {folder}")
        adata = adata.copy() if arguments["copy"] else adata
        with _failures_in_words(device, inputs.options.learning_rate):
            counts, make_step = _to_device(inputs.counts, device, processes)
            progress, options, fitted = settings.verbosity.value > 0 and rank == 0, inputs.options, None
            if checkpoint and checkpoint.batch_size:  # of a fit that ran out of memory with a larger batch size
                options = replace(options, batch_size=checkpoint.batch_size)
            offsets = None
            while fitted is None:
                try:
                    fit_arguments = counts, options, device, seed, progress, make_step
                    # a checkpoint that has steps has the offsets, too
                    if inputs.has_offsets and offsets is None and not (checkpoint and checkpoint.step):
                        logg.info("    first a conditional model, whose clusters show effects on all kinds of cells")
                        compared = inputs.control, inputs.time, first_overlap.group
                        offsets = find_offsets(config, *fit_arguments, *compared)
                    fitted = fit(fitted_config, *fit_arguments, checkpoint, offsets)
                except (RuntimeError, MemoryError) as error:
                    if processes.size > 1:  # the other processes do not know of the error
                        raise
                    options = _with_fewer_cells(options, len(counts), error, device, checkpoint)
                if fitted is None:
                    release(device)  # here, because inside except the error still refers to the failed fit
            result = _embed(*fitted, options, replace(inputs, counts=counts), overlap, device, seed, processes)

    written_params = _params_of_result(adata, params, method, seed, result.options, device)
    lost = [pair for batch, kinds in overlap.kinds.items() for pair in lost_kinds(result.embedding, batch, kinds)]
    verdict = result.verdict
    if lost:
        message = f"{verdict.message} {lost_in_words(lost, inputs.batches, inputs.genes)}"
        verdict = replace(verdict, message=message)
    log_lines = _write(adata, key, written_params, inputs, overlap, replace(result, verdict=verdict))
    is_as_asked = processes.size == 1 and result.options == inputs.options and verdict.status != "interrupted"
    is_in_one_place = result.memberships is None and not inputs.labels  # components and labels are in obs, too
    if made_from and is_as_asked and is_in_one_place:
        seal(adata, key, made_from)
    is_good = verdict.status in NO_WARNING and not verdict.posterior_collapse and not lost
    (logg.info if is_good else logg.warning)(verdict.message)
    if inputs.time is None and overlap.group.any():
        logg.warning(groups_in_words(inputs.batches, overlap))
    added = (
        f"added\n    'X_{key}', the embedding (adata.obsm)\n    '{_adata.loadings_key(key)}', its loadings (adata.varm)"
        f"\n    {key!r}, the model and its history (adata.uns)"
    )
    logg.info("    finished", time=start, deep="\n    ".join([added, *log_lines]))
    return adata if arguments["copy"] else None


def _find_overlap(inputs: Inputs, params: Mapping[str, Any]) -> Overlap:
    """The groups of batches that share kinds of cells; those of time points, if any; one group for overlap="all"."""
    if not len(inputs.batches):
        return nothing_to_compare(0)
    overlap = find_overlap(inputs.counts)
    if inputs.time is not None:
        if apart := apart_in_time(overlap, inputs.counts.batch_index, inputs.time):
            logg.warning(apart_in_words(apart, inputs.batches))
        return replace(overlap, group=groups_by_time(inputs.counts.batch_index, inputs.time))
    if params["overlap"] == "auto" and len(inputs.batches) > 1 and not len(overlap.compared):
        logg.warning(not_compared_in_words(len(inputs.batches)))
    if params["overlap"] == "all" and overlap.group.any():
        logg.warning(all_in_words(inputs.batches, overlap))
        return overlap.in_one_group()
    return overlap


def _to_device(counts: Counts, device: torch.device, processes: Processes) -> tuple[Counts, Callable[..., Step]]:
    """Move the counts to where the steps read them fastest; return them and the class of the steps."""
    counts, step = to_device(counts, device)
    if device.type == "cuda" and step is Step:
        logg.info(
            f"    counts stay on the host and go to {device} step by step, because they are read during the fit or "
            f"need more than {SHARE_OF_FREE_MEMORY:.0%} of its free memory"
        )
    return counts, step if processes.size == 1 else partial(SharedStep, processes)


def _with_fewer_cells(
    options: FitConfig, n_cells: int, error: Exception, device: torch.device, checkpoint: Checkpoint | None
) -> FitConfig:
    """Halve the batch size after an out-of-memory error. Raise any other error again."""
    options = options.halved(n_cells, error)
    logg.warning(f"{device} ran out of memory: the fit starts again with batch_size={options.batch_size}.")
    if checkpoint:
        checkpoint.begin_again(options.batch_size)
    return options


def _embed(
    model: CountVAE,
    history: History,
    verdict: Verdict,
    options: FitConfig,
    inputs: Inputs,
    overlap: Overlap,
    device: torch.device,
    seed: int,
    processes: Processes,
) -> Result:
    """Embed all cells, align the batches, and fit and score the classifier of labels."""
    counts = inputs.counts
    latent = processes.gather(latent_states(model, counts, device, processes.part(len(counts))), len(counts))
    loadings = fit_map(model, latent, counts.batch_index, overlap.group, device, seed)
    embedding = to_embedding(model, latent, device)
    assignment = memberships(model, counts, device)
    if model.alignment is not None:
        align(model.alignment, embedding, counts.batch_index, overlap.group, seed)
        embedding = aligned(model, embedding, counts.batch_index, device)
    label_scores: dict[str, float] = {}
    if inputs.labels:
        codes = counts.batch_index if len(inputs.batches) else None
        label_scores = classify(classifier_of(model), embedding, inputs.label, inputs.calibration_cells, seed, codes)
    return Result(model, history, verdict, options, embedding, loadings, assignment, label_scores)


@contextmanager
def _failures_in_words(device: torch.device, learning_rate: float) -> Iterator[None]:
    """Add advice to errors: too little memory, or a loss that is NaN or infinite."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        msg = f"{device} ran out of memory. Lower batch_size or hidden, or pass device='cpu'."
        raise MemoryError(msg) from error
    except FloatingPointError as error:
        advice = f"Lower learning_rate ({learning_rate:g}); look for extreme counts."
        msg = f"The fit broke down: {error}. {advice}"
        raise FloatingPointError(msg) from error


def _params_of_result(
    adata: AnnData, params: Mapping[str, Any], method: str, seed: int, options: FitConfig, device: torch.device
) -> dict[str, Any]:
    """The parameters that were used, as types that files can hold."""
    used = {
        **params,
        "rng": seed,
        "n_steps": options.n_steps,
        "batch_size": options.batch_size,
        "weight_decay": options.weight_decay,
        "device": str(device),
    }
    if not isinstance(params["mask_var"], str | None):
        used["mask_var"] = _adata.gene_mask(adata, params["mask_var"])
    if not isinstance(params.get("controls"), str | None):
        used["controls"] = np.array(params["controls"], dtype=bool)
    return to_uns(used | {"method": method, "version": version("sc_vaenb")})


def _write(
    adata: AnnData, key: str, params: dict[str, Any], inputs: Inputs, overlap: Overlap, result: Result
) -> list[str]:
    """Write the embedding, the record, components and labels; return a log line for each extra result."""
    fitted = FittedModel(
        model=result.model,
        genes=inputs.genes.tolist(),
        batches=inputs.batches.tolist(),
        size_factor_mean=float(inputs.size_factor_mean),
        covariates=inputs.covariates,
        proteins=inputs.proteins,
        peaks=inputs.peaks,
        params=params,
        groups=overlap.group,
    )
    record = {
        "params": params,
        "history": result.history.columns(),
        "verdict": asdict(result.verdict),
        "model": fitted.to_uns(),
    }
    assignment = result.memberships
    if assignment is not None:
        assignment, record["components"] = order_components(assignment, record["model"]["weights"]["prior.weight"])
    if inputs.labels:
        record["labels"] = {"names": np.array(inputs.labels, dtype=object), **result.label_scores}
    if len(inputs.batches):
        record["overlap"] = {
            "batches": inputs.batches.astype(object),
            "group": overlap.group,
            "compared": overlap.compared,
            "share": overlap.share,
        }
    if key in adata.uns or f"X_{key}" in adata.obsm:
        logg.warning(f"replacing uns[{key!r}] and obsm['X_{key}']; pass key_added to keep several results side by side")
    _adata.remove_extras(adata, key)
    _adata.write_result(adata, key, result.embedding, record)
    _adata.write_loadings(adata, key, fitted.genes, result.loadings)
    components = write_components(adata, key, assignment, result.model.config.n_components)
    return components + write_labels(adata, key, result.model, result.embedding)


def _checkpoint(
    folder: Path | None,
    config: ModelConfig,
    fitted_config: ModelConfig,
    inputs: Inputs,
    seed: int,
    device: torch.device,
    processes: Processes,
    locks: ExitStack,
) -> Checkpoint | None:
    """The saved state from which the fit continues. Only the first process reads and writes it.

    First checks that all processes fit the same. The folder is locked for this fit until `locks` closes. `config` is
    that of the conditional model, from which a fit with controls or time points begins.
    """
    if folder is None and processes.size == 1:
        return None
    fit_identity = identity(fitted_config, inputs.counts, inputs.options, seed)
    for name, values in (("controls", inputs.control), ("time_key", inputs.time)):
        if values is not None:
            fit_identity[name] = [checksum(values), zlib.crc32(repr(config).encode())]
    if processes.size > 1:
        processes.check_same(fit_identity | {"device": device.type, "checkpoint": folder is not None})
    if folder is None:
        return None

    def open_checkpoint() -> Checkpoint:
        locks.enter_context(only_fit(folder))
        return Checkpoint(folder, fit_identity, logg.warning)

    checkpoint = processes.first(open_checkpoint)
    checkpoint.writes = processes.rank == 0
    return checkpoint
