"""Several processes that share a fit, as torchrun starts them: two on the CPU, against one. See `several.py`."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import anndata as ad
import numpy as np
import pytest

import sc_vaenb
from sc_vaenb import cli
from sc_vaenb.fit import distributed
from sc_vaenb.fit.checkpoint import NAME

pytestmark = pytest.mark.slow

PATIENCE = 300  # seconds, for what takes ten on an idle machine
FIT = ["--n-latent", 4, "--hidden", 16, "--n-steps", 1000, "--batch-size", 33, "--device", "cpu"]
SCRIPT = Path(__file__).with_name("several.py")


needs_proc = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc to find a process")


def start(*typed, several=True, restarts=0):
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"] if several else []
    torchrun += ["--max-restarts", str(restarts)] if restarts else []
    return started(*torchrun, *typed)


def started(*typed, **variables):
    path = os.pathsep.join([str(Path(sc_vaenb.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", "PYTHONPATH": path}
    command = [sys.executable, *map(str, typed)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, env=environment | variables, text=True, **pipes)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What two processes found, and one, which ran at the same time."""
    folder = tmp_path_factory.mktemp("several")
    for process in (start(SCRIPT, folder), start(SCRIPT, folder / "alone", several=False)):
        error = process.communicate(timeout=PATIENCE)[1]
        assert process.returncode == 0, error
    return [folder / "alone" / "process_0", folder / "process_0", folder / "process_1"]


def test_two_processes_fit_what_one_does(found):
    one, first, second = (dict(np.load(path.with_suffix(".npz"))) for path in found)
    assert one.keys() == first.keys() == second.keys()
    for name, expected in one.items():
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)
        # rounding differs with the order of sums, and grows with the steps: how much depends on the processor
        close = 0 if name.startswith("one pass") else 1e-3 * np.nanmax(np.abs(expected))
        if "neighbors_explained" in name:  # where cells are about equally near, rounding decides which are neighbours
            close *= 10
        np.testing.assert_allclose(first[name], expected, rtol=0, atol=close, err_msg=name)


def test_what_processes_must_not_differ_in_and_cannot_share_is_refused(found):
    first, second = (json.loads(path.with_suffix(".json").read_text()) for path in found[1:])
    assert first == second
    assert first.pop("written") == "none"
    assert first.pop("other counts") == (
        "ValueError: The 2 processes of one fit were given different things: process 1 differs from process 0 in "
        "counts, size factors, batches. Give all the same data and arguments; for a fit of its own in each, start them "
        "without torchrun."
    )
    assert first.pop("no seed") == (
        "ValueError: 2 processes need one seed: with rng=None each draws its own. Give rng a whole number."
    )
    assert first.pop("cells that must be together") == (
        "ValueError: mmd=1.0, norm='batch', prior='mog' cannot be shared by 2 processes, as each would need all cells "
        "of a minibatch. Fit in one process (without torchrun), or leave it out."
    )
    assert first.pop("a bad count in one part").startswith(
        "ValueError: X holds negative values (cell 'cell_300', gene 'gene_0': -1): this looks scaled"
    )
    assert first.pop("empty cells in both parts").startswith(
        "ValueError: X: 2 cells have no counts in the 100 genes used (first: 'cell_7')"
    )
    differs = "ValueError: The 2 processes of one fit were given different things: process 1 differs from process 0 in "
    assert first.pop("on disk here, in memory there").startswith(differs + "whether counts are on disk. Give")
    assert first.pop("other counts on disk").startswith(differs + "counts, cells that the fit sees")
    folder = str(found[1].parent / "kept")
    assert (
        f"checkpoint={folder!r} holds the state of another fit. What differs: n_latent (4 there, 5"
        in first.popitem()[1]
    )


def test_one_process_goes_on_with_the_state_of_two(found, log):
    folder, fit = found[1].parent, {"layer": None, "n_latent": 4, "hidden": (16,), "n_steps": 40, "device": "cpu"}
    results = []
    for checkpoint in (None, folder / "kept"):
        adata = ad.read_h5ad(folder / "data.h5ad")
        sc_vaenb.tl.cvae(adata, "batch", checkpoint=checkpoint, **fit)
        results.append(adata.obsm["X_vae"])
    assert log.getvalue().count("continuing from step 40") == 1
    np.testing.assert_allclose(results[1], results[0], atol=1e-4)


@needs_proc
def test_a_killed_process_ends_the_job_and_the_same_command_goes_on(found, tmp_path):
    """To the bits of a fit by two processes that was not killed, written once."""
    file, out = found[1].with_name("data.h5ad"), tmp_path / "out"
    job = ["-m", "sc_vaenb", "cvae", file, *FIT, "--out", out, "--resume", "--backed"]

    process, kept = start(*job), out / "cvae_checkpoint"
    wait_for(lambda: states(kept), process)
    os.kill(process_of_rank(process.pid, 1), signal.SIGKILL)
    begun = time.monotonic()
    told, error = process.communicate(timeout=PATIENCE)
    assert process.returncode != 0
    assert time.monotonic() - begun < 60
    assert "written to" not in told
    assert "Signal 9 (SIGKILL)" in error  # torchrun says which process it was, and that it was killed
    assert [path.name for path in out.iterdir()] == ["cvae_checkpoint"]

    process = start(*job)
    told, error = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, error
    assert error.count("continuing from step") == 1
    assert told.count("written to") == 1
    check_result(out, found)


