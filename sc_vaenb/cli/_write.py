"""Write the result files of the commands and make their folders."""

from __future__ import annotations

import io
import json
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._files import atomic_path, work_folder, write_bytes, write_text
from ._inputs import check_folder

if TYPE_CHECKING:
    from anndata import AnnData

SPACE, SPACE_PER_CELL = 3e7, 3e3  # bytes: models and figures; embeddings and neighbours of all methods, for each cell


def drop_matrices_on_disk(adata: AnnData) -> None:
    """Remove the matrices on disk from an AnnData, so that no copy of them is written."""
    for name in [name for name in adata.layers if name is not None and not in_memory(adata.layers[name])]:
        del adata.layers[name]
    if not in_memory(adata.X):
        adata.X = None


def in_memory(matrix: Any) -> bool:
    import numpy as np
    from scipy import sparse

    return matrix is None or isinstance(matrix, np.ndarray) or sparse.issparse(matrix)


def write_adata(adata: AnnData, path: Path) -> None:
    with atomic_path(path) as temporary, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Writing zarr v2")  # about anndata's future default
        if path.suffix == ".zarr":
            adata.write_zarr(temporary)
        else:
            adata.write_h5ad(temporary)


def write_json(content: dict[str, Any], path: Path) -> None:
    write_text(json.dumps(content, indent=2, default=_to_json) + "\n", path)


def _to_json(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else str(value)


def echo(text: str) -> None:
    """Print text that may come from a file, without the characters that control a terminal."""
    print(_printable(text))


def one_line(text: object) -> str:
    return _printable(" ".join(str(text).split()))


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text)


@contextmanager
def only_warn(what: str) -> Iterator[None]:
    """Turn an error in a step after the fits (scores, figures) into a warning: the other results are written."""
    from scanpy import logging as logg

    try:
        yield
    except Exception as error:
        logg.warning(f"{what} is left out of the results: {one_line(error) or type(error).__name__}")


def save_figure(draw: Callable[[], Any], path: Path) -> None:
    """Write the figure of the axes that `draw` returns, or warn that it cannot be drawn.

    The figure is drawn in memory first, so that an error there is one of drawing and a later error one of the disk.
    """
    import matplotlib.pyplot as plt

    content, open_before = io.BytesIO(), set(plt.get_fignums())
    with only_warn(path.name):
        draw().figure.figure.savefig(content, format=path.suffix[1:], dpi=150, bbox_inches="tight")
    for number in set(plt.get_fignums()) - open_before:
        plt.close(number)
    if content.tell():
        write_bytes(content.getvalue(), path)


def save_table(make: Callable[[], str], path: Path) -> None:
    """Write the text that `make` returns, or warn that it cannot be made."""
    text = None
    with only_warn(path.name):
        text = make()
    if text is not None:
        write_text(text, path)


def check_new(path: Path, force: bool) -> None:
    """Refuse to replace a file without --force."""
    if path.is_dir() and path.suffix != ".zarr":
        raise IsADirectoryError(f"{path} is a folder, not a file. Pass another name.")
    if path.exists() and not force:
        raise FileExistsError(f"{path} is already there. Pass --force to replace it, or another --out.")


def make_folder(out: Path) -> None:
    """Make the folder for results, and check that it is writable before any work is done."""
    check_folder(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
        with work_folder(out):
            pass
    except OSError as error:
        raise OSError(f"{out} cannot be written to ({error.strerror}). Pass another --out.") from error


def check_space(adata: AnnData, out: Path) -> None:
    """Refuse to start if the disk has too little space for the results."""
    layers = [layer for name, layer in adata.layers.items() if name is not None]  # anndata 0.13 lists X as None
    needed = 1.2 * sum(_size(matrix) for matrix in [adata.X, *layers, *adata.obsm.values()])
    needed += SPACE_PER_CELL * adata.n_obs + SPACE
    free = shutil.disk_usage(out).free
    if free < needed:
        raise OSError(
            f"{out} has {free / 2**20:,.0f} MiB free, and the results need about {needed / 2**20:,.0f}. Make room, or "
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
