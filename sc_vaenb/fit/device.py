"""The device, threads and random generators of a computation."""

from __future__ import annotations

import gc
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import TypeVar

import torch
from numpy.typing import NDArray
from torch import Tensor

from .._session import counting

S = TypeVar("S")
T = TypeVar("T")
SMALL_STEP = 2**20  # cells times genes of a minibatch up to which a step has one thread


def resolve_device(name: str) -> torch.device:
    """`"auto"` takes CUDA, else MPS, else CPU; any other name is torch's name of a device."""
    if name != "auto":
        is_available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
        try:
            device = torch.device(name)
        except (RuntimeError, TypeError):
            device = None
        if device is None or not is_available.get(device.type) or (device.index or 0) >= _count(device):
            choices = ["auto", *(kind for kind, available in is_available.items() if available)]
            msg = f"device={name!r} is not available here. Choose one of {choices}, or an index such as 'cuda:0'."
            raise ValueError(msg)
        return device
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def tensor_of(values: NDArray, device: torch.device | str = "cpu") -> Tensor:
    """An array as a tensor on the device, in memory of torch's own.

    Products of matrices may round differently with another alignment of memory, which NumPy leaves to chance.
    """
    return torch.from_numpy(values).clone().to(device)


def threads_of_a_step(n_cells: int, n_genes: int) -> int | None:
    """The most threads of a training step: one for usual minibatches, None (no limit) for large ones.

    The threads of a small step wait for each other many times. Where another process needs a processor, such a step
    takes several times as long as on one thread. On one thread, results do not depend on the number of processors.
    """
    return 1 if n_cells * n_genes <= SMALL_STEP else None


def _count(device: torch.device) -> int:
    return torch.cuda.device_count() if device.type == "cuda" else 1


@contextmanager
def threads_as_asked(at_most: int | None = None) -> Iterator[None]:
    """Limit torch, in a block, to the threads that the process may use, or to fewer.

    numba, which scanpy uses, shares torch's thread pool and resizes it to all processors, in the thread that calls it.
    If there are more threads than the job may use processors, small steps are many times slower and round differently.
    So a block has at most the threads that a new thread starts with, and at most OMP_NUM_THREADS.
    """
    n_before, environment = torch.get_num_threads(), os.environ.get("OMP_NUM_THREADS", "")
    with counting():
        n_default = _enter()
    n_max = int(environment) if environment.isdecimal() and int(environment) else n_default
    if (n_threads := min(n_before, n_default, n_max, at_most or n_max)) != n_before:
        torch.set_num_threads(n_threads)
    try:
        yield
    finally:
        if n_threads != n_before:
            torch.set_num_threads(n_before)
        with counting():
            _leave(changed=n_threads != n_before)


class _Blocks:
    """Number of running blocks, threads that a new thread starts with outside blocks, and whether a block changed it.

    A new thread starts with the number of threads that torch was given last, in any thread.
    """

    n_running, n_default, changed = 0, 0, False


def _enter() -> int:
    if not _Blocks.n_running:
        _Blocks.n_default = _in_new_thread(torch.get_num_threads)
    _Blocks.n_running += 1
    return _Blocks.n_default


def _leave(changed: bool) -> None:
    _Blocks.n_running, _Blocks.changed = _Blocks.n_running - 1, _Blocks.changed or changed
    if not _Blocks.n_running and _Blocks.changed:
        _in_new_thread(lambda: torch.set_num_threads(_Blocks.n_default))
        _Blocks.changed = False


def in_parallel(function: Callable[[S], T], items: Iterable[S], device: torch.device) -> Iterator[T]:
    """Results of a function for each item, in order; on a CPU, several items at a time, each on one thread.

    So the results do not depend on the number of threads, and no thread waits for another.
    """
    with threads_as_asked():
        n_threads = 1 if device.type != "cpu" else torch.get_num_threads()
    with threads_as_asked(1 if device.type == "cpu" else None), ExitStack() as stack:
        if n_threads == 1:
            yield from map(function, items)
            return
        pool = stack.enter_context(ThreadPoolExecutor(n_threads))
        running: deque[Future[T]] = deque()
        for item in items:
            running.append(pool.submit(function, item))
            if len(running) > n_threads:
                yield running.popleft().result()
        for future in running:
            yield future.result()


def _in_new_thread(call: Callable[[], T]) -> T:
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(call).result()


def generators(seed: int, device: torch.device) -> dict[str, torch.Generator]:
    """The random generators of a computation by kind of device. Torch's global generator is not used: threads share it.

    Initial weights are drawn on the CPU, noise on the device; on a CPU both use one generator.
    """
    devices = {"cpu": torch.device("cpu"), device.type: device}
    return {kind: generator(seed, kind_device) for kind, kind_device in devices.items()}


def generator(seed: int, device: torch.device) -> torch.Generator:
    """A new random generator on a device."""
    return torch.Generator(device).manual_seed(seed)


def normal_like(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Standard normal numbers with the shape, type and device of `x`."""
    return torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)


def release(device: torch.device) -> None:
    """Free the memory that a failed fit used on the device."""
    gc.collect()
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.empty_cache()
