"""What runs on CUDA. All but the captured step is plain torch, so that a CPU can check it."""

import numpy as np
import pytest
import torch
from scipy import sparse

from sc_vaenb.data.counts import Counts, shuffled
from sc_vaenb.data.on_device import DeviceCounts, smallest_type
from sc_vaenb.fit.cuda import CapturedStep, to_device
from sc_vaenb.fit.loop import Step, fit
from sc_vaenb.fit.state import FitConfig
from sc_vaenb.fit.step_cpu import step_on_cpu
from sc_vaenb.model.config import ModelConfig
from sc_vaenb.model.likelihood import LIKELIHOODS
from sc_vaenb.model.vae import CountVAE

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def counts():
    rng = np.random.default_rng(0)
    dense = rng.negative_binomial(1, rng.uniform(0.2, 0.95, size=300), size=(200, 300)).astype(np.float32)
    dense[:, 7] = 0  # never seen
    dense[3] *= 100  # extremely deep
    dense[:, 0] += 1  # no cell is empty
    depth = dense.sum(1)
    return Counts(sparse.csr_matrix(dense), (depth / depth.mean()).astype(np.float32), rng.integers(3, size=200))


def test_counts_on_the_device_are_the_counts(counts):
    there = DeviceCounts(counts, CPU)
    assert [value.dtype for value in there.on_device[1:3]] == [torch.int16, torch.int16]
    for cells in (np.array([5, 3, 199, 3]), slice(10, 30)):
        found, expected = there.minibatch(cells, CPU), counts.minibatch(cells, CPU)
        for name in ("row", "gene", "count", "size_factor", "batch_index", "position"):
            assert torch.equal(getattr(found, name), getattr(expected, name)), name


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1, 255], np.uint8),
        ([256], np.int16),
        ([40_000], np.int32),
        ([3e9], np.float32),
        ([0.5], np.float32),
        ([], np.uint8),
    ],
)
def test_counts_take_the_smallest_type_that_holds_them(values, expected):
    assert smallest_type(np.array(values, np.float32)) is expected


@pytest.mark.slow
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_padding_counts_nothing(counts, likelihood):
    model = CountVAE(ModelConfig(n_genes=300, n_batches=3, batch_width=2, likelihood=likelihood))
    model.initialise(counts.minibatch(slice(None), CPU))
    there, cells = DeviceCounts(counts, CPU), np.arange(0, 200, 3)

    def loss_and_gradient(batch):
        model.zero_grad()
        batch.generator = torch.Generator().manual_seed(1)
        terms = model.loss(batch)
        terms.loss.backward()
        return terms.loss.item(), torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    expected = loss_and_gradient(counts.minibatch(cells, CPU))
    for room in (30_000, 50_000):
        found = loss_and_gradient(there.padded(torch.from_numpy(cells), room))
        assert found[0] == pytest.approx(expected[0], rel=1e-6)
        torch.testing.assert_close(found[1], expected[1], rtol=1e-4, atol=1e-4 * expected[1].abs().max().item())


def test_there_is_room_for_a_cell_that_comes_twice(counts):
    """Where passes over the cells are joined, a minibatch can hold the deepest cell twice."""
    rng, lengths = np.random.default_rng(0), np.diff(counts.matrix.indptr)
    room = np.sort(np.repeat(lengths, 2))[-190:].sum()
    drawn = shuffled(np.arange(200), 190, rng)
    assert max(lengths[next(drawn)].sum() for _ in range(100)) <= room


def test_without_cuda_counts_stay_where_they_are(counts):
    assert to_device(counts, CPU) == (counts, step_on_cpu)


@pytest.mark.gpu
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_cpu_and_cuda_agree(counts, likelihood):
    model = CountVAE(ModelConfig(n_genes=300, n_batches=3, batch_width=2, likelihood=likelihood))
    model.initialise(counts.minibatch(slice(None), CPU))
    values = []
    for device in (CPU, torch.device("cuda")):
        model.to(device).zero_grad()
        batch = counts.minibatch(slice(0, 100), device)
        raw = model.decode(model.encode(batch)[0], batch)
        loss = -model.likelihood.log_prob(raw, model.offset(batch), batch).mean()
        loss.backward()
        gradient = torch.cat([p.grad.flatten().cpu() for p in model.parameters() if p.grad is not None])
        values.append((loss.item(), gradient))
    assert values[0][0] == pytest.approx(values[1][0], rel=1e-5)
    torch.testing.assert_close(values[0][1], values[1][1], rtol=1e-3, atol=1e-4 * values[0][1].abs().max().item())


@pytest.mark.gpu
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_a_captured_step_does_what_the_plain_one_does(counts, likelihood):
    """Noise and minibatches are drawn the same way, so that the two fits differ by rounding alone."""
    device = torch.device("cuda")
    config = ModelConfig(n_genes=300, n_batches=3, batch_width=2, likelihood=likelihood)
    options = FitConfig(n_steps=60, weight_decay=0.1, batch_size=64, learning_rate=1e-3)
    there = DeviceCounts(counts, device)
    losses = [
        fit(config, there, options, device, 0, make_step=step)[1].column("validation_loss")
        for step in (Step, CapturedStep)
    ]
    np.testing.assert_allclose(losses[0], losses[1], rtol=2e-3)
    assert losses[1][-1] < losses[1][0]
