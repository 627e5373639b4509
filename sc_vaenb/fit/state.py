"""What a fit is told, and what it carries from step to step."""

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

NO_MEMORY = ("DefaultCPUAllocator: can't allocate memory", "out of memory")  # in a RuntimeError: by a CPU, by MPS
MIN_CELLS_PER_STEP = 16  # with fewer a fit is not tried


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
        """Weight of the KL in the loss of held-out cells, which must be the same all along."""
        return self.beta if self.target_kl is None else 1.0

    def halved(self, n_cells: int, error: Exception) -> FitConfig:
        """The same with half the cells per step, to answer an error; raises it if it is another or they are too few."""
        no_memory = isinstance(error, torch.OutOfMemoryError | MemoryError)
        if not no_memory and not any(text in str(error) for text in NO_MEMORY):
            raise error
        half = min(self.batch_size, n_cells) // 2
        if half < MIN_CELLS_PER_STEP:
            raise MemoryError(str(error)) from error
        return replace(self, batch_size=half)


class Best:
    """The weights that did best so far, and for how many looks no others did better."""

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
    """All that changes in the course of a fit, as it is at a look (in between, the history holds sums as well).

    Which cells come next is not in it: that follows from the seed and the number of steps. A second passes over
    100,000 steps in memory; a long fit to counts on disk reads again what it has seen.
    """

    model: CountVAE
    optimizer: torch.optim.Optimizer
    history: History
    best: Best
    adapt: Adaptation
    generators: dict[str, torch.Generator]  # of noise and dropout, by device
    step: int = 0  # taken so far
    status: str = ""  # what ended the fit before its last step, if anything

    def pack(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """The state as arrays (those on the CPU are not copied), and as what JSON can hold."""
        parts: dict[str, dict[str, torch.Tensor]] = {
            "model": self.model.state_dict(),
            "best": self.best.weights or {},
            "calm": self.adapt.weights,
            "noise": {name: generator.get_state() for name, generator in self.generators.items()},
            "history": {"kl_per_dim": torch.from_numpy(np.array(self.history.kl_per_dim))},
        }
        for at, values in self.optimizer.state_dict()["state"].items():
            parts[f"optimizer/{at}"] = values
        arrays = {f"{part}/{name}": value.cpu() for part, values in parts.items() for name, value in values.items()}
        best = {name: getattr(self.best, name) for name in BEST}
        adapt = {name: getattr(self.adapt, name) for name in ADAPT}
        facts = {"step": self.step, "status": self.status, "best": best, "adapt": adapt, "rows": self.history.rows}
        return arrays, facts

    def unpack(self, arrays: dict[str, torch.Tensor], facts: dict[str, Any]) -> None:
        """Become a state that was packed, and checked (`check_state`)."""
        parts: dict[str, dict[str, torch.Tensor]] = defaultdict(dict)
        for path, value in arrays.items():
            part, _, name = path.rpartition("/")
            parts[part][name] = value
        self.step, self.status = facts["step"], facts["status"]
        self.model.load_state_dict(parts["model"])
        moments = {int(part.split("/")[1]): values for part, values in parts.items() if part.startswith("optimizer/")}
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": moments})
        self.history.rows, self.history.kl_per_dim = facts["rows"], list(parts["history"]["kl_per_dim"].numpy())
        if facts["rows"]:  # else the first look led to a setback
            self.history.start -= facts["rows"][-1]["seconds"]
        device = self.model.depth.device
        self.best.weights = {name: value.to(device) for name, value in parts["best"].items()} or None
        self.adapt.weights = {name: value.to(device) for name, value in parts["calm"].items()}
        for name in BEST:
            setattr(self.best, name, facts["best"][name])
        for name in ADAPT:
            setattr(self.adapt, name, facts["adapt"][name])
        for name, generator in self.generators.items():
            if name in parts["noise"]:  # a fit may go on on another device, whose noise starts from the seed
                generator.set_state(parts["noise"][name])


def parameter_groups(model: CountVAE, weight_decay: float) -> list[dict[str, Any]]:
    """What decays (matrices, batch vectors, log dispersions: towards theta = 1) and what does not (biases, norms).

    To shrink a bias would be to pull a gene's mean expression towards that of all others. A dispersion that few cells
    speak for is better held back: a large theta makes the fit chase single counts.
    """
    tables = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    vectors = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    return [{"params": tables, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
