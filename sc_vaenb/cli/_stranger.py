"""Check the results folder of a comparison before its content is used: it may come from anyone."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from .._files import is_real_folder
from .._obs import columns_of
from ._inputs import RUN

if TYPE_CHECKING:
    from anndata import AnnData

DATA, REPORT = "comparison.h5ad", "report.html"
UNFINISHED = "unfinished.h5ad"  # results of an interrupted run that was to replace a comparison
MAX_BYTES = 10**6  # of run.json, which usually has a few kilobytes
FOLDER = re.compile(r"([A-Z0-9_]{1,100})_\d{8}_\d{6}(_\d{1,6})?")  # method, time, number
KEY = re.compile(r"[a-z0-9_]{1,100}")  # of a method in the AnnData
RESULTS = re.compile(
    r"latents\.npy|latents_z\.npy|[A-Z0-9_]+_umap_[\w.-]{1,200}\.svg|training_losses\.svg"
    r"|silhouette_[\w.-]{1,200}\.txt|metrics\.csv|params\.json"
)


def read_run(out: Path) -> dict[str, Any]:
    """The content of run.json, which a comparison writes last; empty if the file does not exist."""
    path = out / RUN
    if not path.is_file():
        return {}
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"it has more than {MAX_BYTES:,} bytes")
        run = json.loads(path.read_text(encoding="utf-8"))
        _check_run(run)
    except (ValueError, RecursionError) as error:
        what = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise ValueError(
            f"{path} is not what sc-vaenb compare wrote ({what}). Remove this file and compare again, or pass another "
            "--out."
        ) from error
    return run


def _check_run(run: Any) -> None:
    """The schema of run.json."""
    texts = ("command",)
    tables = ("input", "versions", "columns", "folders")
    if not isinstance(run, dict) or set(run) != {*texts, *tables}:
        raise ValueError(f"it should hold {', '.join([*texts, *tables])}, and nothing else")
    if not isinstance(run["command"], str):
        raise ValueError("command is no text")
    for name in tables:
        if not isinstance(run[name], dict):
            raise ValueError(f"{name} is no table")
        for key, value in run[name].items():
            is_columns = name == "columns" and (
                (key == "celltype" and value is None)
                or (key == "sample" and isinstance(value, list) and all(isinstance(part, str) for part in value))
            )
            if not isinstance(value, str) and not is_columns:
                raise ValueError(f"{name} holds a value that is no text")
    if set(run["columns"]) != {"sample", "celltype"}:
        raise ValueError("columns should hold sample and celltype")
    for key, folder in run["folders"].items():
        if not KEY.fullmatch(key) or not FOLDER.fullmatch(folder):
            raise ValueError(f"folders names {key[:40]!r}: {folder[:40]!r}, which is no folder of a method")
    if len(set(run["folders"].values())) < len(run["folders"]):
        raise ValueError("folders names a folder twice")


def method_in(folder: str) -> str:
    """The method in the name of a results folder."""
    match = FOLDER.fullmatch(folder)
    assert match is not None  # the name was checked, or made by this package
    return match[1]


def check_comparison(adata: AnnData, run: Mapping[str, Any], path: Path) -> None:
    """Refuse a file that does not hold the comparison that run.json describes."""
    record, problem = adata.uns.get("compare"), None
    if not isinstance(record, Mapping):
        problem = "uns['compare'] is not there"
    else:
        scores = record.get("scores")
        methods = record.get("methods")
        if not isinstance(record.get("verdict"), str) or not isinstance(record.get("params"), Mapping):
            problem = "uns['compare'] holds no verdict or no params"
        elif not isinstance(methods, pd.DataFrame) or not {"method", "embedding", "seconds", "seed"} <= set(methods):
            problem = "uns['compare'] holds no table of methods"
        elif not methods["embedding"].is_unique or not pd.api.types.is_numeric_dtype(methods["seconds"]):
            problem = "the table of methods in uns['compare'] is not right"
        elif not isinstance(scores, Mapping) or not all(
            isinstance(scores.get(name), pd.DataFrame) for name in ("values", "metrics")
        ):
            problem = "uns['compare'] holds no scores"
        else:
            known = set(methods["embedding"].astype(str)) & set(adata.obsm)
            missing = [f"X_{key}" for key in run["folders"] if f"X_{key}" not in known]
            columns = [name for value in run["columns"].values() if value is not None for name in columns_of(value)]
            missing += [name for name in columns if name not in adata.obs]
            problem = f"{missing[0]!r} is not there" if missing else None
    if problem is not None:
        raise ValueError(f"{path} is not what sc-vaenb compare wrote ({problem}). Run sc-vaenb compare with --force.")


def remove_replaced(out: Path, folders: set[str]) -> list[str]:
    """Remove the folders of a replaced comparison; return the names of those that are left, as they hold other files.

    A folder is removed if it is directly in `out`, is not a link, and holds only files with names that `compare`
    writes; its parameters must be those of the method in its name.
    """
    left = []
    for name in sorted(folders):
        folder = out / name
        if not folder.exists():
            continue
        if FOLDER.fullmatch(name) is None or not is_real_folder(folder) or not _is_ours(folder):
            left.append(name)
            continue
        for file in list(folder.iterdir()):
            file.unlink()
        folder.rmdir()
    return left


def _is_ours(folder: Path) -> bool:
    files, params = list(folder.iterdir()), folder / "params.json"
    if not all(RESULTS.fullmatch(file.name) and file.is_file() and not file.is_symlink() for file in files):
        return False
    try:
        content = json.loads(params.read_text(encoding="utf-8")) if params.stat().st_size < MAX_BYTES else None
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and content.get("method") == method_in(folder.name)
