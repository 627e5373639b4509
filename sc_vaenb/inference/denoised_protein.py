"""Denoised proteins: how much of each protein is bound in each cell, without the background."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from ..data.counts import Counts
from ..fit.device import threads_as_asked
from ..model.minibatch import without_counts
from ..model.vae import CountVAE
from .posterior import finite, posterior


@torch.inference_mode()
def foreground(
    model: CountVAE, counts: Counts, weight: NDArray[np.float32], align: bool, device: torch.device
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Expected counts without the background, and probabilities of the foreground (cells x proteins).

    Parameters
    ----------
    weight
        Weights of the batches in the mean, for cells of each batch: batches of cells x batches x proteins.
    align
        Apply the model's alignment to the latent states first, see `inference.normalized`.
    """
    assert model.protein is not None
    out = np.zeros((2, len(counts), model.config.n_proteins), np.float32)
    with threads_as_asked():
        for cells, z, _ in posterior(model, counts, device):
            cell_batch = torch.from_numpy(counts.batch_index[cells]).to(device)
            z = model.aligned(z, cell_batch) if align else z
            covariates = model.covariates(without_counts(torch.ones_like(z[:, 0]), cell_batch, model.config.n_genes))
            total = z.new_zeros(2, len(z), model.config.n_proteins)
            for code in range(weight.shape[1]):
                expected = model.protein.decode(z, covariates, torch.full_like(cell_batch, code)).expected()
                total += torch.stack(expected) * torch.from_numpy(weight[:, code]).to(device)[cell_batch]
            out[:, cells] = total.cpu().numpy()
    return finite(out[0]), finite(out[1])


def as_measured(measured: NDArray[np.bool_], group: NDArray[np.int64]) -> NDArray[np.float32]:
    """Weights for the mean of each protein over the batches that measured it.

    Only batches of the cell's own group count, if any of them measured the protein.

    Parameters
    ----------
    measured
        Whether each batch measured each protein (batches x proteins).
    group
        The group of each batch (`fit.overlap`): only batches of one group have cell types in common.
    """
    in_group = measured[None] & (group[:, None] == group)[:, :, None]
    weight = np.where(in_group.any(1, keepdims=True), in_group, measured[None]).astype(np.float32)
    return weight / weight.sum(1, keepdims=True)
