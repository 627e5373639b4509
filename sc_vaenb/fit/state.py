"""The options of a fit, and its state from step to step."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from ..model.vae import CountVAE
from .history import History
from .schedule import DEFAULT_RATE
from .stability import Adaptation

NO_MEMORY = ("DefaultCPUAllocator: can't allocate memory", "out of memory")  # texts of a RuntimeError on CPU, on MPS
MIN_CELLS_PER_STEP = 16  # a fit with fewer is not tried


@dataclass(frozen=True)
class FitConfig:
    """How a model is fitted; see `tl.cvae` for the meanings."""

    n_steps: int
    weight_decay: float
    batch_size: int = 128
    learning_rate: float = DEFAULT_RATE
    beta: float = 0.5
    warmup: float = 0.3
    free_bits: float = 0.0
    target_kl: float | None = None
    validation_fraction: float = 0.1
    patience: int | None = None

    @property
    def validation_beta(self) -> float:
        """Weight of the KL in the loss of held-out cells; it must stay the same during the fit."""
        return self.beta if self.target_kl is None else 1.0

    def halved(self, n_cells: int, error: Exception) -> FitConfig:
        """Halve the cells per step if memory was too little; raise any other error, and MemoryError at the minimum."""
        no_memory = isinstance(error, torch.OutOfMemoryError | MemoryError)
        if not no_memory and not any(text in str(error) for text in NO_MEMORY):
            raise error
        half = min(self.batch_size, n_cells) // 2
        if half < MIN_CELLS_PER_STEP:
            raise MemoryError(str(error)) from error
        return replace(self, batch_size=half)


class Best:
    """The weights with the lowest loss so far, and the number of evaluations since then."""

    def __init__(self, model: CountVAE) -> None:
        self.model, self.step, self.loss, self.n_since_best = model, 0, math.inf, 0
        self.weights: dict[str, torch.Tensor] | None = None

    def update(self, loss: float, step: int) -> None:
        self.n_since_best += 1
        if loss < self.loss:
            self.step, self.loss, self.n_since_best = step, loss, 0
            self.weights = {name: value.clone() for name, value in self.model.state_dict().items()}

    def restore(self) -> None:
        if self.weights is not None:
            self.model.load_state_dict(self.weights)


BEST, ADAPT = ("step", "loss", "n_since_best"), ("beta", "lr_divisor", "setbacks", "looks")


@dataclass
class State:
    """All that changes during a fit, as it is after an evaluation (between evaluations the history holds sums, too).

    The state does not hold which cells come next: that follows from the seed and the number of steps. For counts in
    memory, a fit that goes on skips 100,000 steps in a second; for counts on disk, it reads the same cells again.
    """

    model: CountVAE
    optimizer: torch.optim.Optimizer
    history: History
    best: Best
    adapt: Adaptation
    generators: dict[str, torch.Generator]  # of noise and dropout, by device
    step: int = 0  # number of steps taken
    status: str = ""  # what ended the fit before its last step; empty if nothing did

    def pack(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """The state as arrays (without a copy of those on the CPU) and as values for JSON."""
        parts: dict[str, dict[str, torch.Tensor]] = {
            "model": self.model.state_dict(),
            "best": self.best.weights or {},
            "calm": self.adapt.weights,
            "noise": {name: generator.get_state() for name, generator in self.generators.items()},
            "history": {"kl_per_dim": torch.from_numpy(np.array(self.history.kl_per_dim))},
        }
        for parameter, moments in self.optimizer.state_dict()["state"].items():  # parameters are numbered
            parts[f"optimizer/{parameter}"] = moments
        # a file holds arrays in row-major order only
        arrays = {
            f"{part}/{name}": value.cpu().contiguous()
            for part, values in parts.items()
            for name, value in values.items()
        }
        best = {name: getattr(self.best, name) for name in BEST}
        adapt = {name: getattr(self.adapt, name) for name in ADAPT}
        facts = {"step": self.step, "status": self.status, "best": best, "adapt": adapt, "rows": self.history.rows}
        return arrays, facts

    def unpack(self, arrays: dict[str, torch.Tensor], facts: dict[str, Any]) -> None:
        """Restore a packed state, which must have passed `check_state`."""
        parts: dict[str, dict[str, torch.Tensor]] = defaultdict(dict)
        for path, value in arrays.items():
            part, _, name = path.rpartition("/")
            parts[part][name] = value
        self.step, self.status = facts["step"], facts["status"]
        self.model.load_state_dict(parts["model"])
        moments = {int(part.split("/")[1]): values for part, values in parts.items() if part.startswith("optimizer/")}
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        for index, values in moments.items():  # the optimizer needs them in the order of its parameter in memory
            values.update(
                {
                    name: torch.empty_like(parameters[index]).copy_(value)
                    for name, value in values.items()
                    if value.shape == parameters[index].shape
                }
            )
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": moments})
        self.history.rows, self.history.kl_per_dim = facts["rows"], list(parts["history"]["kl_per_dim"].numpy())
        if facts["rows"]:  # empty if the first evaluation was a setback
            self.history.start -= facts["rows"][-1]["seconds"]
        device = self.model.depth.device
        self.best.weights = {name: value.to(device) for name, value in parts["best"].items()} or None
        self.adapt.weights = {name: value.to(device) for name, value in parts["calm"].items()}
        for name in BEST:
            setattr(self.best, name, facts["best"][name])
        for name in ADAPT:
            setattr(self.adapt, name, facts["adapt"][name])
        for name, generator in self.generators.items():
            if name in parts["noise"]:  # on another kind of device, the noise starts again from the seed
                generator.set_state(parts["noise"][name])


def parameter_groups(model: CountVAE, weight_decay: float) -> list[dict[str, Any]]:
    """Parameters with weight decay (matrices, batch vectors, log dispersions) and without (biases, norms).

    Decay of a bias would pull a gene's mean expression towards that of all others. Decay of log dispersions pulls theta
    towards 1. This helps where few cells determine theta: a large theta would make the fit follow single counts.
    """
    matrices = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    vectors = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
