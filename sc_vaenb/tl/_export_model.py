from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file
from scanpy import logging as logg

from .. import _adata
from .._files import atomic_path
from ._model import load_model

if TYPE_CHECKING:
    from anndata import AnnData


def export_model(adata: AnnData, path: str | os.PathLike[str], key: str = "vae", *, force: bool = False) -> None:
    """Write a fitted model to one file, for use without the data.

    The file is in the safetensors format (arrays and text; reading it executes nothing), with a checksum of all of it.
    :func:`sc_vaenb.tl.import_model` brings the model into another AnnData. No counts and no names of cells are written;
    names of genes and batches are.

    Parameters
    ----------
    adata
        Cells with a model in `uns[key]`. It stays as it is.
    path
        File to write, whose name ends in `.safetensors`; its folder exists.
    key
        Name of the stored model.
    force
        Replace a file that is already there.

    Returns
    -------
    `None`. The file is written beside its place and renamed: it is there whole or not at all.

    Raises
    ------
    FileExistsError, FileNotFoundError
        The file is already there and `force` is not set, or its folder is not there.
    KeyError, ValueError
        There is no such model, it is damaged, or `path` does not end in `.safetensors`.

    Examples
    --------
    >>> import sc_vaenb
    >>> adata = sc_vaenb.datasets.simulate()
    >>> sc_vaenb.pp.prepare(adata)
    >>> sc_vaenb.tl.vae(adata)
    >>> sc_vaenb.tl.export_model(adata, "model.safetensors")
    """
    record = _adata.find_record(adata, key)
    load_model(adata, key)  # a damaged model is found here, not by who gets the file
    file = Path(path)
    if file.suffix != ".safetensors":
        msg = f"path={str(file)!r} does not end in .safetensors. Give the file such a name."
        raise ValueError(msg)
    if not file.parent.is_dir():
        msg = f"there is no folder {str(file.parent)!r} to write {file.name!r} into. Make it first."
        raise FileNotFoundError(msg)
    if file.exists() and not force:
        msg = f"{str(file)!r} is already there. Pass force=True to replace it, or another path."
        raise FileExistsError(msg)
    model = record["model"]
    weights = {name: np.ascontiguousarray(value) for name, value in model["weights"].items()}
    text = {
        "format": str(model["format"]),
        "config": str(model["config"]),
        "genes": json.dumps([str(gene) for gene in model["genes"]]),
        "batches": json.dumps([str(batch) for batch in model["batches"]]),
        # a mask of genes is of use with its own AnnData alone
        "params": json.dumps({k: _plain(v) for k, v in record["params"].items() if np.size(v) < len(model["genes"])}),
        "verdict": json.dumps({name: _plain(value) for name, value in record.get("verdict", {}).items()}),
        "overlap": json.dumps({name: _plain(value) for name, value in record.get("overlap", {}).items()}),
    }
    with atomic_path(file) as partial:
        save_file(weights, partial, metadata={**text, "sha256": checksum(weights, text)})
    logg.info(f"written {file}, the model in uns[{key!r}]")


def checksum(weights: dict[str, NDArray], text: dict[str, str]) -> str:
    """Of all arrays, with their names and shapes, and all texts."""
    digest = hashlib.sha256()
    for name in sorted(text):
        digest.update(f"{name}\n{text[name]}\n".encode())
    for name in sorted(weights):
        digest.update(f"{name} {weights[name].dtype} {weights[name].shape}\n".encode())
        digest.update(np.ascontiguousarray(weights[name]).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value
