"""What a fit does when the device has too little memory for its steps."""

from __future__ import annotations

import gc
from dataclasses import replace

import torch

from .loop import FitConfig

SAID = ("DefaultCPUAllocator: can't allocate memory", "out of memory")  # in a RuntimeError: by a CPU, by MPS
FEWEST = 16  # cells per step that a fit is tried with


def halved(options: FitConfig, n_cells: int, error: Exception) -> FitConfig:
    """The same fit with half the cells per step, to answer an error: raises it if it is another or they are too few."""
    if not (isinstance(error, torch.OutOfMemoryError | MemoryError) or any(text in str(error) for text in SAID)):
        raise error
    half = min(options.batch_size, n_cells) // 2
    if half < FEWEST:
        raise MemoryError(str(error)) from error
    return replace(options, batch_size=half)


def release(device: torch.device) -> None:
    """Give back what a fit that failed has held on the device."""
    gc.collect()
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.empty_cache()
