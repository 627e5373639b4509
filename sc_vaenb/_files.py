"""Every file that the package writes: there whole or not at all, never through a link, never in another run's way.

A file is written into a new folder beside its place and renamed from there. The name of that folder is random and it is
made exclusively: two runs never share one, and nothing that lay there before is followed or overwritten. The run holds
a lock on the folder, which the system releases when the run ends, however it ends: so the next run can tell what a
killed run left behind from what another run is writing.
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
ASIDE = "replaced"  # in such a folder: what a new folder replaces, until the new one is in its place
MAX_AGE = 7 * 24 * 3600.0  # seconds after which a folder without a lock is left over, where locks are not possible
NO_ROOM = re.compile(r"errno = (\d+)")  # how HDF5 names the error of the system, in a page of text

_held: ContextVar[frozenset[Path]] = ContextVar("_held", default=frozenset())  # folders, by whoever called this


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A path of the same name to write to, renamed to `path` at the end: a failed run leaves what was."""
    try:
        with work_folder(path.parent) as work:
            yield work / path.name
            move(work / path.name, path)
    except (OSError, RuntimeError) as error:
        reason = _no_room(error)
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
    """A new folder in `folder` to write into. What is not moved out of it is removed at the end."""
    clear_leftovers(folder)
    work, handle = _new_locked(folder)
    try:
        yield work
    finally:
        _remove(work)
        if handle is not None:
            os.close(handle)


def move(source: Path, target: Path) -> None:
    """Have `source`, in a work folder, take the place of `target`, with its content on the disk before its name."""
    if source.is_dir():
        aside = source.parent / ASIDE
        if os.path.lexists(target):  # no folder can be renamed onto another; `_remove` puts it back if need be
            aside.mkdir()
            target.rename(aside / target.name)
        source.rename(target)
    else:
        _flush(source)
        source.replace(target)
    _flush(target.parent)


def move_new(source: Path, target: Path) -> Path:
    """Move a folder to `target`, or to the same name with _2, _3, ... where that is taken: nothing is replaced."""
    number, free = 1, target
    while True:
        try:
            if not os.path.lexists(free):
                source.rename(free)  # fails if another run has made a folder of this name since, unless it is empty
                _flush(target.parent)
                return free
        except OSError:
            if not os.path.lexists(free):
                raise
        number += 1
        free = target.with_name(f"{target.name}_{number}")


@contextmanager
def only_user(folder: Path, busy: str) -> Iterator[None]:
    """Hold a folder that is there for this run alone, or raise a BlockingIOError that says `busy`.

    The system releases it when the run ends, also if it is killed. On file systems without locks nothing is held. What
    is called while a folder is held may hold it as well.
    """
    folder = folder.resolve()
    if folder in _held.get():
        yield
        return
    try:
        handle = _lock(folder)
    except BlockingIOError:
        raise BlockingIOError(busy) from None
    except OSError:
        handle = None
    outside = _held.set(_held.get() | {folder})
    try:
        yield
    finally:
        _held.reset(outside)
        if handle is not None:
            os.close(handle)


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
        except OSError:  # no locks here, or gone since
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
            os.close(handle)  # another run took it for a leftover before it was locked
        except (BlockingIOError, FileNotFoundError):
            continue
        except OSError:
            return work, None


def _lock(folder: Path) -> int:
    """Lock a folder; raises BlockingIOError if it is locked, another OSError if locks are not possible there."""
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
    """Remove a work folder; a folder in it that was to be replaced goes back if nothing has taken its place."""
    aside = work / ASIDE
    if aside.is_dir():
        for old in list(aside.iterdir()):
            if not os.path.lexists(work.parent / old.name):
                old.rename(work.parent / old.name)
    shutil.rmtree(work, ignore_errors=True)


def _flush(path: Path) -> None:
    """Have the content of a file, or the names in a folder, on the disk."""
    if os.name == "nt":  # where a folder cannot be opened
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _no_room(error: BaseException) -> str | None:
    """Why a file system took no more, if that was the error."""
    found = NO_ROOM.search(str(error))
    code = int(found[1]) if found else getattr(error, "errno", None)
    return os.strerror(code) if code in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG} else None
