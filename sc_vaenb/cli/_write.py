"""Files and folders that are there whole or not at all."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

if TYPE_CHECKING:
    from anndata import AnnData

SPACE, SPACE_PER_CELL = 3e7, 3e3  # bytes for models and figures; for embeddings and neighbours of all methods


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to, renamed to it at the end: a run that fails or is killed leaves what was."""
    partial = path.with_name(f".{path.stem}.partial{path.suffix}")  # the ending says the format
    try:
        yield partial
        before = path.with_name(f".{path.stem}.before{path.suffix}")
        if partial.is_dir() and path.is_dir():  # a folder cannot be renamed onto another: that steps aside
            shutil.rmtree(before, ignore_errors=True)
            path.replace(before)
        partial.replace(path)
        shutil.rmtree(before, ignore_errors=True)
    except OSError as error:
        if "No space left" not in str(error):  # HDF5 tells it in a page of text
            raise
        raise OSError(
            f"{path.parent} is full: {path.name} could not be written. What was there is unchanged."
        ) from error
    finally:
        if partial.is_dir():
            shutil.rmtree(partial, ignore_errors=True)
        else:
            partial.unlink(missing_ok=True)


def leave_matrices(adata: AnnData) -> None:
    """Take out of an AnnData what is on disk, of which no copy is to be written."""
    for name in [name for name in adata.layers if name is not None and not in_memory(adata.layers[name])]:
        del adata.layers[name]
    if not in_memory(adata.X):
        adata.X = None


def in_memory(matrix: Any) -> bool:
    return matrix is None or isinstance(matrix, np.ndarray) or sparse.issparse(matrix)


def write_adata(adata: AnnData, path: Path) -> None:
    with whole(path) as partial, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Writing zarr v2")  # anndata's plans
        if path.suffix == ".zarr":
            adata.write_zarr(partial)
        else:
            adata.write_h5ad(partial)


def write_text(text: str, path: Path) -> None:
    with whole(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(content: dict[str, Any], path: Path) -> None:
    write_text(json.dumps(content, indent=2, default=_listed) + "\n", path)


def _listed(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else str(value)


def save_figure(ax: Any, path: Path) -> None:
    import matplotlib.pyplot as plt

    figure = ax.figure.figure  # the axes may be of a subfigure
    with whole(path) as partial:
        figure.savefig(partial, dpi=150, bbox_inches="tight")
    plt.close(figure)


def check_new(path: Path, force: bool) -> None:
    """Refuse to replace a file, unless asked to."""
    if path.is_dir() and path.suffix != ".zarr":
        raise IsADirectoryError(f"{path} is a folder, not a file. Pass another name.")
    if path.exists() and not force:
        raise FileExistsError(f"{path} is already there. Pass --force to replace it, or another --out.")


def make_folder(out: Path) -> None:
    """The folder for results, which must take files: found out before any work is done."""
    if out.exists() and not out.is_dir():
        raise FileExistsError(f"{out} is a file, not a folder. Pass another --out.")
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe = out / ".sc_vaenb.partial"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OSError(f"{out} cannot be written to ({error.strerror}). Pass another --out.") from error


def check_room(adata: AnnData, out: Path) -> None:
    """Refuse to begin what the disk cannot hold at the end."""
    need = 1.2 * sum(_size(matrix) for matrix in [adata.X, *adata.layers.values(), *adata.obsm.values()])
    need += SPACE_PER_CELL * adata.n_obs + SPACE
    free = shutil.disk_usage(out).free
    if free < need:
        raise OSError(
            f"{out} has {free / 2**20:,.0f} MiB free, and the results need about {need / 2**20:,.0f}. Make room, or "
            "pass another --out."
        )


def _size(matrix: Any) -> int:
    if not in_memory(matrix):
        return 0
    if hasattr(matrix, "indptr"):
        return matrix.data.nbytes + matrix.indices.nbytes + matrix.indptr.nbytes
    return int(getattr(matrix, "nbytes", 0))


def timestamp() -> str:
    return datetime.now().strftime("%Y%m%d_%H%M%S")
