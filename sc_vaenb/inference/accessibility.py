"""Denoised accessibility: the share of each peak in the counts of a cell that a model expects."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from ..data.counts import Counts
from ..fit.device import generator, threads_as_asked
from ..model.minibatch import without_counts
from ..model.vae import CountVAE
from .normalized import TargetBatches
from .posterior import finite, posterior

TARGET_SUM = 1e4  # values are expected counts per 10,000 in all peaks of the model


@torch.inference_mode()
def accessibility(
    model: CountVAE, counts: Counts, target: TargetBatches, peaks: NDArray[np.int64], device: torch.device
) -> NDArray[np.float32]:
    """Expected counts of these peaks per 10,000 in all peaks, averaged over the batches (cells x peaks)."""
    assert model.peaks is not None
    out, noise = np.empty((len(counts), len(peaks)), np.float32), generator(0, device)  # nothing is drawn
    chosen = torch.from_numpy(peaks).to(device)
    with threads_as_asked():
        for cells, mean, _ in posterior(model, counts, device):
            cell_batch = torch.from_numpy(counts.batch_index[cells]).to(device)
            z = target.states(model, mean, None, cell_batch, noise)
            total = mean.new_zeros(len(mean), len(peaks))
            for rows, batch_index in target.rounds(cell_batch):
                cells_decoded = without_counts(torch.ones_like(z[rows, 0]), batch_index, model.config.n_genes)
                logits = model.peaks.logits(z[rows], model.decoder_side(cells_decoded))
                total.index_add_(0, rows, (logits[:, chosen] - logits.logsumexp(1, keepdim=True)).exp())
            out[cells] = (TARGET_SUM * total / target.n_batches(cell_batch)).cpu().numpy()
    return finite(out)
