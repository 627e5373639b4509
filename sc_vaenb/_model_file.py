"""A stored model in a safetensors file, which holds arrays and text: reading it executes no code."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from . import _schema as schema
from ._record import FittedModel
from ._record_checks import check_record, text
from ._record_weights import FORMAT, FORMAT_1, expected_weights
from ._schema import Damaged, explain_damage

if TYPE_CHECKING:
    from pathlib import Path


def to_text(record: Mapping[str, Any]) -> dict[str, str]:
    """Everything in a record except its weights, as the texts of a model file."""
    model = record["model"]
    parts = {
        "genes": [str(gene) for gene in model["genes"]],
        "batches": [str(batch) for batch in model["batches"]],
        "params": {name: _to_python(value) for name, value in record["params"].items() if not _is_mask(value)},
        "verdict": {name: _to_python(value) for name, value in record["verdict"].items()},
        "overlap": {name: _to_python(value) for name, value in record.get("overlap", {}).items()},
    }
    json_texts = {name: json.dumps(part) for name, part in parts.items()}
    return {"format": str(model["format"]), "config": str(model["config"]), **json_texts}


def _to_python(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


def _is_mask(value: Any) -> bool:
    """Whether a parameter is a mask of genes or cells, which is useful only with its own AnnData."""
    return isinstance(value, np.ndarray) and value.ndim > 0 and value.dtype == bool


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that no file can have
        return False


def read_file(path: Path) -> dict[str, Any]:
    """The record in a model file, completely checked. No array is read from a file that holds no sc_vaenb model."""
    if not _is_file(path):
        msg = f"{str(path)!r} is not a file. Give one that sc_vaenb.tl.export_model wrote."
        raise FileNotFoundError(msg)
    try:
        with safe_open(path, "numpy") as file, explain_damage(f"{str(path)!r} is damaged", "Get it again."):
            return _read(path, file)
    except SafetensorError as error:
        msg = f"{str(path)!r} is cut off, or no safetensors file ({error}). Get it again."
        raise ValueError(msg) from error


def _read(path: Path, file: Any) -> dict[str, Any]:
    stored = dict(file.metadata() or {})
    if "format" not in stored or "sha256" not in stored:
        msg = f"{str(path)!r} holds no model of sc_vaenb. Give a file that sc_vaenb.tl.export_model wrote."
        raise ValueError(msg)
    if stored["format"] not in {FORMAT, FORMAT_1}:
        msg = (
            f"{str(path)!r} has the format {schema.brief(stored['format'])}, this version reads {FORMAT!r}. Use the "
            "version of sc_vaenb that wrote it."
        )
        raise ValueError(msg)
    stated_checksum = stored.pop("sha256")
    check_texts = schema.fields(
        dict.fromkeys(("format", "config", "genes", "batches", "params", "verdict", "overlap"), text())
    )
    check_texts(stored, "the header")
    parts = {name: schema.parse_json(value, name) for name, value in stored.items() if name != "format"}
    model = {
        "format": stored["format"],
        "config": stored["config"],
        "genes": _names(parts["genes"]),
        "batches": _names(parts["batches"]),
        "weights": {},
    }
    record = {"params": _arrays(parts["params"]), "verdict": parts["verdict"], "model": model}
    if parts["overlap"]:
        record["overlap"] = _arrays(parts["overlap"])
    checked = check_record(record)
    _check_sizes(file, expected_weights(checked.config, checked.format))
    model["weights"] = weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dict)
    if checksum(weights, stored) != stated_checksum:
        msg = (
            f"{str(path)!r} was changed since it was written: its checksum is not {schema.brief(stated_checksum)}. "
            "Get it again."
        )
        raise ValueError(msg)
    FittedModel.from_record(record)
    return record


def _check_sizes(file: Any, shapes: Mapping[str, torch.Tensor]) -> None:
    """Refuse arrays that do not fit the model, by their names, types and shapes alone."""
    stored_names = set(file.keys())
    if mismatched := sorted(stored_names ^ set(shapes)):
        raise Damaged(
            f"it {'has' if mismatched[0] in stored_names else 'lacks'} the array {schema.brief(mismatched[0])}"
        )
    for name, like in shapes.items():
        stored = file.get_slice(name)
        dtype, shape = "F32" if like.dtype == torch.float32 else "I64", list(like.shape)
        stored_shape = list(stored.get_shape())
        if stored.get_dtype() != dtype or stored_shape not in (shape, shape or [1]):
            raise Damaged(f"the array {name!r} is {stored.get_dtype()} of shape {stored_shape}, not {dtype} of {shape}")


def checksum(weights: Mapping[str, NDArray[Any]], texts: Mapping[str, str]) -> str:
    """SHA-256 of all arrays, their names and shapes, and all texts."""
    digest = hashlib.sha256()
    for name in sorted(texts):
        digest.update(f"{name}\n{texts[name]}\n".encode())
    for name in sorted(weights):
        digest.update(f"{name} {weights[name].dtype} {weights[name].shape}\n".encode())
        digest.update(np.ascontiguousarray(weights[name]).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _names(value: Any) -> Any:
    """Turn a list of names into an object array, as in `uns`."""
    return (
        np.array(value, dtype=object) if isinstance(value, list) and all(isinstance(v, str) for v in value) else value
    )


def _arrays(value: Any) -> Any:
    """Turn lists into arrays again; those of text get dtype object, which every file format can hold."""
    if not isinstance(value, dict):
        return value
    return {name: _array(part) if isinstance(part, list) else part for name, part in value.items()}


def _array(value: list[Any]) -> Any:
    if value and isinstance(value[0], str):
        return _names(value)
    try:
        return np.array(value)
    except ValueError:  # rows of different lengths: the schema refuses them
        return value
