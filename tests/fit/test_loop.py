import numpy as np
import pytest
import torch
from scipy import sparse

from sc_vaenb.data.counts import Counts
from sc_vaenb.fit.device import resolve_device, threads_as_asked
from sc_vaenb.fit.history import History
from sc_vaenb.fit.loop import evaluate, fit
from sc_vaenb.fit.state import Best, FitConfig, parameter_groups
from sc_vaenb.inference.embed import latent_states
from sc_vaenb.model.config import ModelConfig
from sc_vaenb.model.vae import CountVAE, Terms

CPU = torch.device("cpu")
CONFIG = ModelConfig(n_genes=50, n_latent=3, hidden=(16,), decoder_hidden=(16,))


@pytest.fixture(scope="module")
def counts():
    """Two kinds of cells that share no gene."""
    rng = np.random.default_rng(0)
    rate = np.kron(np.eye(2), np.full((100, 25), 4.0)) + 0.01
    dense = rng.poisson(rate).astype(np.float32)
    size = dense.sum(1)
    return Counts(sparse.csr_matrix(dense), (size / size.mean()).astype(np.float32), np.zeros(200, np.int64))


@pytest.mark.slow
def test_a_fit_finds_two_kinds_of_cells(counts):
    model, history, verdict = fit(CONFIG, counts, FitConfig(weight_decay=0.1, n_steps=200, batch_size=64), CPU, seed=0)
    z = latent_states(model, counts, CPU)
    centres = z[:100].mean(0), z[100:].mean(0)
    between = np.linalg.norm(centres[0] - centres[1])
    within = max(np.linalg.norm(z[:100] - centres[0], axis=1).max(), np.linalg.norm(z[100:] - centres[1], axis=1).max())
    assert between > within
    loss = history.column("validation_loss")
    assert loss[-1] < loss[0] - 30
    assert verdict.best_step == history.column("step")[np.argmin(loss)]
    assert verdict.kept_step == 200


def test_held_out_cells_do_not_reach_the_fit(counts):
    """Whatever the held-out cells hold, the weights are the same."""
    options = FitConfig(weight_decay=0.1, n_steps=20, batch_size=64)
    spoiled = counts.matrix.copy()
    from sc_vaenb.fit.split import split

    _, held_out = split(counts.batch_index, 0.1, 4096, np.random.default_rng(0))
    spoiled[held_out] = spoiled[held_out] * 50
    other = Counts(sparse.csr_matrix(spoiled), counts.size_factor, counts.batch_index)
    fits = [fit(CONFIG, c, options, CPU, seed=0) for c in (counts, other)]
    a, b = (history.column("train_loss") for _, history, _ in fits)
    assert np.array_equal(a, b)
    assert not np.array_equal(*(history.column("validation_loss") for _, history, _ in fits))


def test_the_best_weights_come_back():
    model = CountVAE(CONFIG)
    best = Best(model)
    for step, loss in enumerate([3.0, 1.0, 2.0, 2.5]):
        with torch.no_grad():
            model.depth.fill_(step)
        best.update(loss, step)
    assert best.n_since_best == 2
    best.restore()
    assert (model.depth.item(), best.step) == (1.0, 1)


@pytest.mark.slow
def test_a_fit_that_gets_worse_stops_early_and_goes_back(counts):
    few = Counts(counts.matrix[:40], counts.size_factor[:40], counts.batch_index[:40])
    options = FitConfig(
        weight_decay=0.1, n_steps=3000, batch_size=32, learning_rate=2e-2, patience=5, beta=0.01, warmup=0.01
    )
    _, history, verdict = fit(CONFIG, few, options, CPU, seed=0)
    assert verdict.status == "stopped_early"
    steps, loss = history.column("step"), history.column("validation_loss")
    assert steps[-1] < 3000
    assert verdict.best_step == verdict.kept_step == steps[-6]
    assert loss[-6] == loss.min()


def test_looks_at_held_out_cells_can_be_compared_and_change_nothing(counts):
    model = CountVAE(CONFIG).train()
    before = torch.get_rng_state()
    looks = [evaluate(model, counts, np.arange(150), FitConfig(weight_decay=0.1, n_steps=1), CPU) for _ in range(2)]
    assert looks[0].loss == looks[1].loss
    assert torch.equal(before, torch.get_rng_state())
    assert model.training
    parts = [
        evaluate(model, counts, cells, FitConfig(weight_decay=0.1, n_steps=1), CPU)
        for cells in (np.arange(75), np.arange(75, 150))
    ]
    kl = (parts[0].kl_per_dim + parts[1].kl_per_dim) / 2
    torch.testing.assert_close(kl, looks[0].kl_per_dim)


def test_the_seed_decides_and_the_global_state_is_left_alone(counts):
    options = FitConfig(weight_decay=0.1, n_steps=15, batch_size=32)
    before = torch.get_rng_state()
    config = ModelConfig(n_genes=50, n_latent=3, hidden=(16,), decoder_hidden=(16,), dropout=0.2)
    a, b, c = (latent_states(fit(config, counts, options, CPU, seed)[0], counts, CPU) for seed in (1, 1, 2))
    assert np.array_equal(a, b)
    assert not np.allclose(a, c)
    assert torch.equal(before, torch.get_rng_state())


