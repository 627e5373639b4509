"""One fit by several processes, as torchrun starts them, each with a device of its own.

All draw the same minibatches and the same noise from the same seed, and each computes its part of every minibatch. The
gradients are added up, weighted by the cells of each part, so that the fit is that of one process but for rounding.
(torch's DistributedDataParallel would weight all parts equally, which is wrong for parts of unequal size.)
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
ENVIRONMENT = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")  # what torchrun tells a process
PATIENCE = timedelta(minutes=30)  # with a process that is there but does not answer; of one that ends all know at once
fits = count()  # of this process: the keys that processes meet by must be new each time, also when torchrun restarts


def rank_and_size() -> tuple[int, int]:
    """Which process of how many this is: (0, 1) where there is but one."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    if all(name in os.environ for name in ENVIRONMENT):
        return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    return 0, 1


def own_device(name: str) -> torch.device:
    """As `resolve_device`, but of several processes on a machine each gets a CUDA device of its own."""
    device, (rank, size) = resolve_device(name), rank_and_size()
    if size == 1 or device.type == "cpu":
        return device
    if device.type == "mps" and name == "auto":
        return torch.device("cpu")
    local, there = int(os.environ.get("LOCAL_RANK", rank)), torch.cuda.device_count()
    if device.type != "cuda" or device.index is not None:
        msg = f"device={name!r} cannot be that of each of {size} processes. Pass device='auto', 'cuda' or 'cpu'."
        raise ValueError(msg)
    if local >= there:
        msg = (
            f"Process {rank} of {size} has no CUDA device of its own: this machine has {there}. "
            f"Start as many (torchrun --nproc-per-node {there}), or pass device='cpu'."
        )
        raise ValueError(msg)
    return torch.device("cuda", local)


@dataclass(frozen=True)
class Processes:
    """Those that share a fit, seen from one of them; by default it is alone, and nothing is exchanged."""

    rank: int = 0
    size: int = 1
    group: Any = None

    def part(self, n: int) -> slice:
        """Of `n` cells, those of this process; the parts are as equal as can be, and some are empty if n is small."""
        return self._part(self.rank, n)

    def _part(self, rank: int, n: int) -> slice:
        return slice(n * rank // self.size, n * (rank + 1) // self.size)

    def first(self, make: Callable[[], T]) -> T:
        """What the first process makes, or the error that it meets, for all of them."""
        if self.size == 1:
            return make()
        found: list[Any] = [None, None]
        if self.rank == 0:
            try:
                found[0] = make()
            except Exception as error:  # whatever it is, the others must not wait
                found[1] = error
        with _all_answer():
            dist.broadcast_object_list(found, src=0, group=self.group)
        if found[1] is not None:
            raise found[1]
        return found[0]

    def each(self, make: Callable[[], T]) -> T:
        """What this process makes; if any of them meets an error, that of the first such one for all of them."""
        if self.size == 1:
            return make()
        made, error = None, None
        try:
            made = make()
        except Exception as own:  # whatever it is, the others must not wait
            error = own
        errors: list[Any] = [None] * self.size
        with _all_answer():
            dist.all_gather_object(errors, error, group=self.group)
        for met in errors:
            if met is not None:
                raise met
        return cast(T, made)

    def check_same(self, about: dict[str, Any]) -> None:
        """Refuse to share a fit of different data or arguments."""
        if self.size == 1:
            return
        all_of_them: list[Any] = [None] * self.size
        with _all_answer():
            dist.all_gather_object(all_of_them, about, group=self.group)
        for rank, other in enumerate(all_of_them):
            if other != all_of_them[0]:
                names = {**all_of_them[0], **other}
                differing = [name for name in names if other.get(name) != all_of_them[0].get(name)]
                msg = (
                    f"The {self.size} processes of one fit were given different things: process {rank} differs from "
                    f"process 0 in {', '.join(differing)}. Give all the same data and arguments; for a fit of its own "
                    "in each, start them without torchrun."
                )
                raise ValueError(msg)

    def average(self, tensors: Sequence[Tensor], share: float) -> None:
        """Replace tensors by their sum over the processes, each weighted by its share; all at once."""
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

    def gather(self, own: NDArray[np.float32], n: int) -> NDArray[np.float32]:
        """The rows of all `n` cells, of which each process has made its part."""
        if self.size == 1:
            return own
        rows = np.empty((n, *own.shape[1:]), own.dtype)
        rows[self.part(n)] = own
        with _all_answer():
            for rank in range(self.size):
                if len(part := rows[self._part(rank, n)]):
                    dist.broadcast(torch.from_numpy(part), src=rank, group=self.group)
        return rows

    def join(self, own: NDArray) -> NDArray:
        """The arrays of all processes, of any lengths, one after the other."""
        if self.size == 1:
            return own
        lengths: list[Any] = [None] * self.size
        with _all_answer():
            dist.all_gather_object(lengths, len(own), group=self.group)
            ends = np.cumsum([0, *lengths])
            joined = np.empty(ends[-1], own.dtype)
            joined[ends[self.rank] : ends[self.rank + 1]] = own
            for rank in range(self.size):
                if len(part := joined[ends[rank] : ends[rank + 1]]):
                    dist.broadcast(torch.from_numpy(part.view(np.uint8)), src=rank, group=self.group)
        return joined


@contextmanager
def process_group(device: torch.device) -> Iterator[Processes]:
    """The processes that share the fit in a block, connected for as long."""
    rank, size = rank_and_size()
    if size == 1:
        yield Processes()
        return
    # gloo carries what is on the CPU (objects, embeddings) in any case
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    with _all_answer():
        if dist.is_initialized():
            group = dist.new_group(backend=backend, timeout=PATIENCE)
        else:
            store = next(dist.rendezvous("env://", timeout=PATIENCE))[0]
            start = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
            store = dist.PrefixStore(f"sc_vaenb/{start}/{next(fits)}", store)
            dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=PATIENCE)
            group = dist.group.WORLD
    try:
        yield Processes(rank, size, group)
    finally:
        dist.destroy_process_group(group)


@contextmanager
def _all_answer() -> Iterator[None]:
    """Say in plain words that another process has not answered."""
    try:
        yield
    except RuntimeError as error:  # as which torch reports it, of each backend with another text
        rank, size = rank_and_size()
        msg = (
            f"Process {rank} of {size} cannot go on: another one has ended, or cannot be reached ({error}). "
            "Its own message says why. With a checkpoint, the same command goes on where the fit was."
        )
        raise ConnectionError(msg) from error


class SharedStep(Step):
    """A step of which each process computes its part of the cells."""

    alone = False

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
        if not self.share:  # one cell, which counts nothing, so that there are gradients to add
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
    """The same, for which each process goes through its part of the cells; all have what all of them find."""
    processes.check_same({"counts": [n_cells, n_genes], "cells that the fit sees": [len(cells), checksum(cells)]})
    part = processes.part(n_cells)
    here = cells[np.searchsorted(cells, part.start) : np.searchsorted(cells, part.stop)] - part.start
    found = processes.each(lambda: scan(blocks(part), n_genes, here))
    if processes.size == 1:
        return found
    seen: NDArray[np.bool_] = np.any(processes.join(found.seen).reshape(processes.size, n_genes), axis=0)
    lengths, gene, count = map(processes.join, (np.diff(found.matrix.indptr), found.matrix.indices, found.matrix.data))
    pointer = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    matrix = sparse.csr_matrix((count, gene, pointer), shape=(len(cells), n_genes))
    return Scan(processes.join(found.depth), seen, matrix)
