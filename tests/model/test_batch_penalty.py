"""Adversary and mean discrepancy: what draws batches of a group together in a fit."""

import numpy as np
import pytest
import torch

from sc_vaenb.data.counts import Counts
from sc_vaenb.data.on_device import DeviceCounts
from sc_vaenb.fit.loop import Step
from sc_vaenb.fit.state import FitConfig
from sc_vaenb.inference.map_query import with_batches
from sc_vaenb.model.batch_penalty import SCALES
from sc_vaenb.model.config import ModelConfig
from sc_vaenb.model.minibatch import ForwardState
from sc_vaenb.model.penalty import PENALTIES
from sc_vaenb.model.vae import CountVAE

NAMES = ["adversary", "mmd"]
every = pytest.mark.parametrize("name", NAMES)


def build(name, weight=1.0, **options):
    options = {"n_batches": 3, "encode_batch": True} | options
    config = ModelConfig(40, n_latent=4, hidden=(16,), decoder_hidden=(16,), penalties={name: weight}, **options)
    return CountVAE(config)


def passed(model, batch, z=None, **options):
    mean, log_var = model.encode(batch)
    z = mean if z is None else z
    return ForwardState(batch, mean, log_var, z, model.decode(z, batch), **options)


def value_of(model, name, batch, z=None, **options):
    return model.penalties[name](passed(model, batch, z, **options))


# all of them


@pytest.mark.slow
@every
def test_the_weight_and_the_warmth_scale_the_penalty(batch, name):
    def value(weight, **options):
        model = build(name, weight).eval()
        return value_of(model, name, batch, **options).item()

    assert value(6.0) == pytest.approx(6 * value(1.0), rel=1e-4)
    assert value(6.0, kl_warmup=0.25) == pytest.approx(1.5 * value(1.0), rel=1e-4)
    assert value(6.0, kl_warmup=torch.tensor(0.0)) == pytest.approx(0, abs=1e-5)


@pytest.mark.slow
@every
def test_what_the_encoder_is_told_scales_too(batch, name):
    def gradient(weight, **options):
        model = build(name, weight).eval()
        batch.generator = torch.Generator().manual_seed(1)
        model.loss(batch, **options).loss.backward()
        return model.encoder.first.weight.grad

    base = gradient(1e-9)
    once, tenfold, cold = gradient(1.0) - base, gradient(10.0) - base, gradient(10.0, kl_warmup=0.1) - base
    torch.testing.assert_close(tenfold, 10 * once, rtol=1e-2, atol=2e-3)
    torch.testing.assert_close(cold, once, rtol=1e-2, atol=2e-3)
    assert once.abs().max() > 1e-3


@every
def test_batches_of_different_groups_are_let_be(batch, name):
    """Batches 0 and 1 against 2: what the cells of batch 2 are like must not matter to the others, nor they to it."""
    model = build(name, batch_code=(0, 1, 0), batch_group=(0, 0, 1)).eval()
    z = torch.randn(60, 4, requires_grad=True)
    value_of(model, name, batch, z).backward()
    apart = batch.batch_index == 2
    assert z.grad[apart].abs().max() < 1e-6
    assert z.grad[~apart].abs().max() > 1e-5


@pytest.mark.slow
@every
@pytest.mark.parametrize("likelihood", ["nb", "zinb", "gaussian"])
def test_a_step_is_finite_at_a_large_weight_and_with_one_batch(counts, name, likelihood):
    for cells in (np.arange(60), np.arange(0, 60, 3), np.arange(1), np.array([0, 1])):
        model = build(name, 100.0, likelihood=likelihood)
        train_step = Step(model, counts, FitConfig(10, 0.1, beta=0.5), len(cells), torch.Generator().manual_seed(0))
        for beta in (0.1, 0.5):
            terms = train_step(cells, 1e-3, beta)
            assert torch.isfinite(terms.loss)
        assert all(torch.isfinite(parameter).all() for parameter in model.parameters())
        if len(np.unique(cells % 3)) == 1 and name == "mmd":
            assert terms.penalties.item() == 0


@pytest.mark.slow
@every
@pytest.mark.parametrize(
    "options", [{"link": "exp", "size_factor_as": "covariate"}, {"batch_width": 2, "encode_batch": False}]
)
def test_it_works_with_every_kind_of_model(counts, name, options):
    model = build(name, **options)
    terms = Step(model, counts, FitConfig(10, 0.1), 60, torch.Generator().manual_seed(0))(np.arange(60), 1e-3, 0.5)
    assert torch.isfinite(terms.loss)


