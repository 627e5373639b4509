"""What `test_crash.py` has killed: `python victim.py fits FOLDER` or `python victim.py files FOLDER`.

Every life is a fork of this process, which has loaded the libraries and started no thread. What was seen is printed as
JSON; what must not be ends the script.
"""

import itertools
import json
import os
import shutil
import signal
import sys
import time
import traceback
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
import torch._dynamo  # optimisers load it when they are made
from scipy import sparse

from sc_vaenb import _files
from sc_vaenb._files import WORK
from sc_vaenb.data.counts import Counts
from sc_vaenb.fit import checkpoint
from sc_vaenb.fit.checkpoint import NAME, Checkpoint, identity, read
from sc_vaenb.fit.loop import fit
from sc_vaenb.fit.state import FitConfig
from sc_vaenb.model.config import ModelConfig

CPU = torch.device("cpu")
CONFIG = ModelConfig(n_genes=40, n_latent=3, hidden=(16,), decoder_hidden=(16,))
OPTIONS = FitConfig(n_steps=60, weight_decay=0.1, batch_size=32)  # with a look every third step
CASES = {
    "plain": (CONFIG, OPTIONS),
    "buffers and dropout": (replace(CONFIG, norm="batch", dropout=0.3), OPTIONS),
    "patience": (CONFIG, replace(OPTIONS, learning_rate=2e-2, beta=0.01, warmup=0.01, patience=2)),
}
KILLS = 8  # at random moments, for each of these
FUSES = 12  # calls on the disk that end a life; there are five in writing a state
FILES = {"a.h5ad": 8, "a.zarr": 8}


def fork(work, *arguments):
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        work(*arguments)
        code = 0
    except BaseException:
        traceback.print_exc()
    os._exit(code)


def lived(process):
    """Wait for the end of a process; whether it was its own."""
    status = os.waitpid(process, 0)[1]
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "a process failed"
    return not os.WIFSIGNALED(status)


def survived(process, seconds):
    """Kill a process after so many seconds; whether it had ended before."""
    time.sleep(seconds)
    os.kill(process, signal.SIGKILL)
    return lived(process)


def timed(work, *arguments):
    begun = time.perf_counter()
    assert lived(fork(work, *arguments))
    return time.perf_counter() - begun


# Fits


def one_fit(case, folder, out, fuse=0):
    """Fit with a state in `folder` at every look (without one if that is None), and write the result to `out`."""
    rng = np.random.default_rng(0)
    dense = rng.poisson(np.kron(np.eye(2), np.full((50, 20), 4.0)) + 0.1).astype(np.float32)
    counts = Counts(sparse.csr_matrix(dense), np.ones(100, np.float32), np.zeros(100, np.int64))
    config, options = CASES[case]
    checkpoint.MAX_SHARE_OF_TIME = float("inf")
    light(fuse)

    def unexpected(warning):
        raise AssertionError(warning)

    kept = folder and Checkpoint(folder, identity(config, counts, options, 0), unexpected)
    model, history, verdict = fit(config, counts, options, CPU, 0, checkpoint=kept)
    columns = {name: values for name, values in history.columns().items() if name != "seconds"}
    weights = {name: value.numpy() for name, value in model.state_dict().items()}
    np.savez(out, **columns, **weights, verdict=np.array(json.dumps(asdict(verdict))))


def light(fuse):
    """End this life at so manieth a call on the disk: half a file written, not yet flushed, not yet renamed, ..."""
    left = itertools.count(fuse, -1)
    next(left)

    def burn():
        if next(left) == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def burning(function):
        def call(*arguments, **more):
            burn()
            return function(*arguments, **more)

        return call

    def halting(path, content):
        with path.open("wb") as file:
            file.write(content[: len(content) // 2])
            file.flush()
            burn()
            file.write(content[len(content) // 2 :])

    os.fsync, Path.write_bytes = burning(os.fsync), halting
    Path.replace, Path.unlink = burning(Path.replace), burning(Path.unlink)


def steps_in(folder):
    """Steps of the states in a folder, each of which must be whole."""
    paths = sorted(path for path in folder.iterdir() if NAME.fullmatch(path.name))
    assert len(paths) <= 3, paths  # the oldest goes last
    works = [path for path in folder.iterdir() if WORK.fullmatch(path.name)]
    assert len(works) <= 1  # what was left before is cleared
    assert {path.name for path in folder.iterdir()} == {path.name for path in (*works, *paths)}
    return [0, *(read(path)[1]["state"]["step"] for path in paths)]


def same(one, other):
    one, other = np.load(one), np.load(other)
    return set(one) == set(other) and all(one[name].tobytes() == other[name].tobytes() for name in one)


def fits(folder):
    rng, seen = np.random.default_rng(0), {}
    for case in CASES:
        expected, found, kept = folder / "expected.npz", folder / "found.npz", folder / "kept"
        seconds = timed(one_fit, case, None, expected)
        kills, finished, lost = [], [], 0
        while len(kills) < KILLS or kept.exists():
            kept.mkdir(exist_ok=True)
            before = steps_in(kept)[-1]
            ended = survived(fork(one_fit, case, kept, found), rng.uniform(0, seconds))
            after = steps_in(kept)[-1]
            lost += after < before
            if not ended:
                kills.append(after)
                continue
            finished.append(same(expected, found))
            found.unlink()
            shutil.rmtree(kept)
        seen[case] = {"kills": kills, "finished": finished, "lost": lost}
    kept.mkdir()
    timed(one_fit, "plain", None, expected)
    deaths = []
    for fuse in range(1, FUSES + 1):
        assert not lived(fork(one_fit, "plain", kept, found, fuse))
        deaths.append([steps_in(kept)[-1], any(kept.glob(".sc_vaenb-*/step_*"))])
    timed(one_fit, "plain", kept, found)
    seen["at each call"] = {"deaths": deaths, "same": same(expected, found), "left": sorted(os.listdir(kept))}
    return seen


# Files of the command line


def write_on_and_on(path, times=0):
    """Replace a file by one with other values, again and again."""
    import anndata as ad

    from sc_vaenb.cli._write import write_adata

    for life in range(times) if times else itertools.count(os.getpid()):
        write_adata(ad.AnnData(np.full((400, 300), 1 + life % 1000, np.float32)), path)


def check_file(path):
    import anndata as ad

    _files.clear_leftovers(path.parent)  # a folder that stepped aside comes back
    values = (ad.read_h5ad(path) if path.suffix == ".h5ad" else ad.read_zarr(path)).X
    assert values.shape == (400, 300)
    assert (values == values[0, 0]).all()
    assert values[0, 0] >= 1


def files(folder):
    import anndata  # noqa: F401

    rng, seen = np.random.default_rng(0), {}
    for name, kills in FILES.items():
        path, halves = folder / name, 0
        timed(write_on_and_on, path, 1)
        seconds = timed(write_on_and_on, path, 2)
        for _ in range(kills):
            assert not survived(fork(write_on_and_on, path), rng.uniform(0.2, 1.5) * seconds)
            halves += any(folder.glob(f".sc_vaenb-*/{name}"))
            timed(check_file, path)
        seen[name] = {"kills": kills, "halves": halves}
    return seen


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps({"fits": fits, "files": files}[sys.argv[1]](Path(sys.argv[2]))))
