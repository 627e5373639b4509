"""Where the computation runs, and the random state it may use."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

from .._session import counting

T = TypeVar("T")


def resolve_device(name: str) -> torch.device:
    """`"auto"` takes CUDA, then MPS, then CPU; anything else is torch's name of a device."""
    if name != "auto":
        available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
        try:
            device = torch.device(name)
        except (RuntimeError, TypeError):
            device = None
        if device is None or not available.get(device.type) or (device.index or 0) >= _count(device):
            found = ["auto", *(kind for kind, there in available.items() if there)]
            msg = f"device={name!r} is not available here. Choose one of {found}, or an index such as 'cuda:0'."
            raise ValueError(msg)
        return device
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def _count(device: torch.device) -> int:
    return torch.cuda.device_count() if device.type == "cuda" else 1


@contextmanager
def threads_as_asked() -> Iterator[None]:
    """Hold torch to the threads that the process was given, for a block.

    numba, which scanpy uses, shares torch's pool of threads and resizes it, in the thread that calls it, to all
    processors. Small steps on more threads than a job was given processors are many times slower, and round otherwise.
    So a block has no more threads than a new thread begins with, nor than OMP_NUM_THREADS says.
    """
    before, asked = torch.get_num_threads(), os.environ.get("OMP_NUM_THREADS", "")
    with counting():
        usual = _enter()
    most = int(asked) if asked.isdecimal() and int(asked) else usual
    if (wanted := min(before, usual, most)) != before:
        torch.set_num_threads(wanted)
    try:
        yield
    finally:
        if wanted != before:
            torch.set_num_threads(before)
        with counting():
            _leave(changed=wanted != before)


class _Blocks:
    """How many are being computed, and with how many threads new ones begin in between: what torch was told last."""

    n, usual, changed = 0, 0, False


def _enter() -> int:
    if not _Blocks.n:
        _Blocks.usual = _in_new_thread(torch.get_num_threads)
    _Blocks.n += 1
    return _Blocks.usual


def _leave(changed: bool) -> None:
    _Blocks.n, _Blocks.changed = _Blocks.n - 1, _Blocks.changed or changed
    if not _Blocks.n and _Blocks.changed:
        _in_new_thread(lambda: torch.set_num_threads(_Blocks.usual))
        _Blocks.changed = False


def _in_new_thread(call: Callable[[], T]) -> T:
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(call).result()


def generators(seed: int, device: torch.device) -> dict[str, torch.Generator]:
    """What a computation draws from, by the kind of device: never from torch's global state, which all threads share.

    First weights are drawn on the CPU, noise on the device; on a CPU both come from one stream.
    """
    kinds = {"cpu": torch.device("cpu"), device.type: device}
    return {kind: generator(seed, place) for kind, place in kinds.items()}


def generator(seed: int, device: torch.device) -> torch.Generator:
    """A stream of random numbers on a device, of its own."""
    return torch.Generator(device).manual_seed(seed)


def normal_like(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Standard normal numbers of the same shape and type."""
    return torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)


def release(device: torch.device) -> None:
    """Give back what a fit that failed has held on the device."""
    gc.collect()
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.empty_cache()
