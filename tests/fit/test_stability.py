"""What a fit adapts: the learning rate after a setback, the weight of the KL to a rate asked for."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from sc_vaenb.fit.stability import LR_DIVISOR_STEP, MAX_CHANGE, MAX_SETBACKS, MIN_STEPS_PER_EVALUATION, Adaptation

FALLING = [100.0, 80.0, 65.0, 55.0, 50.0, 49.0, 48.5]


@pytest.fixture
def model():
    return nn.Linear(1, 1)


def weight(model, value=None):
    if value is not None:
        nn.init.constant_(model.weight, value)
    return model.weight.item()


def look(adapt, model, reconstruction, kl, beta):
    return adapt.rolled_back(model, {"train_reconstruction": reconstruction, "train_kl": kl}, beta)


def looked(model, losses, beta=1.0, **options):
    """An adaptation that has seen these reconstruction losses, with the weight 0, 1, 2 ... at each look."""
    defaults = {"beta": 0.5, "target_kl": None, "steps_per_evaluation": MIN_STEPS_PER_EVALUATION}
    adapt = Adaptation(model, **defaults | options)
    for at, loss in enumerate(losses):
        weight(model, at)
        assert not look(adapt, model, loss, 0.0, beta)
    return adapt


@pytest.mark.parametrize("loss", [80.0, 1e6, math.inf, math.nan])
def test_a_setback_brings_back_the_best_weights_and_shorter_steps(model, loss):
    adapt = looked(model, FALLING)
    weight(model, 99)
    assert look(adapt, model, loss, 0.0, 1.0)
    assert weight(model) == len(FALLING) - 1
    assert (adapt.lr_divisor, adapt.setbacks) == (LR_DIVISOR_STEP, 1)


@pytest.mark.parametrize("noise", range(5))
def test_chance_is_no_setback(model, noise):
    """Minibatches differ: the loss goes up and down by a sixteenth of its fall, and stays there for long."""
    random = np.random.default_rng(noise)
    looked(model, 16 * np.exp(-np.arange(50) / 8) + random.normal(size=50))


def test_looks_of_few_steps_are_all_chance_but_for_what_is_no_number(model):
    adapt = looked(model, [*FALLING, 90.0, 95.0], steps_per_evaluation=MIN_STEPS_PER_EVALUATION - 1)
    assert look(adapt, model, math.nan, 0.0, 1.0)


def test_a_loss_that_is_no_number_at_the_first_look_brings_back_the_start(model):
    weight(model, 7)
    adapt = Adaptation(model, 0.5, None, MIN_STEPS_PER_EVALUATION)
    weight(model, math.nan)
    assert look(adapt, model, math.nan, math.nan, 1.0)
    assert weight(model) == 7


def test_what_stays_broken_is_given_up(model):
    adapt = looked(model, FALLING)
    for _ in range(MAX_SETBACKS):
        assert look(adapt, model, math.nan, 1.0, 1.0)
    assert adapt.lr_divisor == LR_DIVISOR_STEP**MAX_SETBACKS
    with pytest.raises(FloatingPointError, match="the loss is nan, also with a learning rate 729 times lower"):
        look(adapt, model, math.nan, 1.0, 1.0)


def test_what_rises_for_ever_is_not_given_up(model):
    """Little data are all chance: a fit must not end for that."""
    adapt = looked(model, FALLING)
    assert [look(adapt, model, 90.0, 0.0, 1.0) for _ in range(9)] == [True] * MAX_SETBACKS + [False] * 3


def test_a_rising_weight_of_the_kl_is_no_setback(model):
    """The loss rises with the weight of the KL; at one weight, every look is better than the one before."""
    adapt = Adaptation(model, 5.0, None, MIN_STEPS_PER_EVALUATION)
    kl = [20.0, 30.0, 28.0, 20.0, 10.0, 5.0]
    for at, (reconstruction, found) in enumerate(zip(FALLING, kl, strict=False)):
        assert not look(adapt, model, reconstruction, found, at)


@pytest.mark.parametrize("start", [1e-3, 0.5, 100.0])
def test_beta_finds_the_rate_from_anywhere(model, start):
    """The best a model can do has a KL of 12 / sqrt(beta): reconstruction falls by beta for every nat of it."""
    adapt = Adaptation(model, start, target_kl=20.0, steps_per_evaluation=MIN_STEPS_PER_EVALUATION)
    for _ in range(40):
        kl = 12.0 / math.sqrt(adapt.beta)
        assert not look(adapt, model, 100.0 + 144.0 / kl, kl, adapt.beta)
    assert kl == pytest.approx(20.0, rel=0.01)


def test_beta_changes_gently_and_not_unless_asked(model):
    adapt = Adaptation(model, 0.5, target_kl=20.0, steps_per_evaluation=MIN_STEPS_PER_EVALUATION)
    look(adapt, model, 100.0, 0.0, 0.5)
    assert adapt.beta == pytest.approx(0.5 / MAX_CHANGE)
    look(adapt, model, 100.0, 1e6, 0.5)
    assert adapt.beta == pytest.approx(0.5)
    assert looked(model, FALLING).beta == 0.5


def test_weights_are_copies(model):
    adapt = looked(model, FALLING)
    kept = adapt.weights["weight"].clone()
    with torch.no_grad():
        model.weight += 1
    assert torch.equal(adapt.weights["weight"], kept)
