"""Refusals of bad parameters, and random generators from seeds."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


def generator_of(rng: int | np.random.Generator | None) -> np.random.Generator:
    if isinstance(rng, bool) or not (rng is None or isinstance(rng, int | np.integer | np.random.Generator)):
        raise TypeError(
            f"rng must be an int, a numpy.random.Generator or None, found {rng!r}: pass a seed such as 0, or "
            "numpy.random.default_rng(0)."
        )
    if isinstance(rng, int | np.integer) and rng < 0:
        raise ValueError(f"rng must not be negative, found {rng}: pass a seed such as 0.")
    return np.random.default_rng(rng)


def check_whole(name: str, value: Any, high: int | None = None) -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{name} must be a whole number, found {value!r}: pass an int.")
    if value < 1 or (high is not None and value > high):
        wanted = "at least 1" if high is None else f"from 1 to {high}"
        raise ValueError(f"{name} must be {wanted}, found {value}.")


def check_number(
    name: str, value: Any, low: float, high: float = math.inf, *, open_low: bool = False, open_high: bool = False
) -> None:
    if isinstance(value, bool) or not isinstance(value, float | int | np.floating | np.integer):
        raise TypeError(f"{name} must be a number, found {value!r}.")
    inside = math.isfinite(value) and low <= value <= high
    if not inside or (open_low and value == low) or (open_high and value == high):
        wanted = f"{'above' if open_low else 'at least'} {low}"
        if high < math.inf:
            wanted += f" and {'below' if open_high else 'at most'} {high}"
        raise ValueError(f"{name} must be finite, {wanted}; found {value}.")


def check_table(name: str, value: ArrayLike, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """`value` as a float array of this shape (a single number is repeated): finite, not negative, not all zero."""
    try:
        table = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must hold numbers, found {value!r}.") from None
    if table.ndim == 0:
        table = np.full(shape, table)
    if table.shape != shape:
        axes = " x ".join(["n_batches", "n_types"][: len(shape)])
        raise ValueError(f"{name} must have shape {shape} ({axes}), found {table.shape}: pass one number for each.")
    if not np.isfinite(table).all() or table.min() < 0 or table.max() == 0:
        raise ValueError(f"{name} must hold finite numbers, none negative and not all zero; found {table.tolist()}.")
    return table