@pytest.mark.slow
@every
def test_no_step_waits_for_the_device_or_branches_on_its_number(counts, name):
    """Padded minibatches and tensors in place of numbers, as a captured step has them, give what plain ones do."""
    device = torch.device("cpu")
    results = []
    for there, number in ((counts, float), (DeviceCounts(counts, device), torch.tensor)):
        model = build(name, 5.0)
        step = Step(model, there, FitConfig(10, 0.1), 60, torch.Generator().manual_seed(2))
        results.append(step(np.arange(60), 1e-3, number(0.25)))
    for plain, padded in zip(*results, strict=True):
        torch.testing.assert_close(plain, padded, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@every
def test_the_fit_warms_it_up_with_the_kl(counts, name):
    def penalty(kl_warmup):
        model = build(name).eval()
        step = Step(model, counts, FitConfig(10, 0.1), 60, torch.Generator().manual_seed(2))
        return step(np.arange(60), 1e-3, 0.5, kl_warmup).penalties.item()

    assert penalty(0.2) == pytest.approx(0.2 * penalty(1.0), rel=1e-4)


@every
def test_new_batches_leave_it_behind(batch, name):
    model = build(name, batch_group=(0, 1, 0)).eval()
    mapped = with_batches(model, 2)
    assert not mapped.penalties
    assert mapped.config.penalties == {}
    torch.testing.assert_close(mapped.encode(batch), model.encode(batch))
    batch.generator = torch.Generator().manual_seed(0)
    assert torch.isfinite(mapped.loss(batch).loss)


# the adversary


@pytest.mark.slow
def test_the_guess_learns_and_the_encoder_unlearns(batch):
    """A step along the gradient: the guess gets better in its own parameters, and worse in the encoder's."""
    model = build("adversary", 1.0).eval()
    guess = model.penalties["adversary"].guess

    def wrong():
        return torch.nn.functional.cross_entropy(guess(model.encode(batch)[0]), batch.batch_index)

    for _ in range(30):  # until the guess knows something
        model.zero_grad()
        value_of(model, "adversary", batch).backward()
        for parameter in guess.parameters():
            parameter.data -= 0.1 * parameter.grad
    before = wrong().item()
    assert before < np.log(3) - 0.05
    model.zero_grad()
    known = value_of(model, "adversary", batch)
    known.backward()
    for part, better in ((guess, True), (model.encoder, False)):
        for parameter in part.parameters():
            parameter.data -= 1e-3 * parameter.grad
        assert (wrong().item() < before) == better
        if not better:
            assert value_of(model, "adversary", batch) < known
        for parameter in part.parameters():
            parameter.data += 1e-3 * parameter.grad


def test_the_encoder_drives_no_cell_past_the_point_where_nobody_can_tell(batch):
    """A guess that is wrong of every cell is as bad as one that is right: both tell the batches apart."""
    model = build("adversary", n_batches=2).eval()
    batch.batch_index = torch.arange(60) % 2
    last = torch.nn.Linear(4, 2)
    model.penalties["adversary"].guess = torch.nn.Sequential(last)
    last.weight.data = torch.tensor([[-1.0, 0, 0, 0], [1.0, 0, 0, 0]])
    last.bias.data.zero_()
    side = (2.0 * batch.batch_index - 1).unsqueeze(1) * torch.tensor([1.0, 0, 0, 0])
    for way in (1, -1):
        z = (way * side).requires_grad_()
        value_of(model, "adversary", batch, z).backward()
        assert (z.grad[:, 0] * z[:, 0] > 0).all()  # downhill is to the middle, from either side


def test_the_guess_learns_at_full_speed_whatever_the_weight(batch):
    gradients = []
    for weight in (0.1, 10.0):
        model = build("adversary", weight).eval()
        value_of(model, "adversary", batch, kl_warmup=0.01).backward()
        gradients.append(model.penalties["adversary"].guess[0].weight.grad)
    torch.testing.assert_close(*gradients)


def test_a_guess_that_knows_the_shares_alone_is_at_chance(counts):
    cells = np.flatnonzero((np.arange(60) % 3 != 2) | (np.arange(60) < 20))  # batches of 20, 20 and 6 cells
    batch = counts.minibatch(cells, torch.device("cpu"))
    model = build("adversary").eval()
    last = model.penalties["adversary"].guess[-1]
    last.weight.data.zero_()
    last.bias.data = torch.bincount(batch.batch_index).float().log()
    assert value_of(model, "adversary", batch).item() == pytest.approx(0, abs=1e-6)
    last.bias.data.zero_()
    share = np.bincount(batch.batch_index) / batch.n_cells
    assert value_of(model, "adversary", batch).item() == pytest.approx((share * np.log(share * 3)).sum(), rel=1e-4)


# the discrepancy


def plain_mmd(x, y, width):
    """By its definition, in float64, one pair of cells at a time."""

    def kernel(a, b):
        return np.mean([np.exp(-((a - b) ** 2).sum() / (scale * width)) for scale in SCALES])

    def mean(left, right, same):
        values = [kernel(a, b) for i, a in enumerate(left) for j, b in enumerate(right) if not (same and i == j)]
        return np.mean(values)

    return mean(x, x, True) + mean(y, y, True) - 2 * mean(x, y, False)


def test_mmd_is_that_of_its_definition(counts):
    batch = counts.minibatch(np.arange(25), torch.device("cpu"))
    model = build("mmd").eval()
    z = torch.randn(25, 4) + 2 * batch.batch_index.unsqueeze(1)
    points, code = z.double().numpy(), batch.batch_index.numpy()
    between = [((a - b) ** 2).sum() for i, a in enumerate(points) for j, b in enumerate(points) if i != j]
    pairs = [(0, 1), (0, 2), (1, 2)]
    expected = [plain_mmd(points[code == a], points[code == b], np.mean(between)) for a, b in pairs]
    assert value_of(model, "mmd", batch, z).item() == pytest.approx(np.mean(expected), rel=1e-4)


@pytest.mark.slow
def test_mmd_is_about_zero_for_batches_that_are_alike_and_leaves_single_cells_out(counts):
    rng = np.random.default_rng(0)
    many = Counts(counts.matrix[np.zeros(900, int)], np.ones(900, np.float32), np.arange(900) % 3)
    batch, z = many.minibatch(np.arange(900), torch.device("cpu")), torch.from_numpy(rng.normal(size=(900, 4))).float()
    model = build("mmd").eval()
    alike = value_of(model, "mmd", batch, z).item()
    assert abs(alike) < 2e-3
    assert value_of(model, "mmd", batch, z + batch.batch_index.unsqueeze(1)).item() > 50 * abs(alike)
    few = many.minibatch(np.array([0, 3, 6, 1]), torch.device("cpu"))
    assert value_of(model, "mmd", few, z[:4]).item() == 0


def test_the_penalties_are_known_by_name():
    assert set(NAMES) <= set(PENALTIES)
