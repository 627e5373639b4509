"""A minibatch: the counts of some cells, stored as non-zeros, and other inputs of these cells."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor


@dataclass(slots=True)
class Minibatch:
    """Counts of `n_cells` cells x `n_genes` genes as non-zeros, in row order, with the other inputs of each cell.

    Attributes
    ----------
    row, gene
        int64, one entry per non-zero: the cell (0 .. n_cells - 1) and the gene (0 .. n_genes - 1).
    count
        float32, one entry per non-zero, positive. A zero is padding: it repeats the row and gene of a non-zero,
        and then has no effect.
    size_factor
        float32 per cell, scaled so that the mean over the fitted cells is 1.
    batch_index
        int64 per cell, the batch code; zeros if the model knows no batches.
    n_genes
        Number of genes, including genes without counts in these cells.
    side_inputs
        Other inputs of each cell, by name: tensors with one row per cell.
    part_of
        If these cells are a part of a minibatch: the number of its cells before them, and the number of all its cells.
    peaks, peaks_to_explain
        Counts in peaks of the same cells, if there are any, with peaks as "genes" and size factors of 1: those that the
        encoder sees, and those that the decoder explains in a step (`model.peaks`).
    generator
        For the random numbers of a step with these cells. Without it none can be drawn.
    position
        Derived, `row * n_genes + gene`: the position of a non-zero in the flattened dense matrix.
    """

    row: Tensor
    gene: Tensor
    count: Tensor
    size_factor: Tensor
    batch_index: Tensor
    n_genes: int
    side_inputs: dict[str, Tensor] = field(default_factory=dict)
    part_of: tuple[int, int] | None = None
    generator: torch.Generator | None = None
    peaks: Minibatch | None = None
    peaks_to_explain: Minibatch | None = None
    position: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.position = self.row * self.n_genes + self.gene

    @property
    def n_cells(self) -> int:
        return len(self.size_factor)

    def dense(self, values: Tensor) -> Tensor:
        """One value per non-zero, spread over a (n_cells, n_genes) matrix of zeros."""
        flat = values.new_zeros(self.n_cells * self.n_genes)
        return flat.scatter_add_(0, self.position, values).view(self.n_cells, self.n_genes)

    def at_nonzeros(self, matrix: Tensor) -> Tensor:
        """The entries of a (n_cells, n_genes) matrix at the non-zeros, in their order."""
        return matrix.reshape(-1).index_select(0, self.position)

    def random(self, draw: Callable[..., Tensor], width: int) -> Tensor:
        """A row of random numbers per cell (`draw`: such as torch.randn); a part of a minibatch gets its own rows."""
        assert self.generator is not None, "torch's global random state is that of other threads too"
        before, total = self.part_of or (0, self.n_cells)
        like = self.size_factor
        numbers = draw(total, width, generator=self.generator, dtype=like.dtype, device=like.device)
        return numbers[before : before + self.n_cells]

    def log_normalised(self, offset: Tensor | None = None) -> Tensor:
        """log1p of the counts, one per non-zero, every cell normalised to the size factor 1 (the mean depth).

        `offset`, one per non-zero, is subtracted from the log of the counts.
        """
        count = self.count if offset is None else self.count * (-offset).exp()
        return torch.log1p(count / self.size_factor.index_select(0, self.row))


class ForwardState(NamedTuple):
    """The tensors of a forward pass: posterior mean and log-variance (cells x dimensions), sample `z`, decoder output.

    `kl_warmup` is the weight of the KL as a share of its final value; `covariates` are the covariates of the networks,
    `side` all inputs of the decoder besides the latent state.
    """

    batch: Minibatch
    mean: Tensor
    log_var: Tensor
    z: Tensor
    raw: Tensor
    kl_warmup: float | Tensor = 1.0
    covariates: Sequence[Tensor] = ()
    side: Sequence[Tensor] = ()


def without_counts(
    size_factor: Tensor, batch_index: Tensor, n_genes: int, side_inputs: dict[str, Tensor] | None = None
) -> Minibatch:
    """Cells without counts, for the decoder."""
    empty = batch_index.new_zeros(0)
    return Minibatch(empty, empty, size_factor.new_zeros(0), size_factor, batch_index, n_genes, side_inputs or {})
