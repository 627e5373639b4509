"""Cache folders for numba and Matplotlib where the user has no writable one (containers with a random user id)."""

from __future__ import annotations

import atexit
import logging
import os
from importlib.util import find_spec
from pathlib import Path
from shutil import rmtree
from tempfile import TemporaryFile, mkdtemp


def ensure_caches() -> None:
    """Set a temporary folder where no other is writable. Call this before scanpy is imported, which would fail.

    numba caches compiled code beside the source of each package, or in a folder of the user.
    Warnings of matplotlib about its list of fonts are silenced.
    """
    caches, config = (
        Path(os.environ.get(name) or os.path.expanduser(f"~/{default_folder}"))
        for name, default_folder in (("XDG_CACHE_HOME", ".cache"), ("XDG_CONFIG_HOME", ".config"))
    )
    # matplotlib warns if it cannot save its list of fonts, which does not matter here
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)
    unset_variables = []
    if "NUMBA_CACHE_DIR" not in os.environ and not any(map(_is_writable, (*_packages(), caches / "numba"))):
        unset_variables.append("NUMBA_CACHE_DIR")
    if "MPLCONFIGDIR" not in os.environ and not _is_writable(config / "matplotlib"):
        unset_variables.append("MPLCONFIGDIR")
    if unset_variables:
        try:
            folder = mkdtemp(prefix="sc_vaenb_")
        except OSError:  # no folder is writable: the command reports this when it writes
            return
        atexit.register(rmtree, folder, ignore_errors=True)
        os.environ.update(dict.fromkeys(unset_variables, folder))


def _packages() -> list[Path]:
    spec = find_spec("scanpy")
    return [Path(spec.origin).parent] if spec and spec.origin else []


def _is_writable(folder: Path) -> bool:
    try:
        existing_folder = next(path for path in (folder, *folder.parents) if path.exists())
        with TemporaryFile(dir=existing_folder) as file:
            file.write(bytes(4096))
    except OSError:
        return False
    return True
