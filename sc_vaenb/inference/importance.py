"""Importance of genes: how genes depend on the latent state, and how the latent state depends on genes."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.func import jacfwd
from torch.nn.functional import softplus

from .._session import shared
from ..data.counts import Counts
from ..fit.device import tensor_of, threads_as_asked
from ..model.minibatch import without_counts
from ..model.vae import CountVAE
from .posterior import finite, posterior

CELLS_PER_BLOCK = 256  # float32 arrays of cells x genes are held several times
CELLS_PER_JACOBIAN = 64  # a float32 array of cells x genes x dimensions is held
N_QUADRATURE_NODES = 16  # Gauss-Legendre quadrature on the path from the baseline
N_SWEEP_POINTS = 25


def states(
    model: CountVAE, counts: Counts, device: torch.device
) -> tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.float64]]:
    """The encoder's means (cells x dimensions), KL of each dimension in nats per cell, and the mean cell (genes).

    The mean cell is the mean input of the encoder: log1p of the counts over the size factor, without batch offsets.
    """
    latent = np.empty((len(counts), model.config.n_latent), np.float32)
    kl, mean_cell = np.zeros(model.config.n_latent), np.zeros(model.config.n_genes)
    with torch.inference_mode(), threads_as_asked():
        for cells, mean, sd in posterior(model, counts, device):
            batch = counts.minibatch(cells, device)
            latent[cells] = mean.cpu().numpy()
            kl += model.prior.kl(mean, 2 * sd.log(), batch.batch_index).sum(0).cpu().numpy()
            mean_cell += batch.dense(model.encoder_input(batch)).sum(0).cpu().numpy()
    return latent, finite(kl / len(counts)), mean_cell / len(counts)


def log_rate(model: CountVAE, z: Tensor, batch_index: Tensor) -> Tensor:
    """Log of the expected counts of a cell of mean depth; for the Gaussian, which has no rate, its mean (log1p)."""
    size_factor = torch.ones_like(z[:, 0])
    if model.config.likelihood == "gaussian":
        return model.decode(z, without_counts(size_factor, batch_index, model.config.n_genes))
    return model.log_mean(z, size_factor, batch_index)


def log1p_rate(model: CountVAE, z: Tensor, batch_index: Tensor) -> Tensor:
    """Log1p of the expected counts of a cell of mean depth: the scale on which scanpy shows expression."""
    value = log_rate(model, z, batch_index)
    return value if model.config.likelihood == "gaussian" else softplus(value)


def mean_jacobian(
    model: CountVAE,
    latent: NDArray[np.float32],
    batch_index: NDArray[np.int64],
    dimensions: Sequence[int],
    device: torch.device,
) -> NDArray[np.float64]:
    """d log_rate(gene) / d z(dimension), mean over cells, (genes x dimensions)."""
    model = model.to(device).eval()
    total = np.zeros((model.config.n_genes, len(dimensions)))
    directions = torch.eye(model.config.n_latent, dtype=torch.float32, device=device)[list(dimensions)]
    # Forward mode works under no_grad, but not in inference mode. Torch's own rules for it call a deprecated function.
    with torch.no_grad(), threads_as_asked(), shared(), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        for start in range(0, len(latent), CELLS_PER_JACOBIAN):
            cells = slice(start, start + CELLS_PER_JACOBIAN)
            z, codes = (tensor_of(a[cells], device) for a in (latent, batch_index))

            def summed(shift: Tensor, z: Tensor = z, codes: Tensor = codes) -> Tensor:
                return log_rate(model, z + shift @ directions, codes).sum(0)

            # One shift for all cells: the sum over cells is inside the function, so few derivatives are held.
            total += jacfwd(summed)(torch.zeros(len(dimensions), dtype=torch.float32, device=device)).cpu().numpy()
    return finite(total / len(latent))


def sweep(
    model: CountVAE, latent: NDArray[np.float32], dimension: int, code: int, device: torch.device
) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """One dimension from its 1 % to its 99 % quantile, the others at their mean, decoded as in batch `code`.

    Returns
    -------
    The values of the dimension (points), and log1p of the expected counts (points x genes).
    """
    model = model.to(device).eval()
    low, high = np.quantile(latent[:, dimension], [0.01, 0.99]).tolist()
    values = np.linspace(low, high, N_SWEEP_POINTS)
    z = np.tile(latent.mean(0), (N_SWEEP_POINTS, 1))
    z[:, dimension] = values
    with torch.inference_mode(), threads_as_asked():
        codes = torch.full((N_SWEEP_POINTS,), code, device=device)
        return values, finite(log1p_rate(model, tensor_of(z, device), codes)).cpu().numpy()


def variance_explained(
    model: CountVAE, latent: NDArray[np.float32], code: int, device: torch.device
) -> NDArray[np.float64]:
    """Share of the variance of the decoded expression that a straight line in each dimension explains.

    The expression is log1p of the expected counts, with all cells decoded in batch `code`. Variances are summed over
    genes.
    """
    model = model.to(device).eval()
    z = (latent - latent.mean(0)).astype(np.float64)
    sums, squares = np.zeros(model.config.n_genes), np.zeros(model.config.n_genes)
    covariance = np.zeros((z.shape[1], model.config.n_genes))
    with torch.inference_mode(), threads_as_asked():
        for start in range(0, len(z), CELLS_PER_BLOCK):
            cells = slice(start, start + CELLS_PER_BLOCK)
            states = tensor_of(latent[cells], device)
            codes = torch.full((len(states),), code, device=device)
            decoded = finite(log1p_rate(model, states, codes)).cpu().numpy().astype(np.float64)
            sums += decoded.sum(0)
            squares += np.square(decoded).sum(0)
            covariance += z[cells].T @ decoded
    total = (squares - np.square(sums) / len(z)).sum()
    explained = np.square(covariance).sum(1) / np.maximum(np.square(z).sum(0), 1e-12)
    return explained / max(total, 1e-12)


class Attribution(NamedTuple):
    """Means over cells: per gene, its attribution and its change from the baseline; and the change of the state."""

    attribution: NDArray[np.float64]
    change: NDArray[np.float64]
    difference: float  # of the state: the attributions add up to it


def integrated_gradients(
    model: CountVAE,
    counts: Counts,
    cells: NDArray[np.int64],
    baseline: NDArray[np.float64],
    direction: NDArray[np.float32],
    device: torch.device,
) -> Attribution:
    """Attribution of the encoder's mean along a direction to genes, from the baseline to some cells (their mean).

    Integrated gradients (Sundararajan, Taly & Yan 2017): (x - baseline) times the gradient, averaged over the straight
    path from the baseline to the cell x. Every cell and its baseline are encoded in the cell's own batch.
    """
    model = model.to(device).eval()
    node, weight = np.polynomial.legendre.leggauss(N_QUADRATURE_NODES)
    node, weight = (node + 1) / 2, weight / 2  # from -1 .. 1 to 0 .. 1
    start_x = tensor_of(baseline.astype(np.float32), device)
    projection = tensor_of(direction, device)
    total, change, difference = np.zeros(model.config.n_genes), np.zeros(model.config.n_genes), 0.0
    with threads_as_asked():
        for start in range(0, len(cells), CELLS_PER_BLOCK):
            batch = counts.minibatch(cells[start : start + CELLS_PER_BLOCK], device)
            side = [vector.detach() for vector in model.encoder_side(batch)]
            path = batch.dense(model.encoder_input(batch)) - start_x

            def state(x: Tensor, side: list[Tensor] = side) -> Tensor:
                return model.encoder(x, side).chunk(2, dim=1)[0] @ projection

            gradient = torch.zeros_like(path)
            for t, w in zip(node, weight, strict=True):
                x = (start_x + t * path).requires_grad_()
                gradient += w * torch.autograd.grad(state(x).sum(), x)[0]
            total += (path * gradient).sum(0).cpu().numpy()
            change += path.sum(0).cpu().numpy()
            with torch.no_grad():
                difference += float((state(start_x + path) - state(start_x.expand_as(path))).sum())
    return Attribution(finite(total / len(cells)), change / len(cells), difference / len(cells))
