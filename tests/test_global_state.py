"""What a user's session has set, other threads and forked processes: results stay, and so does the session."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
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
    out = python(
        """
        import multiprocessing, torch
        torch.set_num_threads(1)
        import calls
        adata = calls.prepared()
        names = ["vae", "cvae", "normalized", "sample"]
        expected = [calls.run(name, adata) for name in names]
        torch.set_num_threads(2)
        (torch.ones(2000, 2000) @ torch.ones(2000, 2000)).log()  # starts a second thread
        def work(name):
            return calls.run(name, adata)
        with multiprocessing.get_context("fork").Pool(2) as pool:
            found = pool.map_async(work, names).get(250)
        print([name for name, a, b in zip(names, found, expected) if a != b])
        """,
        OMP_NUM_THREADS="2",
    )
    assert out.strip() == "[]"


def test_code_is_compiled_for_the_session_where_it_cannot_be_kept(tmp_path):
    """A full disk shows when the first call has been compiled, damaged files when they are read."""
    out = python(
        """
        from numba.core import caching
        def full(*arguments):
            raise OSError(28, "No space left on device")
        caching.IndexDataCacheFile.save = full
        import numpy as np
        from scipy.sparse import csr_matrix
        from sc_vaenb.data.counts import csr_rows
        print([part.tolist() for part in csr_rows(csr_matrix(np.eye(2, dtype=np.float32)), np.array([1, 0]))])
        """,
        NUMBA_CACHE_DIR=str(tmp_path),
    )
    assert out.strip() == "[[0, 1], [1, 0], [1.0, 1.0]]"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can become another user")
def test_the_command_runs_without_a_folder_of_its_own():
    """As in a container with a random user id."""
    with tempfile.TemporaryDirectory() as folder:  # pytest's own folders are closed to other users
        os.chmod(folder, 0o777)
        out = python(
            f"""
            import os, tempfile
            tempfile.tempdir = {folder!r}
            from sc_vaenb import _caches
            os.setuid(65534)  # who may not be able to read Python's own files
            _caches._packages = lambda: []  # those of this test can be the user's own
            _caches.ensure_caches()
            numba, matplotlib = os.environ["NUMBA_CACHE_DIR"], os.environ["MPLCONFIGDIR"]
            print(os.path.dirname(numba), numba == matplotlib)
            """,
            HOME="/nonexistent",
        )
    assert out.split() == [folder, "True"]
