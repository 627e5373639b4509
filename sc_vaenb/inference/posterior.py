"""Posterior states of cells, and the expression decoded from latent states, in blocks of cells."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..data.counts import Counts
from ..fit.device import tensor_of
from ..model.vae import CountVAE

T = TypeVar("T", NDArray[np.float32], NDArray[np.float64], Tensor)

CELLS_DECODED_AT_ONCE = 1024  # float32 arrays of cells x genes are held several times


def finite(values: T) -> T:
    """Raise if values of a model are not finite, for example because of damaged weights."""
    if not (np.isfinite(values).all() if isinstance(values, np.ndarray) else bool(torch.isfinite(values).all())):
        msg = (
            "The model gives values that are no finite numbers: its weights are damaged, or counts or size factors are "
            "too extreme. Look for extreme counts, fit the model again, or read its file again."
        )
        raise ValueError(msg)
    return values


def posterior(model: CountVAE, counts: Counts, device: torch.device) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """q(z | x) of all cells, block by block: the cells, means and standard deviations (cells x latent dimensions).

    To be used under `torch.inference_mode`; a sample of the posterior is mean + sd * noise.
    """
    model = model.to(device).eval()
    for start in range(0, len(counts), CELLS_DECODED_AT_ONCE):
        cells = slice(start, min(start + CELLS_DECODED_AT_ONCE, len(counts)))
        mean, log_var = model.encode(counts.minibatch(cells, device))
        yield cells, finite(mean), finite((0.5 * log_var).exp())


def expression(model: CountVAE, z: Tensor, batch_index: Tensor) -> Tensor:
    """Share of each gene in the expected counts of latent states, as in batch `batch_index`; rows sum to 1."""
    log_mean = model.log_mean(z, torch.ones_like(z[:, 0]), batch_index)
    return finite(torch.softmax(log_mean, 1))


def draw(
    model: CountVAE, z: NDArray[np.float32], size_factor: NDArray[np.float32], batch_index: NDArray[np.int64],
    device: torch.device, generator: torch.Generator,
) -> Iterator[tuple[slice, NDArray[np.float32]]]:  # fmt: skip
    """Counts drawn given latent states, block by block."""
    model = model.to(device).eval()
    for start in range(0, len(z), CELLS_DECODED_AT_ONCE):
        cells = slice(start, min(start + CELLS_DECODED_AT_ONCE, len(z)))
        states, sizes, codes = (tensor_of(a[cells], device) for a in (z, size_factor, batch_index))
        yield cells, finite(model.draw(states, sizes, codes, generator)).cpu().numpy()
