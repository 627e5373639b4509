"""What a user's session has set, other threads and forked processes: results stay, and so does the session."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import textwrap
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import sc_vaenb
from sc_vaenb import metrics

from . import table

pytestmark = pytest.mark.slow

VARIANTS = {  # parts of a model that the rows of the table do not use
    "tl.vae mog": {"prior": "mog", "n_components": 3, "dropout": 0.2},
    "tl.vae vamp": {"prior": "vamp", "n_components": 3, "dropout": 0.1},
    "tl.vae zinb": {"likelihood": "zinb", "norm": "batch"},
    "tl.vae protein": {"protein_key": "proteins", "patience": 1},
    "tl.vae peaks": {"peaks_key": "peaks"},
    "tl.cvae penalties": {"prior": "conditional", "dispersion": "gene-batch", "adversary": 1.0, "mmd": 1.0},
    "tl.cvae labels": {"labels_key": "cell_type", "covariate_keys": ["score"], "encode_batch": True},
    "tl.interpolate manifold": {"path": "manifold"},
    "tl.sample prior": {"source": "prior"},
    "tl.map_query new batch": {"batch_key": "all"},
}
QUICK = [name for name in table.FUNCTIONS if name[:3] in {"pp.", "tl."} and name not in {"tl.compare", "tl.tune"}]


@pytest.fixture(scope="module")
def adata():
    adata = table.small(200, whole=False)
    adata.obs["all"] = "one"
    return adata


@pytest.fixture(scope="module")
def calls(adata, tmp_path_factory):
    """Every call of this file by its name: a function of an AnnData; the results as bytes."""
    rows = table.rows(adata, tmp_path_factory.mktemp("rows"))

    def with_anndata(name, changes):
        return lambda adata: table.run(name, rows[name].call | changes, adata)

    def scored(adata):
        labels, batch = (adata.obs[name].to_numpy(str) for name in ("cell_type", "batch"))
        return table.snapshot({"scores": metrics.score(adata.obsm["X_vae"], labels, batch, k=30)})

    def clustered(adata):
        return table.snapshot(metrics.leiden(metrics.fuzzy_graph(metrics.knn(adata.obsm["X_vae"], 15)), (0.5, 1.0)))

    return (
        {name: with_anndata(name, {}) for name in QUICK}
        | {name: with_anndata(name.split()[0], changes) for name, changes in VARIANTS.items()}
        | {"metrics.score": scored, "metrics.leiden": clustered}
        | {"datasets.simulate": lambda _: table.snapshot(sc_vaenb.datasets.simulate(100, 30))}
    )


@pytest.fixture(scope="module")
def expected(adata, calls):
    return {name: call(adata) for name, call in calls.items()}


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
def test_results_do_not_depend_on_what_the_session_has_set(state, adata, calls, expected):
    with STATES[state]():
        found = {name: call(adata) for name, call in calls.items()}
    assert differing(found, expected) == []


def test_threads_give_what_one_call_after_the_other_gives(adata, calls, expected):
    """Each call beside others of all kinds, and beside itself."""
    before = table.session()
    names = list(calls)
    order = [name for pair in zip(names, [*names[5:], *names[:5]], strict=True) for name in pair]
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda name: calls[name](adata), order))
    assert [name for name, result in zip(order, found, strict=True) if result != expected[name]] == []
    assert {name for name, value in table.session().items() if value != before[name]} == set()


def python(code, **environment):
    """Run a program in a process of its own, which must end in time; what it printed."""
    paths = os.pathsep.join([str(Path(sc_vaenb.__file__).parents[1]), str(Path(__file__).parent)])
    variables = {**os.environ, "PYTHONPATH": paths, **environment}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(code)],
        capture_output=True, text=True, timeout=300, env=variables, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_process_computes_after_its_parent_has(tmp_path):
    """With two threads it would wait for ever for those that were not copied."""
    out = python(
        f"""
        import multiprocessing, pathlib, torch
        torch.set_num_threads(1)
        import table
        adata = table.small(200, whole=False)
        rows = table.rows(adata, pathlib.Path({str(tmp_path)!r}))
        names = ["tl.vae", "tl.cvae", "tl.normalized", "tl.sample"]
        expected = [table.run(name, rows[name].call, adata) for name in names]
        torch.set_num_threads(2)
        (torch.ones(2000, 2000) @ torch.ones(2000, 2000)).log()  # starts a second thread
        def work(name):
            return table.run(name, rows[name].call, adata)
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
