"""What depends on the step, and what a fit takes from the number of cells."""

from __future__ import annotations

import math

DEFAULT_RATE = 6e-3  # peak of the learning rate
MIN_STEPS, MAX_STEPS = 40, 700
ENOUGH_GENES = 500  # more genes of the same depth in all take no fewer steps
PASSES = 16  # over the cells, of 128 a step


def default_steps(n_cells: int, n_genes: int, depth: float) -> int:
    """Steps of a fit to cells of this depth (median of their counts): 16 passes and 2 sqrt(depth) steps, at most 700.

    The budget makes a million cells cost what six thousand do. More passes overfit few cells: with 400 steps and
    more, embeddings of 60 to 1,500 cells, simulated and real, were mostly worse than PCA. Deep counts take more steps
    to learn, and are overfitted later: their noise is smaller, by the square root of the depth. Below 500 genes what
    matters is the depth of a gene.
    """
    of_depth = 2 * (depth * max(1.0, ENOUGH_GENES / n_genes)) ** 0.5
    return min(max(round(of_depth) + PASSES * n_cells // 128, MIN_STEPS), MAX_STEPS)


def default_weight_decay(n_cells: int) -> float:
    """Weight decay of a fit to so many cells: what matters is how many passes over them the weights remember.

    Wang & Aitchison 2024, "How to set AdamW's weight decay as you scale model and dataset size", arXiv:2405.13698.
    """
    return min(1800 / n_cells, 2.0)


def one_cycle(step: int, n_steps: int, rise: float = 0.15) -> float:
    """Learning rate as a share of its peak: from 1/25 up over the first `rise` of the steps, then a cosine to nearly 0.

    Smith & Topin 2019, "Super-convergence".
    """
    at = (step + 1) / n_steps
    if at < rise:
        return 0.04 + 0.96 * at / rise
    return max(0.5 * (1 + math.cos(math.pi * (at - rise) / (1 - rise))), 1e-3)


def warm_up(step: int, n_steps: int, share: float) -> float:
    """Weight of the KL as a share of its final value: linear over the first `share` of the steps."""
    return min(1.0, (step + 1) / (share * n_steps)) if share > 0 else 1.0
