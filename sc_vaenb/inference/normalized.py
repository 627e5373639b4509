"""Normalized expression and counts of cells as a model decodes them, in their own batches or in other batches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor
from tqdm import tqdm

from ..data.counts import Counts
from ..fit.device import normal_like
from ..model.vae import CountVAE
from .posterior import expression, finite, posterior

Blocks = Iterator[tuple[slice, Tensor]]


class TargetBatches(NamedTuple):
    """Which batches each cell is decoded in.

    Attributes
    ----------
    table
        batches x n: for each batch of cells, the batches to decode them in; rows with fewer are filled with -1.
    align
        Apply the model's alignment to the latent states first. Part of the batch effects stays in the latent states:
        without alignment, cells that are decoded in one batch still show which batch they came from.
    """

    table: NDArray[np.int64]
    align: bool

    def rounds(self, cell_batch: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """In each round, one batch to decode per cell: the cells that have one, and the batches."""
        for batches in torch.from_numpy(self.table).to(cell_batch.device).T:
            batch_index = batches[cell_batch]
            cells = torch.nonzero(batch_index >= 0).squeeze(1)
            yield cells, batch_index[cells]

    def states(
        self, model: CountVAE, mean: Tensor, sd: Tensor | None, cell_batch: Tensor, noise: torch.Generator
    ) -> Tensor:
        """Latent states to decode: posterior means, or with `sd` a sample of the posterior."""
        z = mean if sd is None else mean + sd * normal_like(mean, noise)
        return model.aligned(z, cell_batch) if self.align else z

    def n_batches(self, cell_batch: Tensor) -> Tensor:
        """Number of batches that each cell is decoded in, (n_cells, 1)."""
        return torch.from_numpy((self.table >= 0).sum(1)).to(cell_batch.device)[cell_batch].unsqueeze(1)


def own_batch(n_batches: int) -> TargetBatches:
    """Every cell in its own batch (0 if the model knows no batches)."""
    return TargetBatches(np.arange(max(n_batches, 1))[:, None], align=False)


def one_batch(n_batches: int, batch: int) -> TargetBatches:
    """Every cell in one batch."""
    return TargetBatches(np.full((n_batches, 1), batch), align=True)


def all_batches_of_group(group: NDArray[np.int64]) -> TargetBatches:
    """Every cell in all batches of its own group (`fit.overlap`).

    A batch of another group has no cells of this type, so the model has not seen such cells in that batch.
    """
    table = np.full((len(group), np.bincount(group).max()), -1)
    for batch, batch_group in enumerate(group):
        members = np.flatnonzero(group == batch_group)
        table[batch, : len(members)] = members
    return TargetBatches(table, align=True)


def expected(
    model: CountVAE, counts: Counts, target: TargetBatches, n_samples: int, device: torch.device, noise: torch.Generator
) -> Blocks:
    """Share of each gene in the expected counts, averaged over the batches and samples; rows sum to 1.

    With `n_samples` 0 the posterior mean is decoded. To be used under `torch.inference_mode`.
    """
    for cells, mean, sd in posterior(model, counts, device):
        cell_batch = torch.from_numpy(counts.batch_index[cells]).to(device)
        total = mean.new_zeros(len(mean), model.config.n_genes)
        for _ in range(max(n_samples, 1)):
            z = target.states(model, mean, sd if n_samples else None, cell_batch, noise)
            for rows, batch_index in target.rounds(cell_batch):
                total.index_add_(0, rows, expression(model, z[rows], batch_index))
        yield cells, total / (target.n_batches(cell_batch) * max(n_samples, 1))


def drawn(
    model: CountVAE, counts: Counts, target: TargetBatches, n_samples: int, device: torch.device, noise: torch.Generator
) -> Blocks:
    """Counts drawn at each cell's own size factor, each count from the likelihood of one of the batches at random.

    So the mean of the counts is the mean over the batches, for every likelihood and dispersion, and no whole cell looks
    like one batch. With `n_samples` 0 the posterior mean is decoded, else one posterior sample. To be used under
    `torch.inference_mode`.
    """
    for cells, mean, sd in posterior(model, counts, device):
        cell_batch = torch.from_numpy(counts.batch_index[cells]).to(device)
        size_factor = torch.from_numpy(counts.size_factor[cells]).to(device)
        z = target.states(model, mean, sd if n_samples else None, cell_batch, noise)
        out = mean.new_zeros(len(mean), model.config.n_genes)
        uniform = torch.rand(out.shape, generator=noise, dtype=out.dtype, device=device)
        choice = (uniform * target.n_batches(cell_batch)).floor()
        for turn, (rows, batch_index) in enumerate(target.rounds(cell_batch)):
            values = model.draw(z[rows], size_factor[rows], batch_index, noise)
            out[rows] = torch.where(choice[rows] == turn, values, out[rows])
        yield cells, out


def collect(
    blocks: Blocks, shape: tuple[int, int], genes: NDArray[np.int64], columns: NDArray[np.int64],
    *, scale: float = 1.0, threshold: float | None = None, as_csr: bool = False, progress: bool = False,
) -> NDArray[np.float32] | sparse.csr_matrix:  # fmt: skip
    """The chosen genes of the model, scaled, in these columns of a float32 matrix; values below `threshold` become 0.

    Other columns hold NaN. In CSR so many NaN would be too large: there must be no other columns, and `columns` ascend.
    """
    out = np.empty((0, 0), np.float32) if as_csr else np.full(shape, np.nan, np.float32)
    parts = []
    with tqdm(total=shape[0], disable=not progress, leave=False, mininterval=0.5) as bar:
        for cells, values in blocks:
            chosen = values[:, torch.from_numpy(genes).to(values.device)] * scale
            if threshold is not None:
                chosen.masked_fill_(chosen < threshold, 0.0)
            block = finite(chosen.cpu().numpy())
            if as_csr:
                parts.append(sparse.csr_matrix(block))
            else:
                out[cells, columns] = block
            bar.update(len(block))
    return sparse.vstack(parts, format="csr") if as_csr else out
