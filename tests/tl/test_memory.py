"""`tl.vae` and `tl.cvae` where the device has too little memory."""

import numpy as np
import pytest
import torch

from sc_vaenb import tl
from sc_vaenb.fit import checkpoint
from sc_vaenb.fit.loop import Step
from sc_vaenb.tl import _fit

ERRORS = {
    "CUDA": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB"),
    "torch on the CPU": RuntimeError("[enforce fail] . DefaultCPUAllocator: can't allocate memory: you tried to"),
    "MPS": RuntimeError("MPS backend out of memory (MPS allocated: 9 GB, max allowed: 9 GB)"),
    "numpy": MemoryError("Unable to allocate 9 GiB"),
}


@pytest.fixture
def room(monkeypatch):
    """A function that lets steps fail that have more cells, with an error, from some look on."""

    def limit(cells, error, from_look=0):
        look = Step.minibatch

        def minibatch(self, chosen):
            looks.append(len(chosen))
            if len(chosen) > cells and len(looks) > from_look:
                raise error
            return look(self, chosen)

        looks = []
        monkeypatch.setattr(Step, "minibatch", minibatch)

    return limit


@pytest.mark.slow
@pytest.mark.parametrize("error", ERRORS.values(), ids=ERRORS)
def test_half_the_cells_are_tried_until_they_fit(adata, fast, room, log, error):
    expected = tl.cvae(adata, "batch", batch_size=16, copy=True, **fast)
    room(20, error)
    log.truncate(0)
    tl.cvae(adata, "batch", batch_size=64, **fast)
    for size in (32, 16):
        assert f"cpu ran out of memory: the fit starts again with batch_size={size}." in log.getvalue()
    np.testing.assert_array_equal(adata.obsm["X_vae"], expected.obsm["X_vae"])
    assert adata.uns["vae"]["params"] == expected.uns["vae"]["params"]


@pytest.mark.slow
@pytest.mark.parametrize("error", ERRORS.values(), ids=ERRORS)
def test_there_is_an_end(adata, fast, room, refused, error):
    room(0, error)
    with refused(adata, MemoryError, r"cpu ran out of memory\. Lower batch_size or hidden"):
        tl.vae(adata, batch_size=64, **fast)


def test_another_error_is_no_reason(adata, fast, room, refused, log):
    room(20, RuntimeError("shapes differ"))
    with refused(adata, RuntimeError, "shapes differ"):
        tl.vae(adata, batch_size=64, **fast)
    assert "memory" not in log.getvalue()


@pytest.mark.slow
def test_a_checkpoint_remembers_it(adata, fast, room, refused, log, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "MAX_SHARE_OF_TIME", float("inf"))
    options = fast | {"batch_size": 64, "checkpoint": tmp_path}
    expected = tl.vae(adata, copy=True, **fast | {"batch_size": 32})
    room(40, MemoryError(), from_look=10)  # after states with 64 cells have been kept
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(checkpoint.Checkpoint, "offer", broken_off(checkpoint.Checkpoint.offer))
        with refused(adata, ZeroDivisionError, "killed"):
            tl.vae(adata, **options)
    log.truncate(0)
    tl.vae(adata, **options)
    assert "continuing from step" in log.getvalue()
    assert "ran out of memory" not in log.getvalue()
    np.testing.assert_array_equal(adata.obsm["X_vae"], expected.obsm["X_vae"])
    assert adata.uns["vae"]["params"]["batch_size"] == 32


def broken_off(offer):
    """`Checkpoint.offer` that is killed after it has kept the second state with fewer cells."""
    kept = []

    def offered(self, state, last):
        offer(self, state, last)
        kept.extend([state.step] if self.batch_size else [])
        if len(kept) == 2:
            raise ZeroDivisionError("killed")

    return offered


def test_counts_that_stay_on_the_host_are_told(adata, fast, refused, log, monkeypatch):
    def fit(*args):
        raise FloatingPointError("enough")

    monkeypatch.setattr(_fit, "fit", fit)
    monkeypatch.setattr(_fit, "to_device", lambda counts, device: (counts, Step))
    for device, told in (("cpu", False), ("cuda", True)):
        monkeypatch.setattr(_fit, "own_device", lambda _, device=device: torch.device(device))
        log.truncate(0)
        with refused(adata, FloatingPointError, "enough"):
            tl.vae(adata, **fast)
        assert (f"counts stay on the host and go to {device} step by step" in log.getvalue()) == told
