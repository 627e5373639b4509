"""Every write of the package: whole or not at all, under a name of its own, never through a link."""

import ast
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import anndata as ad
import numpy as np
import pytest

import sc_vaenb
from sc_vaenb import _files
from sc_vaenb.cli import _write
from sc_vaenb.fit import checkpoint

WRITERS = {"os.rename", "os.replace", "shutil.rmtree", "tempfile.mkdtemp", "tempfile.mkstemp", "TemporaryDirectory"}
NEW = "new"


def write_text(target):
    _files.write_text(NEW, target)


def write_bytes(target):
    _files.write_bytes(NEW.encode(), target)


def export_model(target):
    adata = sc_vaenb.datasets.simulate(60, 40, n_types=2, rng=0)
    sc_vaenb.tl.vae(adata, layer=None, n_latent=2, hidden=(4,), n_steps=2)
    sc_vaenb.tl.export_model(adata, target, force=True)


def save_figure(target):
    import matplotlib.pyplot as plt

    _write.save_figure(lambda: plt.subplots()[1], target)


def write_adata(target):
    _write.write_adata(ad.AnnData(np.ones((3, 2), np.float32)), target)


WAYS = {
    "a.txt": write_text,
    "a.bin": write_bytes,
    "a.safetensors": export_model,
    "a.svg": save_figure,
    "a.h5ad": write_adata,
    "a.zarr": write_adata,
}


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("name", WAYS)
def test_no_write_follows_a_link_or_touches_what_lies_in_the_folder(tmp_path, name):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("mine")
    folder = tmp_path / "folder"
    folder.mkdir()
    target = folder / name
    target.symlink_to(outside if name == "a.zarr" else outside / "precious")
    for old in (f".{name}.partial", f".a.partial{target.suffix}", f".{_files.PREFIX}x", ".sc_vaenb.partial"):
        (folder / old).symlink_to(outside / "precious")
    before = names(folder)
    WAYS[name](target)
    assert (outside / "precious").read_text() == "mine"
    assert names(outside) == ["precious"]
    assert names(folder) == before
    assert not target.is_symlink()
    assert target.is_dir() == (name == "a.zarr")


@pytest.mark.slow
@pytest.mark.parametrize("name", WAYS)
def test_names_as_long_as_a_file_system_takes_are_written(tmp_path, name):
    suffix = Path(name).suffix
    target = tmp_path / ("n" * (255 - len(suffix)) + suffix)
    for _ in range(2):  # the second replaces the first
        WAYS[name](target)
        assert names(tmp_path) == [target.name]


def failing(path):
    with _files.atomic_path(path) as partial:
        partial.write_text("half")
        raise ValueError("half")


def test_two_writers_of_one_file_do_not_meet(tmp_path):
    inside, go_on = threading.Event(), threading.Event()

    def slow():
        with _files.atomic_path(tmp_path / "a") as partial:
            partial.write_text("slow")
            inside.set()
            go_on.wait()

    thread = threading.Thread(target=slow)
    thread.start()
    inside.wait()
    _files.write_text("quick", tmp_path / "a")  # clears nothing of a run that goes on
    assert (tmp_path / "a").read_text() == "quick"
    with pytest.raises(ValueError, match="half"):
        failing(tmp_path / "a")
    assert len(names(tmp_path)) == 2
    go_on.set()
    thread.join()
    assert (tmp_path / "a").read_text() == "slow"
    assert names(tmp_path) == ["a"]


def killed_while_writing(folder, code):
    """What a process leaves that is killed where `code` writes `pause()`."""
    start = f"""
import os, signal
from pathlib import Path
from sc_vaenb import _files
folder = Path({str(folder)!r})
def pause(): os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", start + code], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr


def test_what_a_killed_run_leaves_is_cleared_by_the_next(tmp_path):
    (tmp_path / "a").write_text("before")
    code = """
with _files.atomic_path(folder / "a") as partial:
    partial.write_text("half")
    pause()
"""
    killed_while_writing(tmp_path, code)
    assert len(names(tmp_path)) == 2
    assert (tmp_path / "a").read_text() == "before"
    mine = tmp_path / f"{_files.PREFIX}notes"  # no name that the package makes
    mine.mkdir()
    _files.write_text("new", tmp_path / "b")
    assert names(tmp_path) == [mine.name, "a", "b"]


def test_a_folder_that_stepped_aside_comes_back(tmp_path):
    (tmp_path / "a.zarr").mkdir()
    (tmp_path / "a.zarr" / "x").write_text("before")
    code = """
