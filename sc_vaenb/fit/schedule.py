"""Schedules over the steps of a fit, and defaults that depend on the data."""

from __future__ import annotations

import math

DEFAULT_RATE = 6e-3  # peak of the learning rate
MIN_STEPS, MAX_STEPS = 40, 700
ENOUGH_GENES = 500  # with fewer genes of the same total depth a fit takes more steps
RISE = 0.15  # share of the steps in which the learning rate rises
PASSES = 28  # over the cells, with 128 cells per step


def default_steps(n_cells: int, n_genes: int, depth: float) -> int:
    """Steps of a fit of cells with this depth (median total count): 28 passes plus 2 sqrt(depth) steps, at most 700.

    Because of the maximum, a fit of a million cells costs as much as one of six thousand. More passes overfit few
    cells: with 400 steps or more, embeddings of 60 to 1,500 cells, simulated and real, were mostly worse than PCA. Deep
    counts take more steps to learn and are overfitted later, because their noise is smaller by the square root of the
    depth. Below 500 genes, the depth per gene counts.
    """
    n_for_depth = 2 * (depth * max(1.0, ENOUGH_GENES / n_genes)) ** 0.5
    return min(max(round(n_for_depth) + PASSES * n_cells // 128, MIN_STEPS), MAX_STEPS)


def default_weight_decay(n_cells: int) -> float:
    """Weight decay of a fit of so many cells; it sets how many passes over the cells the weights remember.

    Wang & Aitchison 2024, "How to set AdamW's weight decay as you scale model and dataset size", arXiv:2405.13698.
    """
    return min(1800 / n_cells, 2.0)


def one_cycle(step: int, n_steps: int) -> float:
    """Learning rate as a share of its peak: linear from 1/25 over the first 15 % of steps, then a cosine to nearly 0.

    Smith & Topin 2019, "Super-convergence".
    """
    progress = (step + 1) / n_steps
    if progress < RISE:
        return 0.04 + 0.96 * progress / RISE
    return max(0.5 * (1 + math.cos(math.pi * (progress - RISE) / (1 - RISE))), 1e-3)


def warm_up(step: int, n_steps: int, share: float) -> float:
    """Weight of the KL as a share of its final value: linear over the first `share` of the steps."""
    return min(1.0, (step + 1) / (share * n_steps)) if share > 0 else 1.0
