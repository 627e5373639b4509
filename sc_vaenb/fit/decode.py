"""Latent states back to expression, some cells at a time."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..model.vae import CountVAE
from .batches import Counts

CELLS_AT_ONCE = 1024  # x genes of float32 are held a few times over


def posterior(model: CountVAE, counts: Counts, device: torch.device) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """q(z | x) of all cells, block by block: which cells, means and standard deviations (cells x latent dimensions).

    To be used under `torch.inference_mode`; a sample of the posterior is mean + sd * noise.
    """
    model = model.to(device).eval()
    for start in range(0, len(counts), CELLS_AT_ONCE):
        cells = slice(start, min(start + CELLS_AT_ONCE, len(counts)))
        mean, log_var = model.encode(counts.minibatch(cells, device))
        yield cells, mean, (0.5 * log_var).exp()


def expression(model: CountVAE, z: Tensor, condition: Tensor) -> Tensor:
    """Share of each gene in the expected counts of latent states, as in batch `condition`; rows sum to 1."""
    log_mean = model.log_mean(z, torch.ones_like(z[:, 0]), condition)
    return torch.softmax(log_mean, 1)


def draw(
    model: CountVAE, z: NDArray[np.float32], size_factor: NDArray[np.float32], condition: NDArray[np.int64],
    device: torch.device, generator: torch.Generator,
) -> Iterator[tuple[slice, NDArray[np.float32]]]:  # fmt: skip
    """Counts drawn given latent states, block by block."""
    model = model.to(device).eval()
    for start in range(0, len(z), CELLS_AT_ONCE):
        cells = slice(start, min(start + CELLS_AT_ONCE, len(z)))
        states, sizes, codes = (torch.from_numpy(a[cells]).to(device) for a in (z, size_factor, condition))
        yield cells, model.draw(states, sizes, codes, generator).cpu().numpy()
