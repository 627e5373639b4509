"""Fit the map from latent states to the embedding.

The prior pulls latent states towards a ball, in which all kinds of cells are about equally far from each other. What
users measure in an embedding, and what they have with principal components, are distances of log expression. So the
embedding is the latent space in other coordinates: half of a squared distance is the squared distance of the log
expression that the decoder makes of both states (of a linear map to it), and half is that of the latent states. The
second half keeps apart what differs in few or weakly expressed genes. Axes are ordered by their variance over cells.
With open chromatin, the squared distance of the log counts in peaks takes half of the first half: it is scaled so that
both have the same variance over cells.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..model.minibatch import without_counts
from ..model.vae import CountVAE
from .device import tensor_of, threads_as_asked

MAX_CELLS_MAPPED = 5_000  # cells that are decoded: about 30 coefficients of each gene are learned from them
VALUES_DECODED_AT_ONCE = 1_000_000
TARGET_SUM = 1e4  # log expression is log1p of expected counts per 10,000, as users compute it
# Added to the variances of the latent dimensions, as a share of their mean: a dimension without information must not
# get large coefficients.
RIDGE = 1e-3


@torch.no_grad()
@threads_as_asked()
def fit_map(
    model: CountVAE,
    latent: NDArray[np.float32],
    batch_index: NDArray[np.int64],
    group: NDArray[np.int64],
    device: torch.device,
    seed: int,
) -> NDArray[np.float32]:
    """Fit the model's map, and return the loadings: log expression for one unit of each dimension (genes x dimensions).

    Parameters
    ----------
    latent, batch_index
        Latent states (cells x dimensions) and batch codes of the fitted cells.
    group
        The group of each batch (`fit.overlap`). Each cell is decoded in a batch of its group, drawn at random: so batch
        effects are no part of the map, and any number of batches costs the same.
    """
    assert model.embedding_map is not None
    rng = np.random.default_rng(seed)
    cells = np.sort(rng.permutation(len(latent))[:MAX_CELLS_MAPPED])
    center = latent.mean(0, dtype=np.float64)
    z = latent[cells].astype(np.float64) - center
    cells_decoded = model.to(device).eval(), z, center, _drawn_batches(batch_index[cells], group, rng), device
    coefficients = _coefficients(*cells_decoded, CountVAE.log_mean, model.config.n_genes)

    covariance = z.T @ z / len(z)
    latent_variance = float(np.trace(covariance))
    expression = coefficients @ coefficients.T  # (dimensions x dimensions)
    expression_variance = float((expression * covariance).sum())
    if not (latent_variance > 0 and expression_variance > 0):  # nothing was learned (or NaN): the map stays as it is
        return np.nan_to_num(coefficients.T).astype(np.float32)
    if model.peaks is not None:
        of_peaks = _coefficients(*cells_decoded, _peak_logits, model.config.n_peaks)
        accessibility = of_peaks @ of_peaks.T
        peak_variance = float((accessibility * covariance).sum())
        if peak_variance > 0:
            expression = 0.5 * (expression + accessibility * expression_variance / peak_variance)
    metric = expression + np.eye(len(center)) * expression_variance / latent_variance
    values, vectors = np.linalg.eigh(metric)
    root = vectors * np.sqrt(values)
    axes = np.linalg.eigh(root.T @ covariance @ root)[1][:, ::-1]  # of largest variance first
    matrix = root @ axes
    loadings = np.linalg.solve(matrix, coefficients).T
    sign = np.sign(loadings[np.abs(loadings).argmax(0), np.arange(len(center))])
    sign[sign == 0] = 1.0
    model.embedding_map.center.copy_(torch.from_numpy(center))
    model.embedding_map.matrix.copy_(torch.from_numpy(matrix * sign))
    return (loadings * sign).astype(np.float32)


def _drawn_batches(
    batch_index: NDArray[np.int64], group: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.int64]:
    """For each cell, a batch of the group of its own batch, drawn at random."""
    if len(group) < 2:
        return batch_index
    order, size = np.argsort(group, kind="stable"), np.bincount(group)
    first = np.cumsum(size) - size
    own_group = group[batch_index]
    drawn: NDArray[np.int64] = order[first[own_group] + rng.integers(0, size[own_group])]
    return drawn


def _peak_logits(model: CountVAE, z: Tensor, size_factor: Tensor, batch_index: Tensor) -> Tensor:
    assert model.peaks is not None
    return model.peaks.logits(z, model.decoder_side(without_counts(size_factor, batch_index, model.config.n_genes)))


def _coefficients(
    model: CountVAE,
    z: NDArray[np.float64],
    center: NDArray[np.float64],
    batch: NDArray[np.int64],
    device: torch.device,
    decode: Callable[[CountVAE, Tensor, Tensor, Tensor], Tensor],
    n_features: int,
) -> NDArray[np.float64]:
    """Change of the log expression with the latent state (dimensions x genes), by ridge regression over cells.

    `decode` gives its log up to a constant per cell, from model, states, size factors and batches; or that of peaks.
    """
    products, sums = np.zeros((z.shape[1], n_features)), np.zeros(n_features)
    size = max(VALUES_DECODED_AT_ONCE // n_features, 1)
    for start in range(0, len(z), size):
        block = slice(start, start + size)
        states = tensor_of((z[block] + center).astype(np.float32), device)
        log_mean = decode(model, states, torch.ones_like(states[:, 0]), torch.from_numpy(batch[block]).to(device))
        expression = torch.log1p(TARGET_SUM * torch.softmax(log_mean, 1)).cpu().numpy().astype(np.float64)
        products += z[block].T @ expression
        sums += expression.sum(0)
    products -= np.outer(z.mean(0), sums)
    variances = (z - z.mean(0)).T @ (z - z.mean(0))
    variances[np.diag_indices_from(variances)] += RIDGE * np.trace(variances) / len(variances) + 1e-12
    return np.linalg.solve(variances, products)
