"""The record of a fit while it runs, and the verdict at its end."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ..model.vae import Terms
from .convergence import judge
from .stability import LR_DIVISOR_STEP

MIN_ROWS, MAX_ROWS = 20, 50  # rows of the history, if the fit has as many steps
MIN_KL_ACTIVE = 0.01  # nats; a latent dimension with less KL carries no information
MAX_RISE = 1e-2  # of the held-out loss above its minimum, as a share of it; the message reports a larger rise


@dataclass(frozen=True)
class Verdict:
    """How a fit ended: `status` for programs, `message` for people."""

    status: str  # converged, still_improving, overfitted, worse_than_pca, not_judged, stopped_early, interrupted
    posterior_collapse: bool
    best_step: int  # the step with the lowest loss
    kept_step: int  # the step whose weights the model has
    setbacks: int  # how often the fit went back to earlier weights and a lower learning rate
    message: str


class History:
    """One row per evaluation: about one per pass over the cells, but between 20 and 50 in a fit."""

    def __init__(self, per_step: float, n_steps: int, beta: float, penalties: Iterable[str] = ()) -> None:
        self.per_step, self.n_steps = per_step, n_steps  # passes over the cells per step; planned steps
        self.beta = beta  # weight of the KL in the loss that the verdict is based on
        self.penalties = tuple(penalties)
        self.interval = int(np.clip(round(1 / per_step), max(n_steps // MAX_ROWS, 1), max(n_steps // MIN_ROWS, 1)))
        self.rows: list[dict[str, float]] = []
        self.kl_per_dim: list[NDArray[np.float32]] = []
        self.start = time.perf_counter()
        self._sums: list[torch.Tensor] = []
        self._steps = 0

    def add(self, terms: Terms) -> None:
        """Add the terms of a training step. They stay on the device, because a copy to the CPU would wait for it."""
        values = [term.detach() for term in terms]
        self._sums = [total + value for total, value in zip(self._sums, values, strict=True)] if self._sums else values
        self._steps += 1

    def is_due(self, step: int) -> bool:
        return (step + 1) % self.interval == 0 or step + 1 == self.n_steps

    def record(
        self, step: int, beta: float, learning_rate: float, held_out: Terms | None, explained: float = float("nan")
    ) -> None:
        loss, reconstruction, kl, penalties = (total.cpu().numpy() / self._steps for total in self._sums)
        row = {
            "step": step + 1,
            "epoch": (step + 1) * self.per_step,
            "train_loss": float(loss),
            "train_reconstruction": float(reconstruction),
            "train_kl": float(kl.sum()),
            **{f"train_{name}": float(value) for name, value in zip(self.penalties, penalties, strict=True)},
        }
        if held_out is not None:
            kl = held_out.kl_per_dim.cpu().numpy()
            row["validation_loss"] = float(held_out.loss)
            row["validation_reconstruction"] = float(held_out.reconstruction)
            row["validation_kl"] = float(kl.sum())
            for name, value in zip(self.penalties, held_out.penalties.tolist(), strict=True):
                row[f"validation_{name}"] = value
        row |= {
            "beta": beta,
            "active_units": int((kl > MIN_KL_ACTIVE).sum()),
            "neighbors_explained": explained,
            "learning_rate": learning_rate,
            "seconds": time.perf_counter() - self.start,
        }
        self.rows.append(row)
        self.kl_per_dim.append(kl.astype(np.float32))
        self._sums, self._steps = [], 0

    def drop_last(self) -> None:
        """Remove the last evaluation, because it was a setback."""
        self.rows.pop()
        self.kl_per_dim.pop()

    def losses(self) -> NDArray[np.float64]:
        """The loss that the verdict is based on, with a fixed beta: of held-out cells, if there are any."""
        if "validation_loss" in self.rows[0]:
            return self.column("validation_loss")
        return self.column("train_reconstruction") + self.beta * self.column("train_kl")

    def column(self, name: str) -> NDArray:
        return np.array([row[name] for row in self.rows])

    def columns(self) -> dict[str, NDArray]:
        """Every column as an array of one value per row; `kl_per_dim` is rows x latent dimensions."""
        names = list(self.rows[0]) if self.rows else []
        return {name: self.column(name) for name in names} | {"kl_per_dim": np.array(self.kl_per_dim)}

    def verdict(
        self, status: str, best_step: int, setbacks: int, learning_rate: float, n_default_steps: int, n_cells: int
    ) -> Verdict:
        """Judge the fit.

        `status` says what ended the loop before its last step; it is empty if nothing did. `n_default_steps` are the
        steps that a fit of these cells has by default.
        """
        losses, last = self.losses(), self.rows[-1]
        held_out = " of held-out cells" if "validation_loss" in last else ""
        scale = max(abs(losses.min()), losses.max() - losses.min())  # a loss may be negative, or cross zero
        rise, collapsed = (losses[-1] - losses.min()) / scale, bool(last["active_units"] < 2)
        if status:
            message = {
                "stopped_early": f"The loss{held_out} no longer fell; its best weights are kept.",
                "interrupted": "Interrupted; the best weights so far are kept.",
            }[status]
        else:
            steps, explained = self.column("step"), self.column("neighbors_explained")
            unlearned = bool(held_out) and losses[-1] > losses[0]
            status, message = judge(
                steps, explained, self.n_steps, learning_rate, n_default_steps, n_cells, collapsed, unlearned
            )
            if status == "converged" and held_out and rise > MAX_RISE:
                message += (
                    f" The loss{held_out} has risen by {rise:.1%} since step {best_step}: to decode, or to embed other "
                    "cells, fit with patience=10."
                )
        if setbacks:
            message += (
                f" The loss rose far, or became NaN or infinite ({setbacks} times). The fit went back to earlier "
                f"weights and went on with a learning rate {LR_DIVISOR_STEP**setbacks:g} times lower: start with a "
                "lower one."
            )
        if collapsed:
            message += " Posterior collapse: the latent state ignores the cells. Lower beta, or set free_bits=0.1."
        kept_step = best_step if status in {"stopped_early", "interrupted"} else int(last["step"])
        return Verdict(status, collapsed, best_step, kept_step, setbacks, message)
