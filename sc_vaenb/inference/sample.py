"""New cells: latent states drawn from posteriors or from the prior, and counts drawn given these states."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, vstack

from ..data.counts import Counts
from ..fit.device import generator, normal_like, threads_as_asked
from ..model.vae import CountVAE
from .posterior import draw, finite, posterior


@torch.inference_mode()
def states_around(model: CountVAE, counts: Counts, seed: int, device: torch.device) -> NDArray[np.float32]:
    """One state drawn from the posterior of each cell (cells x latent dimensions), not aligned."""
    out = np.empty((len(counts), model.config.n_latent), np.float32)
    noise = generator(seed, device)
    with threads_as_asked():
        for cells, mean, sd in posterior(model, counts, device):
            out[cells] = (mean + sd * normal_like(mean, noise)).cpu().numpy()
    return out


@torch.inference_mode()
def states_of_prior(model: CountVAE, batch_index: NDArray[np.int64], seed: int) -> NDArray[np.float32]:
    """One state drawn from the prior for each batch code (cells x latent dimensions)."""
    noise = generator(seed, torch.device("cpu"))
    return finite(model.prior.cpu().draw(torch.from_numpy(batch_index), noise).numpy())


@torch.inference_mode()
def draw_counts(
    model: CountVAE,
    z: NDArray[np.float32],
    size_factor: NDArray[np.float32],
    batch_index: NDArray[np.int64],
    seed: int,
    device: torch.device,
) -> csr_matrix:
    """Counts drawn from the likelihood given states, size factors (1: the mean of the fit) and batch codes, as CSR."""
    with threads_as_asked():
        blocks = draw(model, z, size_factor, batch_index, device, generator(seed, device))
        return vstack([csr_matrix(block) for _, block in blocks], format="csr")