def test_threads_are_held_to_what_was_asked_and_put_back(monkeypatch):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        for asked, expected in (("1", 1), ("8", 2), ("", 2), ("a lot", 2)):
            monkeypatch.setenv("OMP_NUM_THREADS", asked)
            with threads_as_asked():
                assert torch.get_num_threads() == expected
            assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_devices_by_name():
    assert resolve_device("cpu").type == "cpu"
    assert resolve_device("auto").type in {"cpu", "cuda", "mps"}


@pytest.mark.parametrize("name", ["foo", "cuda:99", None, "meta"])
def test_a_device_that_is_not_there_is_refused(name):
    with pytest.raises(ValueError, match=r"device=.* is not available here\. Choose one of \['auto', 'cpu'"):
        resolve_device(name)


NONE = torch.zeros(0)  # no penalties


def filled(losses, kl=1.0, n_steps=None):
    history = History(per_step=0.5, n_steps=n_steps or len(losses), beta=1.0)
    for step, loss in enumerate(losses):
        terms = Terms(torch.tensor(loss), torch.tensor(loss - 4 * kl), torch.full((4,), kl), NONE)
        history.add(terms)
        history.record(step, 1.0, 1e-3, terms)
    return history


def test_the_verdict_says_when_the_fitted_cells_are_known_better_than_new_ones():
    history = filled([600.0, 500.0, *[520.0] * 20])
    for row in history.rows[-3:]:
        row["neighbors_explained"] = 1.0
    verdict = history.verdict("", 2, 0, 6e-3, 22, 1000)
    assert verdict.status == "converged"
    assert "held-out cells has risen by 4.0% since step 2" in verdict.message
    assert (verdict.best_step, verdict.kept_step) == (2, 22)


def test_the_verdict_says_when_the_latent_state_is_not_used():
    assert not filled([500.0] * 20).verdict("", 1, 0, 6e-3, 20, 1000).posterior_collapse
    collapsed = filled([500.0] * 20, kl=0.001).verdict("", 1, 0, 6e-3, 20, 1000)
    assert collapsed.posterior_collapse
    assert "free_bits" in collapsed.message


def test_without_held_out_cells_looks_are_compared_at_the_final_beta():
    history = History(per_step=0.5, n_steps=20, beta=2.0)
    for step, beta in enumerate([0.1, 2.0]):  # the loss rises with beta alone
        kl = torch.ones(3)
        history.add(Terms(torch.tensor(100.0) + beta * kl.sum(), torch.tensor(100.0), kl, NONE))
        history.record(step, beta, 1e-3, None)
    assert history.losses().tolist() == [106.0, 106.0]
    assert "held-out" not in history.verdict("stopped_early", 1, 0, 6e-3, 20, 1000).message


def test_free_bits_count_in_what_judges_held_out_cells():
    history = History(per_step=0.5, n_steps=20, beta=1.0)
    terms = Terms(torch.tensor(130.0), torch.tensor(100.0), torch.ones(3), NONE)  # 10 nats free in each dimension
    history.add(terms)
    history.record(0, 1.0, 1e-3, terms)
    assert history.losses().tolist() == [130.0]


@pytest.mark.parametrize(
    ("n_cells", "n_steps", "rows"), [(500, 1000, 50), (10_000, 1000, 20), (10**6, 1000, 20), (3_000, 5, 5)]
)
def test_there_are_enough_looks_and_not_too_many(n_cells, n_steps, rows):
    history = History(per_step=min(128, n_cells) / n_cells, n_steps=n_steps, beta=1.0)
    assert sum(history.is_due(step) for step in range(n_steps)) == pytest.approx(rows, abs=1)
    assert history.is_due(n_steps - 1)


def test_history_averages_the_steps_between_records():
    history = History(per_step=0.01, n_steps=200, beta=1.0)
    assert history.interval == 10
    for loss in (4.0, 2.0, 3.0, 7.0):
        history.add(Terms(torch.tensor(loss), torch.tensor(loss), torch.ones(2), NONE))
    history.record(3, 0.5, 1e-3, None)
    columns = history.columns()
    assert columns["train_loss"].tolist() == [4.0]
    assert columns["epoch"].tolist() == [0.04]
    assert "validation_loss" not in columns
    assert columns["kl_per_dim"].tolist() == [[1.0, 1.0]]


def test_biases_and_norms_do_not_decay():
    model = CountVAE(ModelConfig(n_genes=50, n_batches=2, n_latent=3, batch_width=2, prior="conditional"))
    decayed, others = parameter_groups(model, 0.5)
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.5, 0.0)
    kept = {id(parameter) for parameter in others["params"]}
    names = {name for name, parameter in model.named_parameters() if id(parameter) in kept}
    assert {"decoder.rest.3.bias", "encoder.first.bias", "encoder.rest.0.weight"} <= names
    assert not {"decoder.rest.3.weight", "batch_embedding.embedding.weight", "likelihood.log_theta"} & names
    assert len(decayed["params"]) + len(names) == len(list(model.parameters()))
