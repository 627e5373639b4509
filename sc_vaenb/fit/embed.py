"""Cells to latent states."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from ..model.vae import CountVAE
from .batches import CELLS_AT_ONCE, Counts
from .device import threads_as_asked


@torch.inference_mode()
def embed(model: CountVAE, counts: Counts, device: torch.device) -> NDArray[np.float32]:
    """Posterior means (cells x latent dimensions), in one pass over the counts, not aligned."""
    model = model.to(device).eval()
    out = np.empty((len(counts), model.config.n_latent), np.float32)
    with threads_as_asked():
        done = 0
        for minibatch in counts.in_order(device):
            cells = slice(done, done := done + minibatch.n_cells)
            out[cells] = model.encode(minibatch)[0].cpu().numpy()
    return out


@torch.inference_mode()
def aligned(
    model: CountVAE, latent: NDArray[np.float32], batch: NDArray[np.int64], device: torch.device
) -> NDArray[np.float32]:
    """The same with the batches aligned, where the model has an alignment."""
    if model.alignment is None:
        return latent
    alignment, out = model.alignment.to(device), np.empty_like(latent)
    with threads_as_asked():
        for start in range(0, len(latent), CELLS_AT_ONCE):
            cells = slice(start, start + CELLS_AT_ONCE)
            z, codes = torch.from_numpy(latent[cells]).to(device), torch.from_numpy(batch[cells]).to(device)
            out[cells] = alignment(z, codes).cpu().numpy()
    return out
