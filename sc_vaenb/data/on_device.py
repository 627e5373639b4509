"""Counts that lie on a CUDA device, as CSR in the smallest integers that hold them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..model.minibatch import Minibatch
from .counts import ALL_CELLS, Counts


class DeviceCounts(Counts):
    """The counts on the device too, as CSR, with genes and counts in the smallest integers that hold them."""

    def __init__(self, counts: Counts, device: torch.device) -> None:
        super().__init__(
            counts.matrix, counts.size_factor, counts.batch_index, counts.side_inputs, counts.held, counts.complete
        )
        self.source = counts
        every = ALL_CELLS if counts.held is None else counts.held
        values = (
            counts.matrix.indptr.astype(np.int64),
            counts.matrix.indices.astype(smallest_type(np.array([counts.matrix.shape[1]]))),
            counts.matrix.data.astype(smallest_type(counts.matrix.data)),
            counts.size_factor[every],
            counts.batch_index[every],
        )
        self.on_device = [torch.from_numpy(value).to(device) for value in values]
        self.side_on_device = {
            name: torch.from_numpy(value[every]).to(device) for name, value in counts.side_inputs.items()
        }

    def minibatch(self, cells: NDArray[np.integer] | slice, device: torch.device) -> Minibatch:
        chosen = np.asarray(self.rows(np.arange(len(self))[cells]))
        room = int((self.matrix.indptr[chosen + 1] - self.matrix.indptr[chosen]).sum())
        return self.padded(torch.from_numpy(chosen).to(device), room)

    def in_order(self, device: torch.device, cells: slice = ALL_CELLS) -> Iterator[Minibatch]:
        return super().in_order(device, cells) if self.held is None else self.source.in_order(device, cells)

    def padded(self, cells: Tensor, room: int) -> Minibatch:
        """Cells by their rows, with zeros in the place of missing non-zeros, `room` in all: no wait for the device."""
        pointer, genes, counts, size_factor, batch_index = self.on_device
        start = pointer[cells]
        length = pointer[cells + 1] - start
        end = length.cumsum(0)
        entry = torch.arange(room, device=cells.device)
        real = entry % end[-1]  # padding repeats the non-zeros from the first on, so that no place is written to often
        row = torch.searchsorted(end, real, right=True)
        at = real - (end - length)[row] + start[row]
        return Minibatch(
            row=row,
            gene=genes[at].long(),
            count=counts[at].float().masked_fill(entry >= end[-1], 0.0),
            size_factor=size_factor[cells],
            batch_index=batch_index[cells],
            n_genes=self.matrix.shape[1],
            side_inputs={name: values[cells] for name, values in self.side_on_device.items()},
        )


def smallest_type(values: NDArray) -> type[np.generic]:
    """The smallest type that torch computes with and that holds all values, which are not negative."""
    if values.size and (values.dtype.kind == "f") and (values != np.rint(values)).any():
        return np.float32
    largest = values.max(initial=0)
    return next((t for t in (np.uint8, np.int16, np.int32) if largest <= np.iinfo(t).max), np.float32)
