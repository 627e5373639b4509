"""Latent states and embeddings of cells."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..data.counts import ALL_CELLS, CELLS_AT_ONCE, Counts
from ..fit.device import in_parallel, tensor_of
from ..model.minibatch import Minibatch
from ..model.mixture import Mixture
from ..model.vae import CountVAE
from .posterior import finite


@torch.inference_mode()
def latent_states(
    model: CountVAE, counts: Counts, device: torch.device, cells: slice = ALL_CELLS
) -> NDArray[np.float32]:
    """Posterior means (cells x latent dimensions) in one pass over the counts: what the decoder reads."""
    model = model.to(device).eval()
    return _in_one_pass(counts, device, model.config.n_latent, lambda batch: model.encode(batch)[0], cells)


@torch.inference_mode()
def to_embedding(model: CountVAE, latent: NDArray[np.float32], device: torch.device) -> NDArray[np.float32]:
    """Latent states in the coordinates of the embedding, not aligned."""
    model, out = model.to(device), np.empty_like(latent)

    @torch.inference_mode()  # each thread has its own mode
    def write(start: int) -> None:
        cells = slice(start, start + CELLS_AT_ONCE)
        out[cells] = model.to_embedding(tensor_of(latent[cells], device)).cpu().numpy()

    for _ in in_parallel(write, range(0, len(latent), CELLS_AT_ONCE), device):
        pass
    return finite(out)


def embed(model: CountVAE, counts: Counts, device: torch.device) -> NDArray[np.float32]:
    """The embedding of all cells (cells x latent dimensions), not aligned."""
    return to_embedding(model, latent_states(model, counts, device), device)


@torch.inference_mode()
def memberships(model: CountVAE, counts: Counts, device: torch.device) -> NDArray[np.float32] | None:
    """Probabilities of the prior's components (cells x components; 0 if unused); None if it is no mixture."""
    prior = model.to(device).eval().prior
    if not isinstance(prior, Mixture):
        return None
    return _in_one_pass(counts, device, model.config.n_components, lambda batch: prior.assignment(*model.encode(batch)))


def _in_one_pass(
    counts: Counts, device: torch.device, width: int, function: Callable[[Minibatch], Tensor], cells: slice = ALL_CELLS
) -> NDArray[np.float32]:
    """Apply a function to minibatches of these cells (cells x `width`)."""
    out, done = np.empty((len(range(len(counts))[cells]), width), np.float32), 0

    @torch.inference_mode()  # each thread has its own mode
    def values(minibatch: Minibatch) -> NDArray[np.float32]:
        return function(minibatch).cpu().numpy()

    for part in in_parallel(values, counts.in_order(device, cells), device):
        out[done : done + len(part)] = part
        done += len(part)
    return finite(out)


@torch.inference_mode()
def aligned(
    model: CountVAE, embedding: NDArray[np.float32], batch: NDArray[np.int64], device: torch.device
) -> NDArray[np.float32]:
    """The embedding with the batches aligned, if the model has an alignment."""
    if model.alignment is None:
        return embedding
    alignment, out = model.alignment.to(device), np.empty_like(embedding)
    order = np.argsort(batch, kind="stable")  # few batches at a time: each needs one matrix product

    @torch.inference_mode()  # each thread has its own mode
    def write(start: int) -> None:
        cells = order[start : start + CELLS_AT_ONCE]
        x, codes = (tensor_of(values[cells], device) for values in (embedding, batch))
        out[cells] = alignment(x, codes).cpu().numpy()

    for _ in in_parallel(write, range(0, len(embedding), CELLS_AT_ONCE), device):
        pass
    return finite(out)
