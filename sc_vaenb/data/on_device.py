"""Counts on a CUDA device, as CSR in the smallest integer types that hold them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..model.minibatch import Minibatch
from .counts import ALL_CELLS, Counts


class DeviceCounts(Counts):
    """Counts that are also on the device, as CSR; genes and counts have the smallest integer types that hold them."""

    def __init__(self, counts: Counts, device: torch.device) -> None:
        super().__init__(
            counts.matrix, counts.size_factor, counts.batch_index, counts.side_inputs, counts.held, counts.complete
        )
        self.source = counts
        cells = ALL_CELLS if counts.held is None else counts.held
        values = (
            counts.matrix.indptr.astype(np.int64),
            counts.matrix.indices.astype(smallest_type(np.array([counts.matrix.shape[1]]))),
            counts.matrix.data.astype(smallest_type(counts.matrix.data)),
            counts.size_factor[cells],
            counts.batch_index[cells],
        )
        self.on_device = [torch.from_numpy(value).to(device) for value in values]
        self.side_on_device = {
            name: torch.from_numpy(value[cells]).to(device) for name, value in counts.side_inputs.items()
        }

    def minibatch(self, cells: NDArray[np.integer] | slice, device: torch.device) -> Minibatch:
        rows = np.asarray(self.rows(np.arange(len(self))[cells] if isinstance(cells, slice) else cells))
        n_nonzeros = int((self.matrix.indptr[rows + 1] - self.matrix.indptr[rows]).sum())
        return self.padded(torch.from_numpy(rows).to(device), n_nonzeros)

    def in_order(self, device: torch.device, cells: slice = ALL_CELLS) -> Iterator[Minibatch]:
        return super().in_order(device, cells) if self.held is None else self.source.in_order(device, cells)

    def padded(self, rows: Tensor, n_entries: int) -> Minibatch:
        """The cells in these rows, padded with zeros to `n_entries`; the CPU does not wait for the device."""
        pointer, genes, counts, size_factor, batch_index = self.on_device
        start = pointer[rows]
        length = pointer[rows + 1] - start
        end = length.cumsum(0)
        entry = torch.arange(n_entries, device=rows.device)
        nonzero = entry % end[-1]  # padding repeats all non-zeros: many writes to one address are slow
        row = torch.searchsorted(end, nonzero, right=True)
        index = nonzero - (end - length)[row] + start[row]
        return Minibatch(
            row=row,
            gene=genes[index].long(),
            count=counts[index].float().masked_fill(entry >= end[-1], 0.0),
            size_factor=size_factor[rows],
            batch_index=batch_index[rows],
            n_genes=self.matrix.shape[1],
            side_inputs={name: values[rows] for name, values in self.side_on_device.items()},
        )


def smallest_type(values: NDArray) -> type[np.generic]:
    """The smallest type of torch that holds all values; they must not be negative."""
    if values.size and (values.dtype.kind == "f") and (values != np.rint(values)).any():
        return np.float32
    largest = values.max(initial=0)
    return next((t for t in (np.uint8, np.int16, np.int32) if largest <= np.iinfo(t).max), np.float32)
