"""Cells to latent states."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..data.counts import ALL_CELLS, CELLS_AT_ONCE, Counts
from ..fit.device import threads_as_asked
from ..model.minibatch import Minibatch
from ..model.mixture import Mixture
from ..model.vae import CountVAE
from .posterior import finite


@torch.inference_mode()
def embed(model: CountVAE, counts: Counts, device: torch.device, cells: slice = ALL_CELLS) -> NDArray[np.float32]:
    """Posterior means of these cells (x latent dimensions), in one pass over their counts, not aligned."""
    model = model.to(device).eval()
    return _in_one_pass(counts, device, model.config.n_latent, lambda batch: model.encode(batch)[0], cells)


@torch.inference_mode()
def memberships(model: CountVAE, counts: Counts, device: torch.device) -> NDArray[np.float32] | None:
    """Probabilities of the prior's components (cells x components; 0 if unused), None where it is no mixture."""
    prior = model.to(device).eval().prior
    if not isinstance(prior, Mixture):
        return None
    return _in_one_pass(counts, device, model.config.n_components, lambda cells: prior.assignment(*model.encode(cells)))


def _in_one_pass(
    counts: Counts, device: torch.device, width: int, of: Callable[[Minibatch], Tensor], cells: slice = ALL_CELLS
) -> NDArray[np.float32]:
    """What a function gives of these cells, some at a time (cells x `width`)."""
    out, done = np.empty((len(range(len(counts))[cells]), width), np.float32), 0
    with threads_as_asked():
        for minibatch in counts.in_order(device, cells):
            here = slice(done, done := done + minibatch.n_cells)
            out[here] = of(minibatch).cpu().numpy()
    return finite(out)


@torch.inference_mode()
def aligned(
    model: CountVAE, latent: NDArray[np.float32], batch: NDArray[np.int64], device: torch.device
) -> NDArray[np.float32]:
    """The same with the batches aligned, where the model has an alignment."""
    if model.alignment is None:
        return latent
    alignment, out = model.alignment.to(device), np.empty_like(latent)
    order = np.argsort(batch, kind="stable")  # few batches at a time, of which each is a product of its own
    with threads_as_asked():
        for start in range(0, len(latent), CELLS_AT_ONCE):
            cells = order[start : start + CELLS_AT_ONCE]
            # A copy in torch's own memory: products of arrays that lie otherwise may round otherwise.
            z, codes = torch.from_numpy(latent[cells]).clone().to(device), torch.from_numpy(batch[cells]).to(device)
            out[cells] = alignment(z, codes).cpu().numpy()
    return finite(out)
