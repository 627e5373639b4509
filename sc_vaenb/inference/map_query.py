"""Extend a fitted model to new cells: remove the genes that they lack, add their batches, embed them.

The fitted weights do not change. Each new batch gets a vector, and only this vector is fitted to its cells
("architecture surgery", Lotfollahi et al. 2022, Nature Biotechnology, scArches). Each new batch also gets shifts in the
alignment, whose clusters do not change (Kang et al. 2021, Nature Communications, Symphony).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize
from tqdm import tqdm

from ..data.counts import Counts, cells_by_code, shuffled
from ..fit.align import MAX_ROUNDS, N_INNER_ROUNDS, PSEUDO_CELLS, RIDGE, TOLERANCE, draw_cells
from ..fit.device import generator, tensor_of, threads_as_asked
from ..fit.loop import Step
from ..fit.schedule import one_cycle
from ..fit.state import FitConfig
from ..model.alignment import SHARPNESS, Alignment
from ..model.batch_penalty import BatchPenalty
from ..model.config import ModelConfig
from ..model.vae import CountVAE
from .embed import aligned, embed

LEARNING_RATE = 0.02  # few parameters are fitted, and they change by about 1


def rebuilt(config: ModelConfig, weights: dict[str, Tensor]) -> CountVAE:
    """The model with these weights."""
    with torch.device("meta"):  # draws no weights
        model = CountVAE(config)
    model.load_state_dict(weights, assign=True)
    return model.eval()


def of_genes(model: CountVAE, genes: NDArray[np.int64], fitted: Counts) -> tuple[CountVAE, float]:
    """The model restricted to some of its genes, and the share of these genes in the depth of the fitted cells.

    The encoder sees the other genes at their mean log expression in the fitted cells.
    """
    config, weights = model.config, dict(model.state_dict())
    logged = fitted.matrix.copy()
    cell = np.repeat(np.arange(len(fitted)), np.diff(logged.indptr))
    if model.batch_offset is not None:  # the encoder sees counts without it
        logged.data *= np.exp(-model.batch_offset.cpu().numpy()[fitted.batch_index[cell], logged.indices])
    logged.data = np.log1p(logged.data / fitted.size_factor[cell])
    log_mean = torch.from_numpy(np.asarray(logged.mean(axis=0), np.float32).ravel())
    depth = np.asarray(fitted.matrix.sum(axis=0, dtype=np.float64)).ravel()
    share = float(depth[genes].sum() / depth.sum())

    first_weight, log_mean[genes] = weights["encoder.first.weight"], 0.0
    weights["encoder.first.bias"] = weights["encoder.first.bias"] + first_weight @ log_mean
    weights["encoder.first.weight"] = first_weight[:, genes]
    output_name = next(name for name, module in model.decoder.named_modules() if module is model.decoder.output)
    for name in (f"decoder.{output_name}.weight", f"decoder.{output_name}.bias"):
        weights[name] = weights[name].unflatten(0, (-1, config.n_genes))[:, genes].flatten(0, 1)
    for name in weights:
        if name.startswith("likelihood.") or name == "batch_offset":
            weights[name] = weights[name][:, genes]
    weights["depth"] = weights["depth"] * share
    return rebuilt(replace(config, n_genes=len(genes)), weights), share


def with_batches(model: CountVAE, n_new: int) -> CountVAE:
    """The model with `n_new` more batches. They start as the mean of the known batches, which do not change.

    One-hot codes become an embedding table of one-hot vectors, so that a new batch can be a mixture of known ones.
    Penalties on batch effects are removed: they have no part for new batches.
    """
    assert model.batch_embedding is not None
    config = model.config
    batch_penalties = {name for name, penalty in model.penalties.items() if isinstance(penalty, BatchPenalty)}
    removed = tuple(f"penalties.{name}." for name in batch_penalties)
    weights = {name: value for name, value in model.state_dict().items() if not name.startswith(removed)}
    code, n_codes = weights["batch_embedding.code"], model.batch_embedding.n_codes
    weights.setdefault("batch_embedding.embedding.weight", torch.eye(n_codes, dtype=torch.float32))
    weights["batch_embedding.code"] = torch.cat([code, torch.arange(n_codes, n_codes + n_new)])
    config = replace(
        config,
        n_batches=config.n_batches + n_new,
        batch_code=tuple(weights["batch_embedding.code"].tolist()),
        batch_width=model.batch_embedding.width,
        batch_group=(),
        penalties={name: weight for name, weight in config.penalties.items() if name not in batch_penalties},
    )
    for name in ("batch_embedding.embedding.weight", *per_batch(model)):
        known = weights[name]
        weights[name] = torch.cat([known, known.mean(0).expand(n_new, -1)])
    for name in ("alignment.log_weight", "alignment.shift"):
        if name in weights:
            known = weights[name]
            weights[name] = torch.cat([known, known.new_zeros(len(known), n_new, *known.shape[2:])], 1)
    return rebuilt(config, weights)


def per_batch(model: CountVAE) -> list[str]:
    """Names of the weights with one row per batch, except the batch vectors."""
    tables = ["prior.mean", "prior.log_var"] if model.config.prior == "conditional" else []
    if model.config.dispersion == "gene-batch":
        tables += [f"likelihood.{name}" for name, _ in model.likelihood.named_parameters()]
    if model.protein is not None:
        protein_tables = ("background", "bound", "background_shift", "bound_shift")
        tables += [f"penalties.protein.{name}" for name in protein_tables]
    return tables


def embed_query(
    model: CountVAE,
    counts: Counts,
    n_new: int,
    reference: NDArray[np.float32],
    reference_batch: NDArray[np.int64],
    n_steps: int,
    batch_size: int,
    beta: float,
    device: torch.device,
    seed: int,
    progress: bool,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Fit and align the last `n_new` batches of the model; embed the cells of a query.

    Parameters
    ----------
    reference, reference_batch
        The aligned embedding of the reference cells (cells x dimensions), and their batch codes.

    Returns
    -------
    embedding
        The embedding of the query, aligned.
    search_embedding
        The same, but cells of new batches are not aligned. Their nearest reference cells are searched with it:
        alignment moves a new batch onto the clusters of the reference, also cells of types that the reference lacks. On
        pbmc_3studies, with one study held out at a time, 87 % of the labels are right; after alignment, 83 %.
    """
    is_new = counts.batch_index >= model.config.n_batches - n_new if n_new else np.zeros(len(counts), bool)
    new_cells = np.flatnonzero(is_new)
    if n_new:
        fit_new(model.to(device), counts.subset(new_cells), n_new, n_steps, batch_size, beta, seed, progress)
    unaligned = embed(model, counts, device)
    if n_new and model.alignment is not None:
        align_new(
            model.alignment, reference, reference_batch, unaligned[new_cells], counts.batch_index[new_cells], seed
        )
    embedding = aligned(model, unaligned, counts.batch_index, device)
    return embedding, np.where(is_new[:, None], unaligned, embedding)


