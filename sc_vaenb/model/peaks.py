"""Counts of open chromatin (ATAC) in peaks, with the genes in one latent state.

Each modality has an encoder. The posterior of a cell is their product with the prior (Wu & Goodman 2018), so a cell
without peaks has that of its genes alone. The decoder is linear: one loading per peak and dimension, because peaks are
many and their counts few. A cell's depth is that of the peaks alone: the counts are a multinomial draw of it.

In the fit, the counts of each cell are split into halves at random: the encoder sees one, and the decoder explains the
other. Otherwise the latent state would memorise which peaks were drawn, at a few counts per thousand peaks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from .config import ModelConfig
from .minibatch import ForwardState, Minibatch
from .network import MLP
from .sparse_linear import sparse_linear

HIDDEN_SHARE = 0.25  # of the cells of a step: their peaks are hidden; of as many others the genes
FIRST_SHRINKAGE = 0.1  # of the initial loadings, which else explain nothing and add noise
Posterior = tuple[Tensor, Tensor]


def split(batch: Minibatch) -> Minibatch:
    """The same cells with one random half of the peak counts as input, and the other half to be explained."""
    peaks = batch.peaks
    if peaks is None:
        return batch
    half = torch.binomial(peaks.count, torch.full_like(peaks.count, 0.5), generator=batch.generator)
    return replace(batch, peaks=replace(peaks, count=half), peaks_to_explain=replace(peaks, count=peaks.count - half))


class Peaks(nn.Module):
    """The encoder of peaks, and the negative log-likelihood of peak counts as a penalty."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        style = (config.activation, config.norm, config.dropout)
        n_peaks, n_latent = config.n_peaks, config.n_latent
        self.encoder = MLP(n_peaks, config.n_encoder_side, config.hidden, 2 * n_latent, *style)
        self.decoder = MLP(n_latent, config.n_decoder_side, (), n_peaks, *style)
        self.depth = nn.Buffer(torch.ones((), dtype=torch.float32))  # mean number of counts of a cell with peaks

    @torch.no_grad()
    def initialise(self, batch: Minibatch) -> None:
        """Initialise with the share of each peak in some cells."""
        peaks = batch.peaks
        assert peaks is not None
        total = peaks.count.new_full((peaks.n_genes,), 0.5).index_add_(0, peaks.gene, peaks.count)
        self.decoder.output.bias.copy_((total / total.sum()).log())
        self.decoder.output.weight.mul_(FIRST_SHRINKAGE)
        self.depth.copy_(peaks.count.sum() / (_depth(peaks) > 0).sum().clamp(min=1))

    def encode(self, batch: Minibatch, side: Sequence[Tensor]) -> Posterior:
        """Mean and log-variance that the peaks alone suggest, each (n_cells, n_latent)."""
        peaks = batch.peaks
        assert peaks is not None
        scale = self.depth / _depth(peaks).clamp(min=1)
        values = torch.log1p(peaks.count * scale[peaks.row])
        first = sparse_linear(self.encoder.first, values, peaks)
        mean, log_var = self.encoder.after_first(first, side, batch.generator).chunk(2, dim=1)
        return mean, log_var

    def shown(self, batch: Minibatch) -> tuple[Tensor, Tensor]:
        """Whether the genes and the peaks of each cell count in its posterior, each (n_cells, 1) of 0 and 1."""
        genes = batch.size_factor.new_ones(batch.n_cells, 1)
        if batch.peaks is None:
            return genes, torch.zeros_like(genes)
        peaks = (_depth(batch.peaks) > 0).float().unsqueeze(1)
        if not self.training:
            return genes, peaks
        draw = batch.random(torch.rand, 1)
        return 1 - peaks * (draw > 1 - HIDDEN_SHARE), peaks * (draw > HIDDEN_SHARE)

    def logits(self, z: Tensor, side: Sequence[Tensor]) -> Tensor:
        """Log of the share of each peak in the counts of a cell, up to a constant (n_cells, n_peaks)."""
        return self.decoder(z, side)

    def forward(self, state: ForwardState) -> Tensor:
        """Negative log-likelihood of the peaks, without terms that do not depend on the model; mean over all cells."""
        batch, peaks = state.batch, state.batch.peaks_to_explain
        if peaks is None:
            return state.z.new_zeros(())
        logits = self.logits(state.z, state.side)
        depth = torch.zeros_like(state.z[:, 0]).index_add_(0, peaks.row, peaks.count)
        log_prob = (peaks.at_nonzeros(logits) * peaks.count).sum() - (depth * logits.logsumexp(1)).sum()
        return -2 * log_prob / batch.n_cells  # of both halves


def _depth(peaks: Minibatch) -> Tensor:
    """Number of counts of each cell."""
    return torch.zeros_like(peaks.size_factor).index_add_(0, peaks.row, peaks.count)


def product(genes: Posterior, peaks: Posterior, shown: tuple[Tensor, Tensor]) -> Posterior:
    """Mean and log-variance of the product of the standard normal and of what genes and peaks suggest, if shown."""
    weights = [part * (-log_var).exp() for part, (_, log_var) in zip(shown, (genes, peaks), strict=True)]
    precision = 1 + weights[0] + weights[1]
    return (weights[0] * genes[0] + weights[1] * peaks[0]) / precision, -precision.log()
