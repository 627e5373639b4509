"""What a user's session has set, other threads and forked processes: results stay, and so does the session."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
import calls

QUICK = [name for name in calls.CALLS if name != "posterior_check likelihoods"]


@pytest.fixture(scope="module")
def adata():
    return calls.prepared()


@pytest.fixture(scope="module")
def expected(adata):
    return {name: calls.run(name, adata) for name in QUICK}


@contextmanager
def setting(put, before, after):
    put(after)
    try:
        yield
    finally:
        put(before)


@contextmanager
def other_random_numbers():
    """What the global generators would give next is another thing."""
    states = torch.get_rng_state(), np.random.get_state()  # noqa: NPY002
    torch.manual_seed(987)
    np.random.seed(987)  # noqa: NPY002
    try:
        yield
    finally:
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])  # noqa: NPY002


STATES = {
    "float64": lambda: setting(torch.set_default_dtype, torch.float32, torch.float64),
    "no gradients": torch.no_grad,
    "inference mode": torch.inference_mode,
    "meta device": lambda: setting(torch.set_default_device, None, "meta"),
    "deterministic": lambda: setting(torch.use_deterministic_algorithms, False, True),
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "numpy raises": lambda: np.errstate(all="raise"),
    "copy on write": lambda: pd.option_context("mode.copy_on_write", True),
    "other random numbers": other_random_numbers,
}


def differing(found, expected):
    return sorted(name for name in found if found[name] != expected[name])


@pytest.mark.parametrize("state", STATES)
def test_results_do_not_depend_on_what_the_session_has_set(state, adata, expected):
    with STATES[state]():
        found = {name: calls.run(name, adata) for name in QUICK}
    assert differing(found, expected) == []


def session():
    """What must be as it was."""
    return {
        "torch": torch.get_rng_state().tolist(),
        "numpy": repr(np.random.get_state()),  # noqa: NPY002
        "threads": torch.get_num_threads(),
        "dtype": torch.get_default_dtype(),
        "gradients": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "filters": list(warnings.filters),
        "errors": np.geterr(),
        "environment": dict(os.environ),
    }


def test_threads_give_what_one_call_after_the_other_gives(adata, expected):
    """Each call beside others of all kinds, and beside itself."""
    before = session()
    order = [name for pair in zip(QUICK, [*QUICK[5:], *QUICK[:5]], strict=True) for name in pair]
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda name: calls.run(name, adata), order))
    assert [name for name, result in zip(order, found, strict=True) if result != expected[name]] == []
    assert {name for name, value in session().items() if value != before[name]} == set()


def python(code, **environment):
    """Run a program in a process of its own, which must end in time; what it printed."""
    paths = os.pathsep.join([str(Path(__file__).parents[1]), str(Path(__file__).parent)])
    variables = {**os.environ, "PYTHONPATH": paths, **environment}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(code)],
        capture_output=True, text=True, timeout=300, env=variables, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_process_computes_after_its_parent_has():
    """With two threads it would wait for ever for those that were not copied."""
    names = [name for name in QUICK if name not in {"pp.prepare", "harmony"}]
    out = python(
        f"""
        import multiprocessing, torch
        torch.set_num_threads(2)
        import calls
        adata = calls.prepared()
        names = {names}
        for name in names:
            calls.run(name, adata)
        def work(name):
            return calls.run(name, adata)
        with multiprocessing.get_context("fork").Pool(2) as pool:
            found = dict(zip(names, pool.map_async(work, names).get(200)))
        torch.set_num_threads(1)
        expected = {{name: calls.run(name, adata) for name in names}}
        print([name for name in names if found[name] != expected[name]])
        """,
        OMP_NUM_THREADS="2",
    )
    assert out.strip() == "[]"
