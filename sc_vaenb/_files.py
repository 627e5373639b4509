"""Atomic writes: a file is complete or absent, links are never followed, and parallel runs do not disturb each other.

A file is written to a new work folder beside its target and renamed from there. The name of the work folder is random,
and the folder is created exclusively: two runs never share one, and existing files are neither followed nor
overwritten. The run holds a lock on the work folder. The system releases the lock when the run ends, also if it is
killed. So the next run can distinguish leftovers of a killed run from files that another run is writing.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

PREFIX = ".sc_vaenb-"
WORK = re.compile(re.escape(PREFIX) + r"[a-z0-9_]{8}")
REPLACED = "replaced"  # in a work folder: the old folder, until the new one has its name
MAX_AGE = 7 * 24 * 3600.0  # seconds; where locks are not possible, an older work folder is a leftover
HDF5_ERRNO = re.compile(r"errno = (\d+)")  # how HDF5 states the system's error number in its long message

_held: ContextVar[frozenset[Path]] = ContextVar("_held", default=frozenset())  # folders that callers hold already


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path of the same name, renamed to `path` at the end: if writing fails, the old file stays."""
    try:
        with work_folder(path.parent) as work:
            yield work / path.name
            move(work / path.name, path)
    except (OSError, RuntimeError) as error:
        reason = _disk_full_reason(error)
        if reason is None:
            raise
        work = next((parent for parent in path.parents if WORK.fullmatch(parent.name)), path)
        msg = f"{path.name} could not be written to {work.parent}: {reason}. What was there is unchanged."
        raise OSError(msg) from error


def write_text(text: str, path: Path) -> None:
    write_bytes(text.encode(), path)


def write_bytes(content: bytes, path: Path) -> None:
    with atomic_path(path) as partial:
        partial.write_bytes(content)


@contextmanager
def work_folder(folder: Path) -> Iterator[Path]:
    """A new work folder in `folder`. Files that are not moved out of it are removed at the end."""
    clear_leftovers(folder)
    work, handle = _new_locked(folder)
    try:
        yield work
    finally:
        _remove(work)
        if handle is not None:
            os.close(handle)


def move(source: Path, target: Path) -> None:
    """Replace `target` by `source`, which is in a work folder. Its content is on the disk before it gets the name."""
    if source.is_dir():
        replaced = source.parent / REPLACED
        if os.path.lexists(target):  # a folder cannot replace another; after an error `_remove` moves it back
            replaced.mkdir()
            target.rename(replaced / target.name)
        source.rename(target)
    else:
        _flush(source)
        source.replace(target)
    _flush(target.parent)


def move_new(source: Path, target: Path) -> Path:
    """Move a folder to `target` or, if that exists, to the same name with _2, _3, ...; nothing is replaced."""
    number, candidate = 1, target
    while True:
        try:
            if not os.path.lexists(candidate):
                source.rename(candidate)  # fails if another run has just made a folder of this name, unless it is empty
                _flush(target.parent)
                return candidate
        except OSError:
            if not os.path.lexists(candidate):
                raise
        number += 1
        candidate = target.with_name(f"{target.name}_{number}")


@contextmanager
def only_user(folder: Path, busy: str) -> Iterator[None]:
    """Lock an existing folder for this run, or raise a BlockingIOError with the message `busy`.

    The system releases the lock when the run ends, also if it is killed. On file systems without locks nothing is
    locked. Functions called inside this context may lock the same folder again.
    """
    folder = folder.resolve()
    if folder in _held.get():
        yield
        return
    try:
        lock = _lock(folder)
    except BlockingIOError:
        raise BlockingIOError(busy) from None
    except OSError:
        lock = None
    token = _held.set(_held.get() | {folder})
    try:
        yield
    finally:
        _held.reset(token)
        if lock is not None:
            os.close(lock)


def clear_leftovers(folder: Path) -> None:
    """Remove the work folders of runs that were killed."""
    for entry in list(os.scandir(folder)):
        if not (WORK.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False)):
            continue
        handle = None
        try:
            handle = _lock(Path(entry.path))
        except BlockingIOError:  # a run is writing to it
            continue
        except OSError:  # no locks on this file system, or the folder is gone
            if not os.path.exists(entry.path) or time.time() - entry.stat().st_mtime < MAX_AGE:
                continue
        _remove(Path(entry.path))
        if handle is not None:
            os.close(handle)


def is_real_folder(path: Path) -> bool:
    """Whether there is a folder, not a link to one."""
    return path.is_dir() and not path.is_symlink()


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _new_locked(folder: Path) -> tuple[Path, int | None]:
    while True:
        work = Path(tempfile.mkdtemp(prefix=PREFIX, dir=folder))
        try:
            handle = _lock(work)
            if os.path.exists(work):
                return work, handle
            os.close(handle)  # another run removed it as a leftover before it was locked
        except (BlockingIOError, FileNotFoundError):
            continue
        except OSError:
            return work, None


def _lock(folder: Path) -> int:
    """Lock a folder. Raise BlockingIOError if it is locked already, another OSError if locks are not possible."""
    if fcntl is None:
        raise OSError("there are no locks of folders on this system")
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        os.close(handle)
        raise
    return handle


def _remove(work: Path) -> None:
    """Remove a work folder. An old folder in it is moved back if its name is still free."""
    replaced = work / REPLACED
    if replaced.is_dir():
        for folder in list(replaced.iterdir()):
            if not os.path.lexists(work.parent / folder.name):
                folder.rename(work.parent / folder.name)
    shutil.rmtree(work, ignore_errors=True)


def _flush(path: Path) -> None:
    """Write the content of a file, or the names in a folder, to the disk (fsync)."""
    if os.name == "nt":  # Windows cannot open a folder
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _disk_full_reason(error: BaseException) -> str | None:
    """The system's text for a full disk, quota or file size limit, if that was the error."""
    match = HDF5_ERRNO.search(str(error))
    code = int(match[1]) if match else getattr(error, "errno", None)
    return os.strerror(code) if code in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG} else None
