"""Remove from an AnnData what no file can hold, before the fit, so that no fit is lost because of a name or a value."""

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
    """Remove names and values of any slot that cannot be written to .h5ad, and log a warning."""
    from scanpy import logging as logg

    left_out = []
    for name, table in _tables(adata):
        left_out += [f"{name}.{problem}" for problem in _fix_index_name(table)]
        left_out += [f"{name}[{problem}" for problem in _drop_columns(table, converted=True)]
    for slot in SLOTS:
        left_out += [f"{slot}[{problem}" for problem in _drop_entries(getattr(adata, slot))]
    if left_out:
        logg.warning(f"what no .h5ad can hold is left out: {'; '.join(left_out)}.")


def _tables(adata: AnnData) -> Iterator[tuple[str, pd.DataFrame]]:
    yield "obs", adata.obs
    yield "var", adata.var
    if adata.raw is not None:
        yield "raw.var", adata.raw.var


def _fix_index_name(table: pd.DataFrame) -> Iterator[str]:
    """Remove an index name that cannot be written; refuse names of cells or genes that cannot be written."""
    name, problem = table.index.name, None
    if name is not None and name != "_index":
        problem = _name_problem(name)
        if problem is None and name in table.columns and not table.index.equals(pd.Index(table[name])):
            problem = "a column with other values has this name"
    if problem is not None:
        table.index.name = None
        yield f"index.name={name!r} ({problem})"
    if (problem := _value_problem(table.index.to_numpy())) is not None:
        raise ValueError(f"names of cells or genes cannot be written to a file ({problem}). Rename them.")


def _drop_columns(table: pd.DataFrame, *, converted: bool) -> Iterator[str]:
    """Drop columns that cannot be written, and yield the name of each with the reason.

    With `converted`, text columns become categories when they are written, as in obs and var.
    """
    names = list(table.columns)
    for name in dict.fromkeys(names):
        problem = "there are two columns of this name" if names.count(name) > 1 else _name_problem(name)
        if problem is None:
            problem = _value_problem(_as_written(table[name]) if converted else table[name].array)
        if problem is not None:
            table.drop(columns=name, inplace=True)
            yield f"{name!r}] ({problem})"


def _drop_entries(mapping: MutableMapping[Any, Any]) -> Iterator[str]:
    for name in [name for name in mapping if name is not None]:  # anndata 0.13 lists X as None
        value, problem = mapping[name], _name_problem(name)
        if problem is None and isinstance(value, MutableMapping):
            yield from (f"{name!r}][{inner}" for inner in _drop_entries(value))
        elif problem is None and isinstance(value, pd.DataFrame):
            yield from (f"{name!r}][{inner}" for inner in _drop_columns(value, converted=False))
            problem = _value_problem(value.iloc[:, :0])
        elif problem is None and not _is_on_disk(value):
            problem = _value_problem(value)
        if problem is not None:
            del mapping[name]
            yield f"{name!r}] ({problem})"


def _as_written(column: pd.Series) -> Any:
    """The values of a column of obs or var as anndata writes them; of a categorical, only the categories."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        return pd.Categorical.from_codes([], dtype=column.dtype)
    if pd.api.types.infer_dtype(column, skipna=True) == "string":
        return pd.Categorical([], pd.unique(column.dropna()))
    return column.array


def _is_on_disk(value: Any) -> bool:
    """Whether a matrix stays in the input file, so that it is not written again."""
    return type(value).__module__.partition(".")[0] in {"h5py", "zarr", "anndata"}


def _name_problem(name: object) -> str | None:
    if not isinstance(name, str):
        return "its name is no text"
    if name == "_index":
        return "this name is reserved"
    return "such a name is not possible" if "/" in name or name in {"", ".", ".."} else None


def _value_problem(value: Any) -> str | None:
    """Why anndata cannot write a value, tried with a file in memory; None if it can."""
    if _is_numeric(value):
        return None
    import h5py
    from anndata.io import write_elem

    is_column = isinstance(value, pd.api.extensions.ExtensionArray)
    with h5py.File("memory", "w", driver="core", backing_store=False) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            write_elem(file, "value", pd.DataFrame({"value": value}) if is_column else value)
        except Exception as error:
            return " ".join(str(error).partition(" into <class")[0].split())[:100]
    return None


def _is_numeric(value: Any) -> bool:
    """Whether a value is a numeric array, which can always be written."""
    if sparse.issparse(value):
        return value.format in {"csr", "csc"} and value.dtype.kind in "biuf"
    arrays = np.ndarray | np.generic | pd.arrays.NumpyExtensionArray
    return isinstance(value, arrays) and not isinstance(value, np.ma.MaskedArray) and value.dtype.kind in "biuf"
