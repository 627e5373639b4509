import threading

import numpy as np
import pytest
import torch

from sc_vaenb.data.counts import Counts
from sc_vaenb.fit.device import SMALL_STEP, in_parallel, threads_as_asked, threads_of_a_step
from sc_vaenb.fit.loop import fit
from sc_vaenb.fit.state import FitConfig
from sc_vaenb.fit.step_cpu import step_on_cpu
from sc_vaenb.inference.embed import latent_states
from sc_vaenb.model.config import ModelConfig

CPU = torch.device("cpu")


@pytest.fixture(params=[1, 2])
def n_threads(request, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_items_are_computed_in_several_threads_of_one_thread_each_and_come_in_order(n_threads):
    barrier, seen = threading.Barrier(n_threads, timeout=20), []

    def work(item):
        barrier.wait()  # passes only if so many items run at the same time
        seen.append(torch.get_num_threads())
        return item**2

    assert list(in_parallel(work, range(6), CPU)) == [0, 1, 4, 9, 16, 25]
    assert seen == [1] * 6
    assert torch.get_num_threads() == n_threads


def test_an_error_in_a_thread_is_raised(n_threads):
    def work(item):
        raise ValueError(item)

    with pytest.raises(ValueError, match="0"):
        list(in_parallel(work, range(9), CPU))
    assert torch.get_num_threads() == n_threads


def test_usual_steps_have_one_thread_and_large_ones_all(n_threads):
    for n_genes, expected in ((SMALL_STEP // 512, 1), (SMALL_STEP, n_threads)):
        with threads_as_asked(threads_of_a_step(512, n_genes)):
            assert torch.get_num_threads() == expected


def test_results_do_not_depend_on_the_number_of_threads(adata, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    before, results = torch.get_num_threads(), []
    matrix = adata.X.astype(np.float32).tocsr()
    counts = Counts(matrix, np.ones(adata.n_obs, np.float32), np.zeros(adata.n_obs, np.int64))
    config = ModelConfig(n_genes=adata.n_vars, n_latent=5, hidden=(64,), decoder_hidden=(64,))
    try:
        for n_threads in (1, 2):
            torch.set_num_threads(n_threads)
            model = fit(config, counts, FitConfig(30, 0.1), CPU, 0, make_step=step_on_cpu)[0]
            results.append(latent_states(model, counts, CPU))
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(*results)
