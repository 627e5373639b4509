"""What of an AnnData no file can hold: found out before a fit, so that no fit is lost when results are written."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, MutableMapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

if TYPE_CHECKING:
    from anndata import AnnData

SLOTS = ("obsm", "varm", "obsp", "varp", "layers", "uns")


def leave_out_unwritable(adata: AnnData) -> None:
    """Take out of an AnnData, with a warning, what cannot be written to .h5ad: names and values of any slot."""
    from scanpy import logging as logg

    found = []
    for where, table in _tables(adata):
        found += [f"{where}.{problem}" for problem in _from_index(table)]
        found += [f"{where}[{problem}" for problem in _from_table(table, converted=True)]
    for slot in SLOTS:
        found += [f"{slot}[{problem}" for problem in _from_mapping(getattr(adata, slot))]
    if found:
        logg.warning(f"what no .h5ad can hold is left out: {'; '.join(found)}.")


def _tables(adata: AnnData) -> Iterator[tuple[str, pd.DataFrame]]:
    yield "obs", adata.obs
    yield "var", adata.var
    if adata.raw is not None:
        yield "raw.var", adata.raw.var


def _from_index(table: pd.DataFrame) -> Iterator[str]:
    """Mend the name of an index; names of cells or genes that cannot be written are refused."""
    name, problem = table.index.name, None
    if name is not None and name != "_index":
        problem = _wrong_name(name)
        if problem is None and name in table.columns and not table.index.equals(pd.Index(table[name])):
            problem = "a column with other values has this name"
    if problem is not None:
        table.index.name = None
        yield f"index.name={name!r} ({problem})"
    if (problem := _wrong_value(table.index.to_numpy())) is not None:
        raise ValueError(f"names of cells or genes cannot be written to a file ({problem}). Rename them.")


def _from_table(table: pd.DataFrame, *, converted: bool) -> Iterator[str]:
    """Take columns out of a table, each told as the end of its name and why.

    `converted`: texts become categories when they are written, as those of obs and var do.
    """
    names = list(table.columns)
    for name in dict.fromkeys(names):
        problem = "there are two columns of this name" if names.count(name) > 1 else _wrong_name(name)
        if problem is None:
            problem = _wrong_value(_as_written(table[name]) if converted else table[name].array)
        if problem is not None:
            table.drop(columns=name, inplace=True)
            yield f"{name!r}] ({problem})"


def _from_mapping(mapping: MutableMapping[Any, Any]) -> Iterator[str]:
    for name in [name for name in mapping if name is not None]:  # as which anndata 0.13 lists X
        value, problem = mapping[name], _wrong_name(name)
        if problem is None and isinstance(value, MutableMapping):
            yield from (f"{name!r}][{inner}" for inner in _from_mapping(value))
        elif problem is None and isinstance(value, pd.DataFrame):
            yield from (f"{name!r}][{inner}" for inner in _from_table(value, converted=False))
            problem = _wrong_value(value.iloc[:, :0])
        elif problem is None and not _on_disk(value):
            problem = _wrong_value(value)
        if problem is not None:
            del mapping[name]
            yield f"{name!r}] ({problem})"


def _as_written(column: pd.Series) -> Any:
    """The values of a column of obs or var as anndata writes them, fewer if a few tell as much."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        return pd.Categorical.from_codes([], dtype=column.dtype)
    if pd.api.types.infer_dtype(column, skipna=True) == "string":
        return pd.Categorical([], pd.unique(column.dropna()))
    return column.array


def _on_disk(value: Any) -> bool:
    """Whether a matrix stays in the input file: no copy of it is written."""
    return type(value).__module__.partition(".")[0] in {"h5py", "zarr", "anndata"}


def _wrong_name(name: object) -> str | None:
    if not isinstance(name, str):
        return "its name is no text"
    if name == "_index":
        return "this name is reserved"
    return "such a name is not possible" if "/" in name or name in {"", ".", ".."} else None


def _wrong_value(value: Any) -> str | None:
    """Why a value cannot be written, if it cannot: anndata itself is asked, with a file in memory."""
    if _plain(value):
        return None
    import h5py
    from anndata.io import write_elem

    column = isinstance(value, pd.api.extensions.ExtensionArray)
    with h5py.File("memory", "w", driver="core", backing_store=False) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            write_elem(file, "value", pd.DataFrame({"value": value}) if column else value)
        except Exception as error:
            return " ".join(str(error).partition(" into <class")[0].split())[:100]
    return None


def _plain(value: Any) -> bool:
    """Whether a value is known to be writable: numbers."""
    if sparse.issparse(value):
        return value.format in {"csr", "csc"} and value.dtype.kind in "biuf"
    arrays = np.ndarray | np.generic | pd.arrays.NumpyExtensionArray
    return isinstance(value, arrays) and not isinstance(value, np.ma.MaskedArray) and value.dtype.kind in "biuf"