rename = Path.rename
def halting(source, target):
    if source.parent.parent == folder and source.name == "a.zarr": pause()
    rename(source, target)
Path.rename = halting
with _files.atomic_path(folder / "a.zarr") as partial:
    partial.mkdir()
"""
    killed_while_writing(tmp_path, code)
    assert not (tmp_path / "a.zarr").exists()
    _files.clear_leftovers(tmp_path)
    assert (tmp_path / "a.zarr" / "x").read_text() == "before"
    assert names(tmp_path) == ["a.zarr"]


def test_without_locks_only_old_leftovers_go(monkeypatch, tmp_path):
    def no_locks(_):
        raise OSError("no locks here")

    monkeypatch.setattr(_files, "_lock", no_locks)
    for name in ("aaaaaaaa", "bbbbbbbb"):
        (tmp_path / f"{_files.PREFIX}{name}").mkdir()
    old = time.time() - 2 * _files.MAX_AGE
    os.utime(tmp_path / f"{_files.PREFIX}aaaaaaaa", (old, old))
    _files.write_text("new", tmp_path / "a")
    assert names(tmp_path) == [f"{_files.PREFIX}bbbbbbbb", "a"]
    with _files.only_user(tmp_path, "busy"), _files.only_user(tmp_path, "busy"):
        assert (tmp_path / "a").read_text() == "new"


@pytest.mark.skipif(sys.platform == "win32", reason="needs locks of folders")
def test_a_folder_is_held_by_one_run_and_free_after_it(tmp_path):
    def held():
        with _files.only_user(tmp_path, "another run is here"):
            return True

    (tmp_path / "link").symlink_to(tmp_path)
    for name in (tmp_path, tmp_path / "link"):
        with _files.only_user(name, "first"):
            assert held()  # by the same run
            with ThreadPoolExecutor(1) as other, pytest.raises(BlockingIOError, match="another run is here"):
                other.submit(held).result()
        with ThreadPoolExecutor(1) as other:
            assert other.submit(held).result()


def test_new_folders_never_replace_one(tmp_path):
    found = []
    for content in "abc":
        with _files.work_folder(tmp_path) as work:
            (work / "r").mkdir()
            (work / "r" / "file").write_text(content)
            found.append(_files.move_new(work / "r", tmp_path / "results"))
    assert [path.name for path in found] == ["results", "results_2", "results_3"]
    assert [(path / "file").read_text() for path in found] == ["a", "b", "c"]
    assert names(tmp_path) == ["results", "results_2", "results_3"]


def test_states_of_a_fit_are_removed_and_nothing_else(tmp_path):
    (tmp_path / "step_000000001_00000000.safetensors").touch()
    (tmp_path / "notes.txt").touch()
    checkpoint.remove_states(tmp_path)
    assert names(tmp_path) == ["notes.txt"]


@pytest.mark.slow
def test_only_one_file_of_the_package_renames_and_removes():
    root = Path(sc_vaenb.__file__).parent
    found = []
    for file in root.rglob("*.py"):
        if file.name == "_files.py" and file.parent == root:
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute | ast.Name)):
                continue
            moves = node.func.attr == "replace" if isinstance(node.func, ast.Attribute) else False
            if ast.unparse(node.func) in WRITERS or (moves and len(node.args) == 1 and not node.keywords):
                found.append(f"{file.relative_to(root).as_posix()}: {ast.unparse(node)}")
    assert found == []


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs limits of the size of files")
@pytest.mark.parametrize("limit", [0, 20_000, 170_000])
def test_a_full_disk_ends_a_command_with_one_line(tmp_path, limit):
    # a limit of the size of files ends writes in the same places as a full disk, in HDF5 as well
    code = f"""
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
sys.argv = ["sc-vaenb", "simulate", "--out", {str(tmp_path / "a.h5ad")!r}, "--n-cells", "400", "--n-genes", "200"]
from sc_vaenb.cli import main
sys.exit(main())
"""
    environment = {**os.environ, "PYTHONWARNINGS": "ignore", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    expected = "loading libraries\n"
    expected += f"sc-vaenb: a.h5ad could not be written to {tmp_path}: File too large. What was there is unchanged.\n"
    assert (done.returncode, done.stderr) == (1, expected)
    assert names(tmp_path) == []