@needs_proc
def test_ctrl_c_ends_the_job_and_a_process_killed_later_is_started_again_by_torchrun(found, tmp_path):
    """To the bits of a fit that was not disturbed."""
    out = tmp_path / "out"
    kept, job = out / "cvae_checkpoint", ["-m", "sc_vaenb", "cvae", found[1].with_name("data.h5ad"), *FIT]
    job += ["--out", out, "--resume"]

    process = start(*job, restarts=1)
    wait_for(lambda: states(kept), process)
    children = [process_of_rank(process.pid, rank) for rank in range(2)]
    process.send_signal(signal.SIGINT)
    begun = time.monotonic()
    told, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode != 0
    assert time.monotonic() - begun < 60
    assert not any(Path(f"/proc/{child}").exists() for child in children)
    assert "written to" not in told
    before = states(kept)
    assert before

    process = start(*job, restarts=1)
    wait_for(lambda: states(kept) - before, process)
    os.kill(process_of_rank(process.pid, 1), signal.SIGKILL)
    told, error = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, error
    assert error.count("continuing from step") == 2
    assert told.count("written to") == 1
    check_result(out, found)


SILENT = """
import os, signal
from datetime import timedelta
import torch
from sc_vaenb.fit import distributed
distributed.PATIENCE = timedelta(seconds=3)
other = os.fork()  # with all loaded, so that neither waits for the other before it is there
os.environ["RANK"] = os.environ["LOCAL_RANK"] = "0" if other else "1"
try:
    with distributed.process_group(torch.device("cpu")) as processes:
        processes.check_same({})
        if not other:
            os.kill(os.getpid(), signal.SIGSTOP)
        processes.check_same({})
finally:
    if other:
        os.kill(other, signal.SIGKILL)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_process_that_does_not_answer_is_waited_for_as_long_as_patience_lasts():
    assert distributed.PATIENCE.total_seconds() == 1800
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    process = started("-c", SILENT, WORLD_SIZE="2", MASTER_ADDR="localhost", MASTER_PORT=port)
    error = process.communicate(timeout=PATIENCE)[1]
    assert process.returncode == 1
    assert "ConnectionError: Process 0 of 2 cannot go on: another one has ended, or cannot be reached (" in error
    assert "With a checkpoint, the same command goes on where the fit was." in error


def states(folder):
    """Names of the states in a folder, which may not be there yet."""
    return {path.name for path in folder.iterdir() if NAME.fullmatch(path.name)} if folder.exists() else set()


def check_result(out, found):
    (folder,) = out.iterdir()
    adata, expected = ad.read_h5ad(folder / "CVAE_NB.h5ad"), np.load(found[1].with_name("command_0.npz"))
    np.testing.assert_array_equal(adata.obsm["X_cvae"], expected["X_vae"])
    np.testing.assert_array_equal(adata.uns["cvae"]["history"]["train_loss"], expected["train_loss"])


def wait_for(condition, process):
    begun = time.monotonic()
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() - begun < PATIENCE
        time.sleep(0.05)


def process_of_rank(parent, rank):
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    (found,) = (int(pid) for pid in children if f"\0RANK={rank}\0" in Path(f"/proc/{pid}/environ").read_text())
    return found


@pytest.fixture
def torchrun(monkeypatch):
    """As if torchrun had started this process, the last of two."""
    for name, value in zip(distributed.ENVIRONMENT, ("1", "2", "1", "localhost", "1"), strict=True):
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("torchrun")
def test_commands_that_cannot_be_shared_are_refused(tmp_path, capsys):
    assert cli.main(["simulate", "--out", str(tmp_path / "a.h5ad")]) == 1
    assert capsys.readouterr().err == (
        "sc-vaenb: several processes can share vae and cvae alone. Start this command without torchrun.\n"
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("torchrun")
def test_each_process_has_a_device_of_its_own(monkeypatch):
    assert distributed.rank_and_size() == (1, 2)
    assert distributed.own_device("cpu").type == "cpu"
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert [str(distributed.own_device(name)) for name in ("auto", "cuda")] == ["cuda:1"] * 2
    with pytest.raises(ValueError, match=r"^device='cuda:0' cannot be shared by 2 processes\. Pass device='auto'"):
        distributed.own_device("cuda:0")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    with pytest.raises(ValueError, match=r"^Process 1 of 2 has no CUDA device of its own: this machine has 1\. Start "):
        distributed.own_device("auto")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: True)
    assert distributed.own_device("auto").type == "cpu"  # which gloo can reach
    monkeypatch.delenv("RANK")
    assert distributed.rank_and_size() == (0, 1)


@pytest.mark.parametrize(("n", "size"), [(33, 2), (1, 2), (10, 4), (128, 8)])
def test_parts_are_all_cells_once_and_about_equal(n, size):
    parts = [range(n)[distributed.Processes(rank, size).part(n)] for rank in range(size)]
    assert [cell for part in parts for cell in part] == list(range(n))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
