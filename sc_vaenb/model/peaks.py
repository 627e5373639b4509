"""Counts of open chromatin (ATAC) in peaks, with the genes in one latent state.

Each modality has an encoder. The posterior of a cell is their product with the prior (Wu & Goodman 2018), so a cell
without peaks has that of its genes alone, and a cell without genes that of its peaks. The decoder is linear: one
loading per peak and dimension, because peaks are many and their counts few. A cell's depth is that of the peaks alone:
the counts are a multinomial draw of it.

In the fit, the counts of each cell are split into halves at random: the encoder sees one, and the decoder explains the
other. Otherwise the latent state would memorise which peaks were drawn, at a few counts per thousand peaks.

In each step, some cells are taken as if only their genes, or only their peaks, had been measured, so that the networks
learn such cells, too. The modality left out is explained with a low weight. With the full weight, the encoder of the
genes would learn by heart what peaks each cell of the fit has, and the other way round. Without any, nothing would tell
a cell of which only genes were measured where cells with such peaks are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from .config import ModelConfig
from .minibatch import ForwardState, Minibatch
from .network import MLP
from .sparse_linear import sparse_linear

HIDDEN_SHARE = 0.25  # of the cells of a step: their peaks are left out; of as many others the genes
LEFT_OUT_WEIGHT = 0.1  # of their likelihood, if they are left out
FIRST_SHRINKAGE = 0.1  # of the initial loadings, which else explain nothing and add noise
Posterior = tuple[Tensor, Tensor]


def split(batch: Minibatch) -> Minibatch:
    """What the encoders see, and the peaks to be explained: some cells without genes or peaks; halves of the peaks.

    The genes to be explained are those of `batch` itself, with the weight `weight_of_genes`.
    """
    peaks = batch.peaks
    if peaks is None:
        return batch
    draw = batch.random(torch.rand, 1).squeeze(1)
    keeps_genes = 1 - is_measured(peaks) * (draw > 1 - HIDDEN_SHARE)
    keeps_peaks = 1 - is_measured(batch) * (draw < HIDDEN_SHARE)
    batch = replace(batch, count=batch.count * keeps_genes[batch.row])
    draws = torch.rand(len(peaks.count), generator=batch.generator, dtype=torch.float32, device=peaks.count.device)
    half = peaks.count * (draws < 0.5)
    several = (peaks.count > 1).nonzero().squeeze(1)  # most counts are 1, and a binomial draw takes much longer
    count = peaks.count[several]
    half[several] = torch.binomial(count, torch.full_like(count, 0.5), generator=batch.generator)
    keeps = keeps_peaks[peaks.row]
    explained = (peaks.count - half) * (keeps + LEFT_OUT_WEIGHT * (1 - keeps))
    return replace(batch, peaks=replace(peaks, count=half * keeps), peaks_to_explain=replace(peaks, count=explained))


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
        peaks, first = batch.peaks, self.encoder.first.weight
        assert peaks is not None
        first.data = first.data.t().contiguous().t()  # a sparse product reads the weights of a peak together
        total = peaks.count.new_full((peaks.n_genes,), 0.5).index_add_(0, peaks.gene, peaks.count)
        self.decoder.output.bias.copy_((total / total.sum()).log())
        self.decoder.output.weight.mul_(FIRST_SHRINKAGE)
        self.depth.copy_(peaks.count.sum() / is_measured(peaks).sum().clamp(min=1))

    def encode(self, batch: Minibatch, side: Sequence[Tensor]) -> Posterior:
        """Mean and log-variance that the peaks alone suggest, each (n_cells, n_latent)."""
        peaks = batch.peaks
        assert peaks is not None
        scale = self.depth / _depth(peaks).clamp(min=1)
        values = torch.log1p(peaks.count * scale[peaks.row])
        first = sparse_linear(self.encoder.first, values, peaks)
        mean, log_var = self.encoder.after_first(first, side, batch.generator).chunk(2, dim=1)
        return mean, log_var

    def logits(self, z: Tensor, side: Sequence[Tensor]) -> Tensor:
        """Log of the share of each peak in the counts of a cell, up to a constant (n_cells, n_peaks)."""
        return self.decoder(z, side)

    def forward(self, state: ForwardState) -> Tensor:
        """Negative log-likelihood of the peaks, without terms that do not depend on the model; mean over all cells."""
        batch, peaks = state.batch, state.batch.peaks_to_explain
        if peaks is None:
            return state.z.new_zeros(())
        layer, side = self.decoder.output, self.decoder.side
        inputs = state.z if side is None else torch.cat([state.z, *state.side], 1)
        weight = layer.weight if side is None else torch.cat([layer.weight, side.weight], 1)
        log_prob = _MultinomialOfLinear.apply(inputs, weight, layer.bias, peaks)
        return -2 * log_prob / batch.n_cells  # as if both halves were explained


class _MultinomialOfLinear(torch.autograd.Function):
    """Log-probability of all counts, whose shares are the softmax of a linear layer.

    Autograd would write several matrices of cells x peaks, which takes most of the time of a step. Here the logits
    become shares, and the shares their own gradient, in one memory.
    """

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor, peaks: Minibatch) -> Tensor:
        logits, depth = torch.addmm(bias, inputs, weight.t()), _depth(peaks)
        explained = (peaks.at_nonzeros(logits) * peaks.count).sum()
        largest = logits.amax(1, keepdim=True)
        share = logits.sub_(largest).exp_()
        total = share.sum(1, keepdim=True)
        ctx.save_for_backward(inputs, weight)
        ctx.peaks, ctx.share, ctx.scale = peaks, share, -depth.unsqueeze(1) / total
        return explained - (depth * (total.log() + largest).squeeze(1)).sum()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        inputs, weight = ctx.saved_tensors
        residual = ctx.share.mul_(ctx.scale)
        residual.view(-1).index_add_(0, ctx.peaks.position, ctx.peaks.count).mul_(grad)
        return residual @ weight, residual.t() @ inputs, residual.sum(0), None


def weight_of_genes(batch: Minibatch, seen: Minibatch) -> Tensor:
    """The weight of the likelihood of the genes of each cell, of which the encoder has seen the genes in `seen`."""
    is_seen = is_measured(seen)
    return is_measured(batch) * (is_seen + LEFT_OUT_WEIGHT * (1 - is_seen))


def is_measured(modality: Minibatch) -> Tensor:
    """1 for each cell that has counts in these genes or peaks, else 0."""
    return (_depth(modality) > 0).float()


def _depth(modality: Minibatch) -> Tensor:
    """Number of counts of each cell."""
    return torch.zeros_like(modality.size_factor).index_add_(0, modality.row, modality.count)


def product(genes: Posterior, peaks: Posterior, has_genes: Tensor, has_peaks: Tensor) -> Posterior:
    """Mean and log-variance of the product of the standard normal and of what genes and peaks suggest, where measured.

    `has_genes` and `has_peaks` are 0 or 1 for each cell.
    """
    weights = [
        measured.unsqueeze(1) * (-log_var).exp() for measured, (_, log_var) in ((has_genes, genes), (has_peaks, peaks))
    ]
    precision = 1 + weights[0] + weights[1]
    return (weights[0] * genes[0] + weights[1] * peaks[0]) / precision, -precision.log()
