"""Where the computation runs, and the random state it may use."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch


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
    """Hold torch to OMP_NUM_THREADS, where that is set, for a block.

    numba, which scanpy uses, shares torch's pool of threads and resizes it to all processors. Small steps on more
    threads than a job was given processors are many times slower.
    """
    before, asked = torch.get_num_threads(), os.environ.get("OMP_NUM_THREADS", "")
    if asked.isdecimal() and 0 < int(asked) < before:
        torch.set_num_threads(int(asked))
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def own_random_state(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch for a block (weights and dropout draw from the global state) and put everything back after it."""
    own = generators(device).values()
    before = [generator.get_state() for generator in own]
    try:
        for generator in own:
            generator.manual_seed(seed)
        yield
    finally:
        for generator, state in zip(own, before, strict=True):
            generator.set_state(state)


def generators(device: torch.device) -> dict[str, torch.Generator]:
    """The global random states that a computation on a device draws from, by the kind of device."""
    found = {"cpu": torch.default_generator}
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        found["cuda"] = torch.cuda.default_generators[index]
    elif device.type == "mps":
        found["mps"] = torch.mps._get_default_mps_generator()
    return found
