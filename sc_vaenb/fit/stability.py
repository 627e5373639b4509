"""What a fit adapts while it runs: the learning rate after a setback, and the weight of the KL to a target KL."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from torch import Tensor

from ..model.vae import CountVAE

# Largest rise of the loss, relative to its fall so far and to its median change between evaluations. The randomness of
# minibatches does not explain a larger rise: the steps are too long.
MAX_RISE_PER_FALL, MAX_RISE_PER_CHANGE = 0.5, 3.0
MIN_EVALUATIONS = 6  # before the rise is checked
MIN_STEPS_PER_EVALUATION = 8  # with fewer steps, the mean loss is of few cells and too noisy to check
LR_DIVISOR_STEP = 3.0  # factor after each setback
MAX_SETBACKS = 6  # to a learning rate 700 times lower: then something else is wrong
TARGET_KL_EXPONENT = 0.5  # of (KL / target KL), the factor by which beta changes at an evaluation
MAX_CHANGE = 2.0  # of beta at an evaluation, as a factor


class Adaptation:
    """Checks the training loss at each evaluation, and adapts the learning rate and beta of the next steps.

    Attributes
    ----------
    lr_divisor
        Divisor of the learning rate. If the loss rises far, or becomes NaN or infinite, the model goes back to the
        weights with the lowest loss, and the learning rate is reduced.
    beta
        Final weight of the KL. With `target_kl`, it is adapted to the measured KL (Shao et al. 2020, ControlVAE): in a
        fit that is long enough the KL then reaches `target_kl`, whatever beta was at the start.
    """

    def __init__(self, model: CountVAE, beta: float, target_kl: float | None, steps_per_evaluation: int) -> None:
        self.beta, self.target_kl, self.steps_per_evaluation = beta, target_kl, steps_per_evaluation
        self.lr_divisor, self.setbacks = 1.0, 0
        self.looks: list[tuple[float, float]] = []  # reconstruction and KL at each evaluation
        self.weights = self._copy(model)

    def rolled_back(self, model: CountVAE, row: Mapping[str, float], beta: float) -> bool:
        """Check a row of the history; True after a setback, when the fit needs a new optimiser.

        All losses are compared at the present weight of the KL, because this weight rises during the warm-up.
        """
        reconstruction, kl = row["train_reconstruction"], row["train_kl"]
        losses = np.array([*self.looks, (reconstruction, kl)]) @ (1.0, beta)
        first, lowest, last = losses[0], losses.min(), losses[-1]
        broken, risen = not math.isfinite(last), False
        can_judge = len(losses) > MIN_EVALUATIONS and self.steps_per_evaluation >= MIN_STEPS_PER_EVALUATION
        if can_judge and self.setbacks < MAX_SETBACKS:
            max_rise_by_chance = MAX_RISE_PER_CHANGE * np.median(np.abs(np.diff(losses[:-1])))
            risen = last - lowest > max(MAX_RISE_PER_FALL * (first - lowest), max_rise_by_chance)
        if broken or risen:
            self.setbacks += 1
            if self.setbacks > MAX_SETBACKS:
                raise FloatingPointError(
                    f"the loss is {last}, also with a learning rate {self.lr_divisor:g} times lower"
                )
            self.lr_divisor *= LR_DIVISOR_STEP
            model.load_state_dict(self.weights)
            return True
        self.looks.append((reconstruction, kl))
        if last == lowest:
            self.weights = self._copy(model)
        if self.target_kl is not None:
            change = (kl / self.target_kl) ** TARGET_KL_EXPONENT
            self.beta *= float(np.clip(change, 1 / MAX_CHANGE, MAX_CHANGE))
        return False

    @staticmethod
    def _copy(model: CountVAE) -> dict[str, Tensor]:
        return {name: value.clone() for name, value in model.state_dict().items()}
