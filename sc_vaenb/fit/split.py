"""Which cells a fit sees: those it is fitted to, those held out, those it starts from."""

from __future__ import annotations

from itertools import islice
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..data.counts import cells_by_code, evenly, shuffled
from ..data.on_disk import WINDOW
from .overlap import sample_per_batch
from .state import FitConfig

N_INIT_CELLS = 4096  # cells whose mean expression and dispersion the model starts from
HELD_OUT = 2048  # cells at most: more would cost time and hardly sharpen the estimate of the loss


class Split(NamedTuple):
    """The cells that a fit is made from, those held out, those it starts from; and what draws the minibatches."""

    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    first: NDArray[np.int64]
    rng: np.random.Generator


def split_cells(batch_index: NDArray[np.int64], options: FitConfig, seed: int) -> Split:
    """All that chance decides of which cells a fit sees."""
    rng = np.random.default_rng(seed)
    train, validation = split(batch_index, options.validation_fraction, HELD_OUT, rng)
    return Split(train, validation, np.sort(rng.permutation(train)[:N_INIT_CELLS]), rng)


def split(
    batch_index: NDArray[np.int64], fraction: float, max_cells: int, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Cells to fit and cells held out, both sorted: about the same share of every batch, at least one cell to fit."""
    share = min(fraction, max_cells / len(batch_index))
    held_out = []
    for batch in cells_by_code(batch_index):
        cells = rng.permutation(batch)
        held_out.append(cells[: min(round(share * len(cells)), len(cells) - 1)])
    validation = np.sort(np.concatenate(held_out))
    return np.setdiff1d(np.arange(len(batch_index)), validation), validation


def cells_seen(batch_index: NDArray[np.int64], options: FitConfig, seed: int) -> tuple[NDArray[np.int64], bool]:
    """The cells that a fit of these batches needs in memory, sorted, and whether that is all it will see.

    They are drawn here as they will be by the fit, `find_overlap` and `refit_dispersion`.
    """
    train, validation, first, rng = split_cells(batch_index, options, seed)
    parts = [validation, first, evenly(len(batch_index)), *sample_per_batch(batch_index)]
    complete = min(options.n_steps * options.batch_size, len(train)) <= WINDOW
    if complete:
        parts += islice(shuffled(train, options.batch_size, rng), options.n_steps)
    return np.unique(np.concatenate(parts)), complete
