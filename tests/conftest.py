"""What the tests share: small simulated data, published data where they are, and ways to see what has changed."""

from __future__ import annotations

import io
import os
import sys
from contextlib import contextmanager
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:  # as many processes as cores: one thread each, before anything starts some
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import anndata as ad
import matplotlib
import numpy as np
import pytest
from scipy import sparse as sp

import sc_vaenb

matplotlib.use("Agg")

DATA = Path(__file__).parents[2] / "shared" / "data"
FAST = {"n_latent": 4, "hidden": (16,), "n_steps": 20, "device": "cpu"}


def pytest_collection_modifyitems(items):
    """Mark what reads published data, and skip what needs a GPU where there is none."""
    for item in items:
        if "published" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.data)
        if item.get_closest_marker("gpu") and not sys.modules["torch"].cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(autouse=True)
def _threads():
    """Give torch its number of threads back: numba's parallel code (UMAP, neighbours) changes it."""
    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch else 0
    yield
    if torch and torch.get_num_threads() != before:
        torch.set_num_threads(before)


@pytest.fixture(scope="session")
def another_run():
    """Hold a folder as another process would; skips where folders cannot be locked."""
    fcntl = pytest.importorskip("fcntl")

    @contextmanager
    def hold(folder):
        handle = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        finally:
            os.close(handle)

    return hold


@pytest.fixture(scope="session")
def latent_states():
    """The latent states of all cells, as the encoder of a stored model gives them."""

    def states(adata, key="vae"):
        import torch

        from sc_vaenb._record import FittedModel
        from sc_vaenb.inference import embed
        from sc_vaenb.tl._counts import read_counts

        stored = FittedModel.from_uns(adata, key)
        return embed.latent_states(stored.model, read_counts(adata, key, stored), torch.device("cpu"))

    return states


@pytest.fixture(scope="session")
def fast():
    """Parameters of a fit that takes a tenth of a second."""
    return FAST.copy()


@pytest.fixture(scope="session")
def simulated():
    """300 cells x 100 genes, three types in two batches, counts in X and in a layer; not to be changed."""
    adata = sc_vaenb.datasets.simulate(300, 100, n_types=3, n_batches=2, mean_depth=500, rng=0)
    adata.layers["counts"] = adata.X.copy()
    return adata


@pytest.fixture
def adata(simulated):
    return simulated.copy()


@pytest.fixture(scope="session")
def _fitted(simulated, fast):
    """The same with a conditional model whose encoder knows the batch: the one with the most to store."""
    return sc_vaenb.tl.cvae(simulated, "batch", encode_batch=True, copy=True, **fast)


@pytest.fixture
def fitted(_fitted):
    return _fitted.copy()


@pytest.fixture(scope="session")
def published():
    """Read published data by their name; skips where they are not."""

    def read(name):
        path = DATA / f"{name}.h5ad"
        if not path.exists():
            pytest.skip(f"{path} is absent: published data are not part of the project")
        return ad.read_h5ad(path)

    return read


def contents(value):
    """Everything in an AnnData, a mapping, a table or an array, as nested dicts of bytes and plain values."""
    if hasattr(value, "obsm"):
        names = ("obs", "var", "obsm", "varm", "obsp", "varp", "layers", "uns")
        parts = {name: contents(getattr(value, name)) for name in names}
        return parts | {"X": contents(value.X), "view": value.is_view, "backed": value.isbacked}
    if hasattr(value, "columns"):
        index = value.index.astype(object).tolist()
        return {"index": index} | {name: (str(value[name].dtype), repr(value[name].tolist())) for name in value}
    if hasattr(value, "items"):
        return {key: contents(part) for key, part in value.items() if key is not None}  # anndata 0.13: X as None
    if sp.issparse(value):
        arrays = [value.data, value.indices, value.indptr] if value.format in {"csr", "csc"} else [value.toarray()]
        return [type(value).__name__, value.shape, [contents(array) for array in arrays]]
    if isinstance(value, np.ndarray):
        return [str(value.dtype), value.shape, repr(value.tolist()) if value.dtype == object else value.tobytes()]
    return repr(value)


@pytest.fixture
def unchanged():
    """A context in which an AnnData stays what it is, bit for bit."""

    @contextmanager
    def check(adata):
        before = contents(adata)
        yield
        after = contents(adata)
        assert after.keys() == before.keys()
        for name in before:
            assert after[name] == before[name], f"{name} has changed"

    return check


@pytest.fixture
def refused(unchanged):
    """A context that must end in an error with this text (a regular expression) and leave the AnnData unchanged."""

    @contextmanager
    def check(adata, error, text):
        with unchanged(adata), pytest.raises(error, match=text):
            yield

    return check


@pytest.fixture
def log():
    """What scanpy's logger says, down to hints; read it with `log.getvalue()`."""
    import scanpy as sc

    text = io.StringIO()
    verbosity, logfile = sc.settings.verbosity, sc.settings.logfile
    sc.settings.logfile, sc.settings.verbosity = text, 3
    yield text
    sc.settings.logfile, sc.settings.verbosity = logfile, verbosity
