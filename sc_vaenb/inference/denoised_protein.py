"""Proteins as a model explains them: what is bound of each in each cell, without the background."""

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
    """Counts to expect without the background, and probabilities of the foreground (cells x proteins).

    Parameters
    ----------
    weight
        What each batch counts in the mean for a cell of each batch: batches of cells x batches x proteins.
    align
        Take the model's alignment off the latent states first, as `inference.normalized` says.
    """
    assert model.protein is not None
    out = np.zeros((2, len(counts), model.config.n_proteins), np.float32)
    with threads_as_asked():
        for cells, z, _ in posterior(model, counts, device):
            own = torch.from_numpy(counts.batch_index[cells]).to(device)
            z = model.alignment(z, own) if align and model.alignment is not None else z
            given = model.given(without_counts(torch.ones_like(z[:, 0]), own, model.config.n_genes))
            total = z.new_zeros(2, len(z), model.config.n_proteins)
            for code in range(weight.shape[1]):
                found = model.protein.decode(z, given, torch.full_like(own, code)).expected()
                total += torch.stack(found) * torch.from_numpy(weight[:, code]).to(device)[own]
            out[:, cells] = total.cpu().numpy()
    return finite(out[0]), finite(out[1])


def as_measured(measured: NDArray[np.bool_], group: NDArray[np.int64]) -> NDArray[np.float32]:
    """Weights with which a protein is the mean over the batches that measured it, of a batch's own group if any did.

    Parameters
    ----------
    measured
        Whether each batch measured each protein (batches x proteins).
    group
        The group of each batch (`fit.overlap`): only within one do batches have kinds of cells in common.
    """
    related = measured[None] & (group[:, None] == group)[:, :, None]
    weight = np.where(related.any(1, keepdims=True), related, measured[None]).astype(np.float32)
    return weight / weight.sum(1, keepdims=True)
