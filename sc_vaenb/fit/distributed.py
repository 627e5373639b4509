"""One fit by several processes that torchrun starts, each with its own device.

All processes draw the same minibatches and the same noise from the same seed, and each computes its part of every
minibatch. The gradients are summed with the share of cells in each part as weights. So the fit is the same as in one
process, except for rounding. (torch's DistributedDataParallel would weight all parts equally, which is wrong for parts
of unequal size.)
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from itertools import count
from typing import Any, TypeVar, cast

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from ..data.counts import Counts, checksum
from ..data.on_disk import Scan, scan
from ..model.minibatch import Minibatch
from ..model.vae import CountVAE, Terms
from .device import resolve_device
from .loop import Step
from .state import FitConfig

T = TypeVar("T")
ENVIRONMENT = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")  # that torchrun sets
PATIENCE = timedelta(minutes=30)  # to wait for a process that does not answer; if one ends, all know at once
fits = count()  # numbers the fits of this process, because each fit needs a new key for the rendezvous


def rank_and_size() -> tuple[int, int]:
    """The rank of this process and the number of processes: (0, 1) if there is only one."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    if all(name in os.environ for name in ENVIRONMENT):
        return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    return 0, 1


def own_device(name: str) -> torch.device:
    """As `resolve_device`, but each of several processes on a machine gets its own CUDA device."""
    device, (rank, size) = resolve_device(name), rank_and_size()
    if size == 1 or device.type == "cpu":
        return device
    if device.type == "mps" and name == "auto":
        return torch.device("cpu")
    local_rank, n_devices = int(os.environ.get("LOCAL_RANK", rank)), torch.cuda.device_count()
    if device.type != "cuda" or device.index is not None:
        msg = f"device={name!r} cannot be shared by {size} processes. Pass device='auto', 'cuda' or 'cpu'."
        raise ValueError(msg)
    if local_rank >= n_devices:
        msg = (
            f"Process {rank} of {size} has no CUDA device of its own: this machine has {n_devices}. "
            f"Start as many (torchrun --nproc-per-node {n_devices}), or pass device='cpu'."
        )
        raise ValueError(msg)
    return torch.device("cuda", local_rank)


