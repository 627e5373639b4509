from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError, safe_open
from scanpy import logging as logg

from .. import _adata
from .._checks import checked
from ._export_model import checksum

if TYPE_CHECKING:
    from anndata import AnnData


@checked
def import_model(
    adata: AnnData, path: str | os.PathLike[str], *, key_added: str = "vae", copy: bool = False
) -> AnnData | None:
    """Bring a model that :func:`sc_vaenb.tl.export_model` wrote into an AnnData.

    After it, every function that reads a model from `uns` works, such as :func:`sc_vaenb.tl.embed`, if `adata` has the
    batches that it asks for. Reading executes nothing.

    Parameters
    ----------
    adata
        Cells x genes.
    path
        The file.
    key_added
        Name for the model.
    copy
        Work on a copy of `adata` and return it.

    Returns
    -------
    `None`, or the copy if `copy`. Written is `uns[key_added]` with `params`, `verdict`, `overlap` and `model`, as
    :func:`sc_vaenb.tl.cvae` writes them. Counts will be read from the layer of that fit, or from `X` if there is none.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        The file is cut off, was changed, comes from another version or program, or lacks genes of the model. `adata`
        is unchanged.

    Examples
    --------
    >>> import sc_vaenb
    >>> sc_vaenb.tl.import_model(adata, "model.safetensors")  # doctest: +SKIP
    >>> sc_vaenb.tl.embed(adata)  # doctest: +SKIP
    """
    record = _read(Path(path))
    _adata.locate_genes(adata, [str(gene) for gene in record["model"]["genes"]], key_added)
    if record["params"].get("layer") not in _adata.keys(adata.layers):
        record["params"].pop("layer", None)  # counts are then read from X
    adata = adata.copy() if copy else adata
    if key_added in adata.uns:
        logg.warning(f"replacing uns[{key_added!r}]; pass key_added to keep several models side by side")
    _adata.remove_extras(adata, key_added)
    _adata.write_record(adata, key_added, record)
    logg.info("read a model", deep=f"added\n    {key_added!r}, the model (adata.uns)")
    return adata if copy else None


def _read(path: Path) -> dict[str, Any]:
    """The record in a file, after every check that needs no model."""
    if not path.is_file():
        msg = f"{str(path)!r} is not a file. Give one that sc_vaenb.tl.export_model wrote."
        raise FileNotFoundError(msg)
    try:
        with safe_open(path, "numpy") as file:
            text = dict(file.metadata() or {})
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dict)
    except SafetensorError as error:
        msg = f"{str(path)!r} is cut off, or no safetensors file ({error}). Get it again."
        raise ValueError(msg) from error
    if "format" not in text or "sha256" not in text:
        msg = f"{str(path)!r} holds no model of sc_vaenb. Give a file that sc_vaenb.tl.export_model wrote."
        raise ValueError(msg)
    if text["format"] != _adata.FORMAT:
        msg = (
            f"{str(path)!r} has the format {text['format']!r}, this version reads {_adata.FORMAT!r}. Use the version "
            "of sc_vaenb that wrote it."
        )
        raise ValueError(msg)
    stated = text.pop("sha256")
    if checksum(weights, text) != stated:
        msg = f"{str(path)!r} was changed since it was written: its checksum is not {stated}. Get it again."
        raise ValueError(msg)
    params = {name: _array(value) for name, value in json.loads(text["params"]).items()}
    model = _adata.pack_model(
        json.loads(text["config"]), weights, json.loads(text["genes"]), json.loads(text["batches"])
    )
    record = {"params": params, "verdict": json.loads(text["verdict"]), "model": model}
    overlap = json.loads(text["overlap"])
    if overlap:
        record["overlap"] = {name: _array(value) for name, value in overlap.items()}
    return record


def _array(value: Any) -> Any:
    """Lists as the arrays that they were: of text as objects, which every file can hold."""
    if not isinstance(value, list):
        return value
    return np.array(value, dtype=object) if value and isinstance(value[0], str) else np.array(value)
