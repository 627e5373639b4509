"""Where the computation runs, and the random state it may use."""

from __future__ import annotations

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
def own_random_state(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch for a block (weights and dropout draw from the global state) and put everything back after it."""
    devices = [] if device.type == "cpu" else [device.index or 0]
    with torch.random.fork_rng(devices, device_type="cuda" if device.type == "cpu" else device.type):
        torch.manual_seed(seed)
        yield