@dataclass(frozen=True)
class Processes:
    """The processes of one fit, as one of them sees them; by default this is the only one, and exchanges nothing."""

    rank: int = 0
    size: int = 1
    group: Any = None

    def part(self, n: int) -> slice:
        """The part of `n` cells that this process computes; parts are about equal, and some are empty if n is small."""
        return self._part(self.rank, n)

    def _part(self, rank: int, n: int) -> slice:
        return slice(n * rank // self.size, n * (rank + 1) // self.size)

    def first(self, make: Callable[[], T]) -> T:
        """Call `make` in the first process; its result is returned, or its error raised, in all processes."""
        if self.size == 1:
            return make()
        result_and_error: list[Any] = [None, None]
        if self.rank == 0:
            try:
                result_and_error[0] = make()
            except Exception as error:  # of any kind: the others must not wait
                result_and_error[1] = error
        with _all_answer():
            dist.broadcast_object_list(result_and_error, src=0, group=self.group)
        if result_and_error[1] is not None:
            raise result_and_error[1]
        return result_and_error[0]

    def each(self, make: Callable[[], T]) -> T:
        """Call `make` in every process and return its own result; if any fails, all raise the error of the first."""
        if self.size == 1:
            return make()
        result, local_error = None, None
        try:
            result = make()
        except Exception as error:  # of any kind: the others must not wait
            local_error = error
        errors: list[Any] = [None] * self.size
        with _all_answer():
            dist.all_gather_object(errors, local_error, group=self.group)
        for first_error in errors:
            if first_error is not None:
                raise first_error
        return cast(T, result)

    def check_same(self, about: dict[str, Any]) -> None:
        """Refuse a fit if the processes have different data or arguments."""
        if self.size == 1:
            return
        all_about: list[Any] = [None] * self.size
        with _all_answer():
            dist.all_gather_object(all_about, about, group=self.group)
        for rank, other in enumerate(all_about):
            if other != all_about[0]:
                names = {**all_about[0], **other}
                differing = [name for name in names if other.get(name) != all_about[0].get(name)]
                msg = (
                    f"The {self.size} processes of one fit were given different things: process {rank} differs from "
                    f"process 0 in {', '.join(differing)}. Give all the same data and arguments; for a fit of its own "
                    "in each, start them without torchrun."
                )
                raise ValueError(msg)

    def average(self, tensors: Sequence[Tensor], share: float) -> None:
        """Replace tensors by their sum over processes, weighted by the share of each; all tensors in one message."""
        joined = torch.cat([tensor.reshape(-1) for tensor in tensors]).mul_(share)
        with _all_answer():
            dist.all_reduce(joined, group=self.group)
        parts = joined.split([tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view_as(tensor))

    def broadcast(self, tensors: Iterable[Tensor]) -> None:
        """Replace tensors by those of the first process."""
        with _all_answer():
            for tensor in tensors:
                if tensor.numel():
                    dist.broadcast(tensor, src=0, group=self.group)

    def gather(self, local_rows: NDArray[np.float32], n: int) -> NDArray[np.float32]:
        """The rows of all `n` cells; each process gives those of its part."""
        if self.size == 1:
            return local_rows
        rows = np.empty((n, *local_rows.shape[1:]), local_rows.dtype)
        rows[self.part(n)] = local_rows
        with _all_answer():
            for rank in range(self.size):
                if len(part := rows[self._part(rank, n)]):
                    dist.broadcast(torch.from_numpy(part), src=rank, group=self.group)
        return rows

    def join(self, local: NDArray) -> NDArray:
        """Concatenate the arrays of all processes, which may have different lengths."""
        if self.size == 1:
            return local
        lengths: list[Any] = [None] * self.size
        with _all_answer():
            dist.all_gather_object(lengths, len(local), group=self.group)
            ends = np.cumsum([0, *lengths])
            joined = np.empty(ends[-1], local.dtype)
            joined[ends[self.rank] : ends[self.rank + 1]] = local
            for rank in range(self.size):
                if len(part := joined[ends[rank] : ends[rank + 1]]):
                    dist.broadcast(torch.from_numpy(part.view(np.uint8)), src=rank, group=self.group)
        return joined


@contextmanager
def process_group(device: torch.device) -> Iterator[Processes]:
    """Connect the processes of a fit for the duration of a block."""
    rank, size = rank_and_size()
    if size == 1:
        yield Processes()
        return
    # gloo always transfers what is on the CPU (objects, embeddings)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    with _all_answer():
        if dist.is_initialized():
            group = dist.new_group(backend=backend, timeout=PATIENCE)
        else:
            store = next(dist.rendezvous("env://", timeout=PATIENCE))[0]
            n_restarts = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
            store = dist.PrefixStore(f"sc_vaenb/{n_restarts}/{next(fits)}", store)
            dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=PATIENCE)
            group = dist.group.WORLD
    try:
        yield Processes(rank, size, group)
    finally:
        dist.destroy_process_group(group)


@contextmanager
def _all_answer() -> Iterator[None]:
    """Raise an error with a clear message if another process does not answer."""
    try:
        yield
    except RuntimeError as error:  # torch raises it, with a different text for each backend
        rank, size = rank_and_size()
        msg = (
            f"Process {rank} of {size} cannot go on: another one has ended, or cannot be reached ({error}). "
            "Its own message says why. With a checkpoint, the same command goes on where the fit was."
        )
        raise ConnectionError(msg) from error


class SharedStep(Step):
    """A step in which each process computes its part of the cells."""

    is_distributed = True

    def __init__(
        self,
        processes: Processes,
        model: CountVAE,
        counts: Counts,
        options: FitConfig,
        n_cells: int,
        generator: torch.Generator,
    ) -> None:
        super().__init__(model, counts, options, n_cells, generator)
        self.processes, self.n_cells, self.part = processes, n_cells, processes.part(n_cells)
        self.share = (self.part.stop - self.part.start) / n_cells
        if not self.share:  # take one cell with weight 0, so that there are gradients to sum
            self.part = slice(0, 1)
        self.broadcast(model.state_dict().values())

    def all_reduce(self, terms: Terms) -> None:
        gradients = [parameter.grad for parameter in self.model.parameters() if parameter.grad is not None]
        self.processes.average([*gradients, *terms], self.share)

    def broadcast(self, tensors: Iterable[Tensor]) -> None:
        self.processes.broadcast(tensors)

    def minibatch(self, cells: NDArray[np.int64]) -> Minibatch:
        batch = super().minibatch(cells[self.part])
        batch.part_of = (self.part.start, self.n_cells)
        return batch


def scan_together(
    processes: Processes,
    blocks: Callable[[slice], Iterator[sparse.csr_matrix]],
    n_genes: int,
    n_cells: int,
    cells: NDArray[np.int64],
) -> Scan:
    """As `scan`, but each process scans its part of the cells; the result, in all processes, is for all cells."""
    processes.check_same({"counts": [n_cells, n_genes], "cells that the fit sees": [len(cells), checksum(cells)]})
    part = processes.part(n_cells)
    local_cells = cells[np.searchsorted(cells, part.start) : np.searchsorted(cells, part.stop)] - part.start
    local = processes.each(lambda: scan(blocks(part), n_genes, local_cells))
    if processes.size == 1:
        return local
    seen: NDArray[np.bool_] = np.any(processes.join(local.seen).reshape(processes.size, n_genes), axis=0)
    lengths, gene, count = map(processes.join, (np.diff(local.matrix.indptr), local.matrix.indices, local.matrix.data))
    pointer = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    matrix = sparse.csr_matrix((count, gene, pointer), shape=(len(cells), n_genes))
    return Scan(processes.join(local.depth), seen, matrix)
