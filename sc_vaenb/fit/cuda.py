"""What keeps a CUDA device busy: counts that lie on it, and steps that do not wait for Python.

A step is some two hundred kernels of a few microseconds each, which Python launches more slowly than the device runs
them. So it is captured once as a CUDA graph and replayed. That needs shapes that never change: minibatches are padded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..model.minibatch import Minibatch
from ..model.vae import CountVAE, Terms
from .batches import ALL_CELLS, Counts
from .loop import FitConfig, Step
from .step_cpu import step_on_cpu
from .stored import StoredCounts

SHARE_OF_FREE_MEMORY = 0.7  # of the device; the rest is for the model and its steps
EAGER_STEPS = 3  # before the capture: libraries set themselves up, the optimiser makes its state


class DeviceCounts(Counts):
    """The counts on the device too, as CSR, with genes and counts in the smallest integers that hold them."""

    def __init__(self, counts: Counts, device: torch.device) -> None:
        super().__init__(counts.matrix, counts.size_factor, counts.condition, counts.side_inputs)
        self.source = counts
        every = slice(None) if not isinstance(counts, StoredCounts) else counts.held
        values = (
            counts.matrix.indptr.astype(np.int64),
            counts.matrix.indices.astype(smallest_type(np.array([counts.matrix.shape[1]]))),
            counts.matrix.data.astype(smallest_type(counts.matrix.data)),
            counts.size_factor[every],
            counts.condition[every],
        )
        self.on_device = [torch.from_numpy(value).to(device) for value in values]
        self.beside_on_device = {
            name: torch.from_numpy(value[every]).to(device) for name, value in counts.side_inputs.items()
        }

    def minibatch(self, cells: NDArray[np.integer] | slice, device: torch.device) -> Minibatch:
        chosen = self.rows(np.arange(len(self))[cells])
        room = int((self.matrix.indptr[chosen + 1] - self.matrix.indptr[chosen]).sum())
        return self.padded(torch.from_numpy(chosen).to(device), room)

    def in_order(self, device: torch.device, cells: slice = ALL_CELLS) -> Iterator[Minibatch]:
        stored = isinstance(self.source, StoredCounts)
        return self.source.in_order(device, cells) if stored else super().in_order(device, cells)

    def rows(self, cells: NDArray[np.integer]) -> NDArray[np.integer]:
        return self.source.rows(cells)

    def padded(self, cells: Tensor, room: int) -> Minibatch:
        """Cells by their rows, with zeros in the place of missing non-zeros, `room` in all: no wait for the device."""
        pointer, genes, counts, size_factor, condition = self.on_device
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
            condition=condition[cells],
            n_genes=self.matrix.shape[1],
            side_inputs={name: values[cells] for name, values in self.beside_on_device.items()},
        )


class CapturedStep(Step):
    """A step on counts on the device: the first few as they come, then captured and from there on replayed."""

    counts: DeviceCounts

    def __init__(
        self, model: CountVAE, counts: Counts, options: FitConfig, n_cells: int, generator: torch.Generator
    ) -> None:
        super().__init__(model, counts, options, n_cells, generator)
        for group in self.optimizer.param_groups:
            group["capturable"] = True
        # What a replay reads: cells, learning rate, weight of the KL, share of it that has been reached.
        self.cells = torch.zeros(n_cells, dtype=torch.int64, device=self.device)
        self.rate, self.beta, self.kl_warmup = torch.zeros(3, dtype=torch.float32, device=self.device)
        lengths = np.sort(np.repeat(np.diff(counts.matrix.indptr), 2))  # where passes join, a cell can come twice
        self.room = int(lengths[-n_cells:].sum())
        self.stream, self.graph, self.steps = torch.cuda.Stream(self.device), torch.cuda.CUDAGraph(), 0

    def __call__(self, cells: NDArray[np.int64], rate: float, beta: float, kl_warmup: float = 1.0) -> Terms:
        with torch.cuda.device(self.device):
            return self._replayed(cells, rate, beta, kl_warmup)

    def _replayed(self, cells: NDArray[np.int64], rate: float, beta: float, kl_warmup: float) -> Terms:
        self.cells.copy_(torch.from_numpy(self.counts.rows(cells)))
        self.rate.fill_(rate)
        self.beta.fill_(beta)
        self.kl_warmup.fill_(kl_warmup)
        if self.steps < EAGER_STEPS:
            self.stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self.stream):
                self.terms = super().__call__(self.cells, self.rate, self.beta, self.kl_warmup)
            torch.cuda.current_stream().wait_stream(self.stream)
        else:
            if self.steps == EAGER_STEPS:
                self.graph.register_generator_state(self.generator)  # so that each replay draws on
                with torch.cuda.graph(self.graph, stream=self.stream):
                    self.terms = super().__call__(self.cells, self.rate, self.beta, self.kl_warmup)
            self.graph.replay()
        self.steps += 1
        return Terms(*(term.clone() for term in self.terms))

    def minibatch(self, cells: Tensor) -> Minibatch:
        return self.counts.padded(cells, self.room)


def to_device(counts: Counts, device: torch.device) -> tuple[Counts, Callable[..., Step]]:
    """Counts where steps find them fastest (on a CUDA device, if it has room for them), and what makes the steps."""
    if device.type == "cpu":
        return counts, step_on_cpu
    if isinstance(counts, StoredCounts) and not counts.complete:  # other counts are held as the fit goes on
        return counts, Step
    if device.type != "cuda" or counts.matrix.nnz * 6 > SHARE_OF_FREE_MEMORY * torch.cuda.mem_get_info(device)[0]:
        return counts, Step
    return DeviceCounts(counts, device), CapturedStep


def smallest_type(values: NDArray) -> type[np.generic]:
    """The smallest type that torch computes with and that holds all values, which are not negative."""
    if values.size and (values.dtype.kind == "f") and (values != np.rint(values)).any():
        return np.float32
    largest = values.max(initial=0)
    return next((t for t in (np.uint8, np.int16, np.int32) if largest <= np.iinfo(t).max), np.float32)
