"""Which cells a fit uses: for training, for validation, and to initialise the model."""

from __future__ import annotations

from itertools import islice
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..data.counts import cells_by_code, evenly_spread, shuffled
from ..data.on_disk import WINDOW
from .overlap import sample_per_batch
from .state import FitConfig

N_INIT_CELLS = 4096  # cells at most whose mean expression and dispersion initialise the model
MAX_CELLS_HELD_OUT = 2048  # held-out cells at most: more take time and hardly sharpen the estimate of the loss


class Split(NamedTuple):
    """Cells for training, cells held out, cells that initialise the model; and the generator that draws minibatches."""

    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    init: NDArray[np.int64]
    rng: np.random.Generator


def split_cells(batch_index: NDArray[np.int64], options: FitConfig, seed: int) -> Split:
    """Draw the cells of a fit; the generator returned goes on to draw its minibatches."""
    rng = np.random.default_rng(seed)
    train, validation = split(batch_index, options.validation_fraction, MAX_CELLS_HELD_OUT, rng)
    return Split(train, validation, np.sort(rng.permutation(train)[:N_INIT_CELLS]), rng)


def split(
    batch_index: NDArray[np.int64], fraction: float, max_cells: int, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Training and held-out cells, both sorted: about the same share of every batch, but one training cell or more."""
    share = min(fraction, max_cells / len(batch_index))
    held_out = []
    for cells in cells_by_code(batch_index):
        shuffled_cells = rng.permutation(cells)
        held_out.append(shuffled_cells[: min(round(share * len(cells)), len(cells) - 1)])
    validation = np.sort(np.concatenate(held_out))
    return np.setdiff1d(np.arange(len(batch_index)), validation), validation


def cells_seen(batch_index: NDArray[np.int64], options: FitConfig, seed: int) -> tuple[NDArray[np.int64], bool]:
    """The cells that a fit of these batches needs in memory, sorted, and whether the fit uses no others.

    They are drawn in the same way as in the fit, `find_overlap` and `refit_dispersion`.
    """
    train, validation, init, rng = split_cells(batch_index, options, seed)
    cells = [validation, init, evenly_spread(len(batch_index)), *sample_per_batch(batch_index)]
    complete = min(options.n_steps * options.batch_size, len(train)) <= WINDOW
    if complete:
        cells += islice(shuffled(train, options.batch_size, rng), options.n_steps)
    return np.unique(np.concatenate(cells)), complete
