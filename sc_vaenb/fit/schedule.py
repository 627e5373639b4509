"""What depends on the step, and how many steps there are."""

from __future__ import annotations

import math


def default_steps(n_cells: int) -> int:
    """Steps of a fit: a budget, not a number of passes, so that a million cells cost what ten thousand do."""
    return 1000


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
