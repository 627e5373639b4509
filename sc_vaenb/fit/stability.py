"""What a fit adapts while it runs: its steps to what the model bears, the weight of the KL to a rate asked for."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from torch import Tensor

from ..model.vae import CountVAE

SETBACK, CHANCE = 0.5, 3.0  # of what the loss has fallen, and times its median change between looks: what rises by more
# does not do so by the chance of the minibatches, but because the steps are too long
MIN_EVALUATIONS = 6  # looks before which this cannot be told,
STEPS = 8  # and in a look: shorter ones are of few cells and all chance
LR_DIVISOR_STEP = 3.0  # times, after each setback
MAX_SETBACKS = 6  # to a learning rate 700 times lower: then something else is wrong
SOFTLY = 0.5  # exponent of (found / asked for) by which the weight of the KL changes at a look,
MAX_CHANGE = 2.0  # and at most


class Adaptation:
    """Looks at the training loss now and then, and changes what the next steps are made with.

    Attributes
    ----------
    lr_divisor
        What the learning rate is divided by. When the loss rises far, or is no number any more, the model goes back to
        the weights with which it was lowest, and the steps become shorter.
    beta
        Final weight of the KL. With `target_kl`, it follows the KL found (Shao et al. 2020, ControlVAE): in a fit that
        is long enough the KL is then `target_kl`, whatever beta was at the start.
    """

    def __init__(self, model: CountVAE, beta: float, target_kl: float | None, steps: int) -> None:
        self.beta, self.target_kl, self.steps = beta, target_kl, steps  # between looks
        self.lr_divisor, self.setbacks = 1.0, 0
        self.looks: list[tuple[float, float]] = []  # reconstruction and KL
        self.weights = self._copy(model)

    def rolled_back(self, model: CountVAE, row: Mapping[str, float], beta: float) -> bool:
        """Take in a row of the history; whether it was a setback, after which an optimiser has to start anew.

        Earlier losses are compared at the present weight of the KL, as it rises while the model warms up.
        """
        reconstruction, kl = row["train_reconstruction"], row["train_kl"]
        losses = np.array([*self.looks, (reconstruction, kl)]) @ (1.0, beta)
        first, lowest, now = losses[0], losses.min(), losses[-1]
        broken, risen = not math.isfinite(now), False
        if len(losses) > MIN_EVALUATIONS and self.steps >= STEPS and self.setbacks < MAX_SETBACKS:
            chance = CHANCE * np.median(np.abs(np.diff(losses[:-1])))
            risen = now - lowest > max(SETBACK * (first - lowest), chance)
        if broken or risen:
            self.setbacks += 1
            if self.setbacks > MAX_SETBACKS:
                raise FloatingPointError(
                    f"the loss is {now}, also with a learning rate {self.lr_divisor:g} times lower"
                )
            self.lr_divisor *= LR_DIVISOR_STEP
            model.load_state_dict(self.weights)
            return True
        self.looks.append((reconstruction, kl))
        if now == lowest:
            self.weights = self._copy(model)
        if self.target_kl is not None:
            change = (kl / self.target_kl) ** SOFTLY
            self.beta *= float(np.clip(change, 1 / MAX_CHANGE, MAX_CHANGE))
        return False

    @staticmethod
    def _copy(model: CountVAE) -> dict[str, Tensor]:
        return {name: value.clone() for name, value in model.state_dict().items()}
