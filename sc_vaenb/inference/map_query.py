"""A fitted model for new cells: without the genes they lack, with the batches it does not know.

Weights that were fitted stay what they are. A new batch gets a vector of its own, which alone is fitted to its cells
("architecture surgery", Lotfollahi et al. 2022, Nature Biotechnology, scArches), and shifts on the clusters of the
alignment as they are (Kang et al. 2021, Nature Communications, Symphony).
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
from ..fit.align import DIVERSITY, MAX_ROUNDS, N_INNER_ROUNDS, PSEUDO_CELLS, RIDGE, TOLERANCE, draw_cells
from ..fit.device import generator, threads_as_asked
from ..fit.loop import Step
from ..fit.schedule import one_cycle
from ..fit.state import FitConfig
from ..model.alignment import SHARPNESS, Alignment
from ..model.batch_penalty import Removal
from ..model.config import ModelConfig
from ..model.vae import CountVAE

LEARNING_RATE = 0.02  # a few numbers have to move by about 1


def rebuilt(config: ModelConfig, weights: dict[str, Tensor]) -> CountVAE:
    """The model that has these weights."""
    with torch.device("meta"):  # no weights are drawn
        model = CountVAE(config)
    model.load_state_dict(weights, assign=True)
    return model.eval()


def of_genes(model: CountVAE, genes: NDArray[np.int64], fitted: Counts) -> tuple[CountVAE, float]:
    """The model of some of its genes, and their share of the depth of the cells it was fitted on.

    To the encoder the other genes are at their mean log expression in these cells.
    """
    config, weights = model.config, dict(model.state_dict())
    logged = fitted.matrix.copy()
    logged.data = np.log1p(logged.data / np.repeat(fitted.size_factor, np.diff(logged.indptr)))
    log_mean = torch.from_numpy(np.asarray(logged.mean(axis=0), np.float32).ravel())
    depth = np.asarray(fitted.matrix.sum(axis=0, dtype=np.float64)).ravel()
    share = float(depth[genes].sum() / depth.sum())

    first, log_mean[genes] = weights["encoder.first.weight"], 0.0
    weights["encoder.first.bias"] = weights["encoder.first.bias"] + first @ log_mean
    weights["encoder.first.weight"] = first[:, genes]
    output = next(name for name, module in model.decoder.named_modules() if module is model.decoder.output)
    for name in (f"decoder.{output}.weight", f"decoder.{output}.bias"):
        weights[name] = weights[name].unflatten(0, (-1, config.n_genes))[:, genes].flatten(0, 1)
    for name in weights:
        if name.startswith("likelihood.") or name == "batch_offset":
            weights[name] = weights[name][:, genes]
    weights["depth"] = weights["depth"] * share
    return rebuilt(replace(config, n_genes=len(genes)), weights), share


def with_batches(model: CountVAE, n_new: int) -> CountVAE:
    """The model with further batches, which start as the mean of those that it knows; for these it is the same.

    A one-hot code becomes a table of one-hot vectors, in which a new batch is a mixture of known ones. What draws
    batches together in a fit is left behind: no new batch has a part in it.
    """
    assert model.batch_embedding is not None
    config = model.config
    removal = {name for name, penalty in model.penalties.items() if isinstance(penalty, Removal)}
    left = tuple(f"penalties.{name}." for name in removal)
    weights = {name: value for name, value in model.state_dict().items() if not name.startswith(left)}
    code, n_codes = weights["batch_embedding.code"], model.batch_embedding.n_codes
    weights.setdefault("batch_embedding.embedding.weight", torch.eye(n_codes, dtype=torch.float32))
    weights["batch_embedding.code"] = torch.cat([code, torch.arange(n_codes, n_codes + n_new)])
    config = replace(
        config,
        n_batches=config.n_batches + n_new,
        batch_code=tuple(weights["batch_embedding.code"].tolist()),
        batch_width=model.batch_embedding.width,
        batch_group=(),
        penalties={name: weight for name, weight in config.penalties.items() if name not in removal},
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
    """Names of the tables with one row per batch, besides that of the batch vectors."""
    tables = ["prior.mean", "prior.log_var"] if model.config.prior == "conditional" else []
    if model.config.dispersion == "gene-batch":
        tables += [f"likelihood.{name}" for name, _ in model.likelihood.named_parameters()]
    if model.protein is not None:
        levels = ("background", "bound", "background_shift", "bound_shift")
        tables += [f"penalties.protein.{name}" for name in levels]
    return tables


def fit_new(
    model: CountVAE, counts: Counts, n_new: int, n_steps: int, batch_size: int, beta: float, seed: int, progress: bool
) -> None:
    """Fit the last `n_new` batches of a model, and nothing else of it, to cells of these batches."""
    trained = {"batch_embedding.embedding.weight", *per_batch(model)}
    device = model.depth.device
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trained)
        if name in trained:
            known = torch.arange(len(parameter), device=device) < len(parameter) - n_new
            parameter.register_hook(lambda gradient, known=known: gradient.masked_fill(known.unsqueeze(1), 0.0))
    # The model stays in its evaluation mode: no dropout, and BatchNorm keeps what it has.
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
    latent: NDArray[np.float32],
    batch: NDArray[np.int64],
    seed: int,
) -> None:
    """Set the shifts of new batches, on the clusters as they are.

    A cluster's centre is where the reference's cells in it lie, once aligned. What `fit.align` says of memberships and
    of shifts in clusters with few cells holds here too.

    Parameters
    ----------
    reference, reference_batch
        Aligned states of the reference (cells x dimensions), and their batch codes.
    latent, batch
        States of the new batches' cells, and their codes.
    """
    alignment.cpu()
    rng = np.random.default_rng(seed)
    there = draw_cells(reference_batch, rng)
    z, code = torch.from_numpy(reference[there]), torch.from_numpy(reference_batch[there])
    assignment = torch.softmax(SHARPNESS * normalize(z) @ alignment.centroid.T + alignment.log_weight.T[code], 1)
    size = assignment.sum(0) * len(reference) / len(there)
    centre = assignment.T @ z / assignment.sum(0).clamp(min=1e-8).unsqueeze(1)

    for cells in cells_by_code(batch):
        new = batch[cells[0]]
        here = cells[draw_cells(np.zeros(len(cells), np.int64), rng)]
        z, code = torch.from_numpy(latent[here]), torch.from_numpy(batch[here])
        scale, share = len(cells) / len(here), len(cells) / (len(cells) + len(reference))
        aligned = z
        for _ in range(MAX_ROUNDS):
            near = SHARPNESS * normalize(aligned) @ alignment.centroid.T
            for _ in range(N_INNER_ROUNDS):
                assignment = torch.softmax(near + alignment.log_weight[:, new], 1)
                observed = scale * assignment.sum(0)
                expected = share * (observed + size)
                alignment.log_weight[:, new] = DIVERSITY * ((expected + 1) / (observed + 1)).log()
            shrinkage = (observed / (observed + RIDGE * expected + PSEUDO_CELLS)).unsqueeze(1)
            mean = assignment.T @ z / assignment.sum(0).clamp(min=1e-8).unsqueeze(1)
            alignment.shift[:, new] = shrinkage * (mean - centre)
            before, aligned = aligned, alignment(z, code)
            if (aligned - before).abs().mean() < TOLERANCE * z.abs().mean():
                break
