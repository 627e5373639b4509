"""Folders in which numba and Matplotlib keep things, for users who have none (containers with a random user id)."""

from __future__ import annotations

import atexit
import os
from importlib.util import find_spec
from pathlib import Path
from shutil import rmtree
from tempfile import TemporaryFile, mkdtemp


def ensure_caches() -> None:
    """Name a temporary folder where there is no other; to be called before scanpy is imported, which fails else.

    numba keeps compiled code beside the source of each package or in a folder of the user.
    """
    caches, config = (
        Path(os.environ.get(name) or os.path.expanduser(f"~/{usual}"))
        for name, usual in (("XDG_CACHE_HOME", ".cache"), ("XDG_CONFIG_HOME", ".config"))
    )
    needed = []
    if "NUMBA_CACHE_DIR" not in os.environ and not any(map(_takes_files, (*_packages(), caches / "numba"))):
        needed.append("NUMBA_CACHE_DIR")
    if "MPLCONFIGDIR" not in os.environ and not _takes_files(config / "matplotlib"):
        needed.append("MPLCONFIGDIR")
    if needed:
        try:
            folder = mkdtemp(prefix="sc_vaenb_")
        except OSError:  # no room anywhere: the command says so where it writes
            return
        atexit.register(rmtree, folder, ignore_errors=True)
        os.environ.update(dict.fromkeys(needed, folder))


def _packages() -> list[Path]:
    spec = find_spec("scanpy")
    return [Path(spec.origin).parent] if spec and spec.origin else []


def _takes_files(folder: Path) -> bool:
    try:
        there = next(path for path in (folder, *folder.parents) if path.exists())
        with TemporaryFile(dir=there) as file:
            file.write(bytes(4096))
    except OSError:
        return False
    return True
