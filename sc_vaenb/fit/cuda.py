"""Steps that use a CUDA device fully: the counts are on the device, and the steps do not wait for Python.

A step is about two hundred kernels of a few microseconds each; Python launches them more slowly than the device runs
them. So a step is captured once as a CUDA graph and replayed. A graph needs constant shapes, so minibatches are padded.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..data.counts import Counts
from ..data.on_device import DeviceCounts
from ..model.minibatch import Minibatch
from ..model.vae import CountVAE, Terms
from .loop import Step
from .state import FitConfig
from .step_cpu import step_on_cpu

SHARE_OF_FREE_MEMORY = 0.7  # of the device, for the counts; the rest is for the model and its steps
EAGER_STEPS = 3  # before the capture, so that libraries and the optimiser allocate what they need


class CapturedStep(Step):
    """A step with counts on the device: the first few run eagerly, then one is captured and replayed."""

    counts: DeviceCounts

    def __init__(
        self, model: CountVAE, counts: Counts, options: FitConfig, n_cells: int, generator: torch.Generator
    ) -> None:
        super().__init__(model, counts, options, n_cells, generator)
        for group in self.optimizer.param_groups:
            group["capturable"] = True
        # Inputs of a replay: cells, learning rate, weight of the KL, fraction of the KL warm-up done.
        self.cells = torch.zeros(n_cells, dtype=torch.int64, device=self.device)
        self.rate, self.beta, self.kl_warmup = torch.zeros(3, dtype=torch.float32, device=self.device)
        # a cell can be twice in a minibatch, at the border of two passes
        lengths = np.sort(np.repeat(np.diff(counts.matrix.indptr), 2))
        self.max_nonzeros = int(lengths[-n_cells:].sum())
        self.stream, self.graph, self.steps = torch.cuda.Stream(self.device), torch.cuda.CUDAGraph(), 0

    def __call__(self, cells: NDArray[np.int64], rate: float, beta: float, kl_warmup: float = 1.0) -> Terms:
        with torch.cuda.device(self.device):
            return self._run(cells, rate, beta, kl_warmup)

    def _run(self, cells: NDArray[np.int64], rate: float, beta: float, kl_warmup: float) -> Terms:
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
                self.graph.register_generator_state(self.generator)  # so that each replay draws new numbers
                with torch.cuda.graph(self.graph, stream=self.stream):
                    self.terms = super().__call__(self.cells, self.rate, self.beta, self.kl_warmup)
            self.graph.replay()
        self.steps += 1
        return Terms(*(term.clone() for term in self.terms))

    def minibatch(self, cells: Tensor) -> Minibatch:
        return self.counts.padded(cells, self.max_nonzeros)


def to_device(counts: Counts, device: torch.device) -> tuple[Counts, Callable[..., Step]]:
    """Counts where steps read them fastest (on a CUDA device with enough memory), and a function that makes a step."""
    if device.type == "cpu":
        return counts, step_on_cpu
    if not counts.complete or counts.peaks is not None:  # the cells in memory change; a captured step knows no peaks
        return counts, Step
    if device.type != "cuda" or counts.matrix.nnz * 6 > SHARE_OF_FREE_MEMORY * torch.cuda.mem_get_info(device)[0]:
        return counts, Step
    return DeviceCounts(counts, device), CapturedStep
