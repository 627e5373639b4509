"""What `tl.vae` and `tl.cvae` share: the way from an AnnData to a fitted model in it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, replace
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
from ..data.counts import Counts
from ..fit.align import align, n_clusters
from ..fit.checkpoint import Checkpoint, identity, only_fit
from ..fit.classify import classify
from ..fit.cuda import SHARE_OF_FREE_MEMORY, to_device
from ..fit.device import halved, release
from ..fit.distributed import Processes, SharedStep, own_device, process_group, rank_and_size
from ..fit.loop import fit
from ..fit.lost_kinds import Lost, lost_kinds
from ..fit.overlap import Overlap, find_overlap, nothing_to_compare
from ..fit.state import FitConfig
from ..fit.step import Step
from ..inference.embed import aligned, embed, memberships
from ..model.config import ModelConfig
from ..model.protein import protein_weight
from ._arguments import BATCH_PENALTIES, builtin, check_shareable, check_together, folder_of, plain
from ._components import in_order, write_components
from ._inputs import Inputs, read_inputs
from ._labels import classifier_of, write_labels

if TYPE_CHECKING:
    from anndata import AnnData

LABELS_WEIGHT = 10.0  # of the cross-entropy of known labels: 50 learns few of them by heart, to the others' cost
BATCH_EMBEDDING_WIDTH = 10  # dimensions of a learned batch embedding, or fewer where there are fewer batches
MAX_GROUPS_NAMED = 10  # in a message


def fit_and_write(adata: AnnData, method: str, arguments: Mapping[str, Any]) -> AnnData | None:
    """Validate, fit, embed, write: the body of `tl.vae` and `tl.cvae`, given all their arguments by name."""
    not_of_the_result = {"adata", "copy", "key_added", "checkpoint"}
    params = {name: builtin(value) for name, value in arguments.items() if name not in not_of_the_result}
    key = "vae" if arguments["key_added"] is None else arguments["key_added"]
    check_together(adata, params)
    rank, n_processes = rank_and_size()
    if n_processes > 1:
        check_shareable(params, n_processes)
    folder = folder_of(arguments["checkpoint"], params["rng"], checked=rank == 0)
    device, seed = own_device(params["device"]), seed_of(params["rng"])

    with process_group(device) as processes, ExitStack() as held:
        inputs = read_inputs(adata, params, seed, processes)
        counts, options = inputs.counts, inputs.options
        genes, batches, labels = inputs.genes, inputs.batches, inputs.labels
        overlap = find_overlap(counts) if len(batches) else nothing_to_compare(0)
        if params.get("overlap") == "all" and overlap.group.any():
            logg.warning(_all_in_words(batches, overlap))
            overlap = overlap.in_one_group()
        config = _model_config(params, inputs, overlap)
        checkpoint = _checkpoint(folder, config, counts, options, seed, device, processes, held)
        start = logg.info(
            f"fitting {method} to {len(counts):,} cells x {len(genes):,} genes"
            + (f" and {config.n_proteins} proteins" if config.n_proteins else "")
            + (f" of {len(batches)} batches" if len(batches) else "")
            + f" on {device} ({options.n_steps:,} steps)"
        )
        if checkpoint and checkpoint.step:
            logg.info(f"    going on from step {checkpoint.step:,}, as kept in {folder}")
        adata = adata.copy() if arguments["copy"] else adata

        try:
            counts, step = to_device(counts, device)
            if device.type == "cuda" and step is Step:
                logg.info(
                    f"    counts stay on the host and go to {device} step by step, as they are read while the fit goes "
                    f"on or take more than {SHARE_OF_FREE_MEMORY:.0%} of its free memory"
                )
            make_step = step if processes.size == 1 else partial(SharedStep, processes)
            progress, fitted = settings.verbosity.value > 0 and rank == 0, None
            if checkpoint and checkpoint.batch_size:  # of a fit that ran out of memory with more
                options = replace(options, batch_size=checkpoint.batch_size)
            while fitted is None:
                try:
                    fitted = fit(config, counts, options, device, seed, progress, make_step, checkpoint)
                except (RuntimeError, MemoryError) as error:
                    if processes.size > 1:  # the others know nothing of it
                        raise
                    options = halved(options, len(counts), error)
                    logg.warning(
                        f"{device} ran out of memory: the fit begins again with batch_size={options.batch_size}."
                    )
                    if checkpoint:
                        checkpoint.begin_again(options.batch_size)
                if fitted is None:
                    release(device)  # not above, where the error still holds the fit that failed
            model, history, verdict = fitted
            embedding = processes.gather(embed(model, counts, device, processes.part(len(counts))), len(counts))
            member = memberships(model, counts, device)
            if model.alignment is not None:
                align(model.alignment, embedding, counts.batch_index, overlap.group, seed)
                embedding = aligned(model, embedding, counts.batch_index, device)
            told = {}
            if labels:
                codes = counts.batch_index if len(batches) else None
                told = classify(classifier_of(model), embedding, inputs.label, inputs.judges, seed, codes)
        except (torch.OutOfMemoryError, MemoryError) as error:
            advice = f"Lower batch_size ({options.batch_size}) or hidden, or pass device='cpu'."
            msg = f"{device} ran out of memory. {advice}"
            raise MemoryError(msg) from error
        except FloatingPointError as error:
            advice = f"Lower learning_rate ({options.learning_rate:g}); look for extreme counts."
            msg = f"The fit broke down: {error}. {advice}"
            raise FloatingPointError(msg) from error

    used = params | {
        "rng": seed,
        "n_steps": options.n_steps,
        "batch_size": options.batch_size,
        "weight_decay": options.weight_decay,
        "device": str(device),
    }
    if not isinstance(params["mask_var"], str | None):
        used["mask_var"] = _adata.gene_mask(adata, params["mask_var"])
    written = plain(used | {"method": method, "version": version("sc_vaenb")})
    fitted_model = FittedModel(
        model,
        genes.tolist(),
        batches.tolist(),
        float(inputs.size_factor_mean),
        inputs.covariates,
        inputs.proteins,
        written,
        overlap.group,
    )
    lost = [pair for batch, kinds in overlap.kinds.items() for pair in lost_kinds(embedding, batch, kinds)]
    if lost:
        verdict = replace(verdict, message=f"{verdict.message} {_lost_in_words(lost, batches, genes)}")
    record = {
        "params": written,
        "history": history.columns(),
        "verdict": asdict(verdict),
        "model": fitted_model.to_uns(),
    }
    if member is not None:
        member, record["components"] = in_order(member, record["model"]["weights"]["prior.weight"])
    if labels:
        record["labels"] = {"names": np.array(labels, dtype=object), **told}
    if len(batches):
        record["overlap"] = {
            "batches": batches.astype(object),
            "group": overlap.group,
            "compared": overlap.compared,
            "share": overlap.share,
        }
    if key in adata.uns or f"X_{key}" in adata.obsm:
        logg.warning(f"replacing uns[{key!r}] and obsm['X_{key}']; pass key_added to keep several results side by side")
    _adata.remove_extras(adata, key)
    _adata.write_result(adata, key, embedding, record)
    extras = write_components(adata, key, member, config.n_components) + write_labels(adata, key, model, embedding)
    fine = (
        verdict.status in {"converged", "stopped_early", "not_judged"} and not verdict.posterior_collapse and not lost
    )
    (logg.info if fine else logg.warning)(verdict.message)
    if overlap.group.any():
        logg.warning(_groups_in_words(batches, overlap))
    added = f"added\n    'X_{key}', the embedding (adata.obsm)\n    {key!r}, the model and its history (adata.uns)"
    logg.info("    finished", time=start, deep="\n    ".join([added, *extras]))
    return adata if arguments["copy"] else None


def _groups_in_words(batches: NDArray[np.str_], overlap: Overlap) -> str:
    n_groups, listed = int(overlap.group.max()) + 1, _listed(batches, overlap)
    if n_groups == len(batches):
        what = (
            f"No two of the {n_groups} batches ({listed}) have a kind of cell in common that the counts show. So "
            "nothing is corrected: the embedding is that of sc_vaenb.tl.vae."
        )
    else:
        what = (
            f"The batches fall into {n_groups} groups without a kind of cell in common: {listed}. Batch effects are "
            "taken out within each group; the differences between the groups are kept."
        )
    return (
        f"{what} The data cannot tell whether these differences are biological or technical. If they are biological "
        "(other tissues, stages, sorted cells), this is right. If they are technical (the same kinds of cells by "
        "another technology), fit again with overlap='all', and compare both with sc_vaenb.tl.compare."
    )


def _all_in_words(batches: NDArray[np.str_], overlap: Overlap) -> str:
    return (
        "overlap='all': all differences between batches are taken out, though the counts show "
        f"{overlap.group.max() + 1} groups without a kind of cell in common: {_listed(batches, overlap)}. If these "
        "hold different cells, they get mixed, and what tells them apart is lost: then use overlap='auto'."
    )


def _listed(batches: NDArray[np.str_], overlap: Overlap) -> str:
    n_groups = int(overlap.group.max()) + 1
    names = [", ".join(batches[overlap.group == g]) for g in range(min(n_groups, MAX_GROUPS_NAMED))]
    return " | ".join(names) + (" | ..." if n_groups > MAX_GROUPS_NAMED else "")


def _lost_in_words(lost: list[Lost], batches: NDArray[np.str_], genes: NDArray[np.str_]) -> str:
    worst = max(lost, key=lambda pair: pair.share)
    high, other = (", ".join(genes[which]) for which in (worst.genes, worst.other_genes))
    more = f" (and {len(lost) - 1} more pairs)" if len(lost) > 1 else ""
    return (
        f"Kinds of cells were lost: in batch {str(batches[worst.batch])!r}, cells high in {high} and cells high in "
        f"{other} are far apart in the counts, but {worst.share:.0%} of the closest cells of the former are of the "
        f"latter in the embedding{more}. Fit again with another seed or more latent dimensions, and compare with "
        "sc_vaenb.tl.vae."
    )


def _checkpoint(
    folder: Path | None,
    config: ModelConfig,
    counts: Counts,
    options: FitConfig,
    seed: int,
    device: torch.device,
    processes: Processes,
    held: ExitStack,
) -> Checkpoint | None:
    """The state to go on from, which the first process reads for all and writes, once all are known to fit the same.

    The folder is held for this fit until `held` closes.
    """
    if folder is None and processes.size == 1:
        return None
    about = identity(config, counts, options, seed)
    if processes.size > 1:
        processes.check_same(about | {"device": device.type, "checkpoint": folder is not None})
    if folder is None:
        return None

    def alone() -> Checkpoint:
        held.enter_context(only_fit(folder))
        return Checkpoint(folder, about, logg.warning)

    checkpoint = processes.first(alone)
    checkpoint.writes = processes.rank == 0
    return checkpoint


def _model_config(params: Mapping[str, Any], inputs: Inputs, overlap: Overlap) -> ModelConfig:
    n_genes, n_cells = len(inputs.genes), len(inputs.counts)
    n_covariates, n_proteins = (
        inputs.counts.side_inputs[name].shape[1] if name in inputs.counts.side_inputs else 0
        for name in ("covariates", "protein")
    )
    hidden = tuple(params["hidden"])
    mirrored = params["decoder_hidden"] is None
    names = ["n_latent", "activation", "norm", "dropout", "likelihood", "dispersion", "link", "size_factor_as"]
    names += ["prior", "n_components"]
    conditional: dict[str, Any] = {}
    n_batches, codes = len(overlap.group), overlap.code().tolist()
    if n_batches:
        conditional = {
            "encode_batch": params["encode_batch"],
            "batch_code": tuple(codes),
            "batch_group": tuple(overlap.group.tolist()),
            "batch_width": min(BATCH_EMBEDDING_WIDTH, max(codes) + 1) if params["condition"] == "embedding" else 0,
            "alignment_clusters": n_clusters(n_cells) if params["align"] else 0,
        }
    penalties = {name: params.get(name, 0) for name in BATCH_PENALTIES} | {
        "labels": LABELS_WEIGHT if inputs.labels else 0,
        "protein": protein_weight(n_genes, n_proteins) if n_proteins else 0,
    }
    return ModelConfig(
        n_genes=n_genes,
        n_batches=n_batches,
        hidden=hidden,
        decoder_hidden=hidden[::-1] if mirrored else tuple(params["decoder_hidden"]),
        n_covariates=n_covariates,
        labels=inputs.labels,
        n_proteins=n_proteins,
        penalties={name: float(weight) for name, weight in penalties.items() if weight},
        **{name: params[name] for name in names},
        **conditional,
    )