def fit_new(
    model: CountVAE, counts: Counts, n_new: int, n_steps: int, batch_size: int, beta: float, seed: int, progress: bool
) -> None:
    """Fit the parameters of the last `n_new` batches, and no others, to cells of these batches."""
    trained = {"batch_embedding.embedding.weight", *per_batch(model)}
    device = model.depth.device
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trained)
        if name in trained:
            is_known = torch.arange(len(parameter), device=device) < len(parameter) - n_new
            parameter.register_hook(lambda grad, is_known=is_known: grad.masked_fill(is_known.unsqueeze(1), 0.0))
    # The model stays in evaluation mode: no dropout, and BatchNorm keeps its running statistics.
    minibatches = shuffled(np.arange(len(counts)), batch_size, np.random.default_rng(seed))
    options = FitConfig(n_steps, weight_decay=0.0, batch_size=batch_size, learning_rate=LEARNING_RATE, beta=beta)
    bar = tqdm(range(n_steps), disable=not progress, leave=False, mininterval=0.5)
    with threads_as_asked(), bar:
        train_step = Step(model, counts, options, min(batch_size, len(counts)), generator(seed, device))
        for step in bar:
            train_step(next(minibatches), LEARNING_RATE * one_cycle(step, n_steps), beta)


@torch.no_grad()
def align_new(
    alignment: Alignment,
    reference: NDArray[np.float32],
    reference_batch: NDArray[np.int64],
    query: NDArray[np.float32],
    query_batch: NDArray[np.int64],
    seed: int,
) -> None:
    """Set the shifts of new batches; the clusters do not change.

    The center of a cluster is the mean of its aligned reference cells. Cluster assignments, and shifts in clusters with
    few cells, are computed as in `fit.align`.

    Parameters
    ----------
    reference, reference_batch
        The aligned embedding of the reference cells (cells x dimensions), and their batch codes.
    query, query_batch
        The embedding of the cells of the new batches, not aligned, and their batch codes.
    """
    alignment.cpu()
    rng = np.random.default_rng(seed)
    reference_sample = draw_cells(reference_batch, rng)
    x, code = (tensor_of(values[reference_sample]) for values in (reference, reference_batch))
    assignment = torch.softmax(SHARPNESS * normalize(x) @ alignment.centroid.T + alignment.log_weight.T[code], 1)
    n_in_cluster = assignment.sum(0) * len(reference) / len(reference_sample)
    center = assignment.T @ x / assignment.sum(0).clamp(min=1e-8).unsqueeze(1)

    for cells in cells_by_code(query_batch):
        new = query_batch[cells[0]]
        sample = cells[draw_cells(np.zeros(len(cells), np.int64), rng)]
        x, code = (tensor_of(values[sample]) for values in (query, query_batch))
        scale, share = len(cells) / len(sample), len(cells) / (len(cells) + len(reference))
        shifted = x
        for _ in range(MAX_ROUNDS):
            logit = SHARPNESS * normalize(shifted) @ alignment.centroid.T
            for _ in range(N_INNER_ROUNDS):
                assignment = torch.softmax(logit + alignment.log_weight[:, new], 1)
                observed = scale * assignment.sum(0)
                expected = share * (observed + n_in_cluster)
                alignment.log_weight[:, new] = ((expected + 1) / (observed + 1)).log()
            shrinkage = (observed / (observed + RIDGE * expected + PSEUDO_CELLS)).unsqueeze(1)
            mean = assignment.T @ x / assignment.sum(0).clamp(min=1e-8).unsqueeze(1)
            alignment.shift[:, new] = shrinkage * (mean - center)
            previous, shifted = shifted, alignment(x, code)
            if (shifted - previous).abs().mean() < TOLERANCE * x.abs().mean():
                break
