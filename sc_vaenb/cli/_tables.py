"""Tables, .csv or .tsv, and how the metadata of cells in one come to obs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

if TYPE_CHECKING:
    from anndata import AnnData

SEPARATORS = {".csv": ",", ".tsv": "\t"}


def read_table(path: Path, **options: Any) -> pd.DataFrame:
    """A table with a header, .csv or .tsv, also compressed (.gz)."""
    separator = next((SEPARATORS[end] for end in path.suffixes[-2:] if end in SEPARATORS), None)
    if separator is None:
        raise ValueError(f"{path} does not end in .csv or .tsv (or these with .gz). Give such a table.")
    try:
        return pd.read_csv(path, sep=separator, **options)
    except (ValueError, OSError) as error:
        raise ValueError(f"{path} cannot be read as a table: {error}.") from error


def add_columns(adata: AnnData, columns: pd.DataFrame, source: object) -> None:
    """Write new columns of obs, whose index is that of obs."""
    known = [name for name in columns if name in adata.obs]
    if known:
        raise ValueError(
            f"{source} has the column {known[0]!r}, which obs has too. Rename or remove it in the table, so that it is "
            "clear which one is meant."
        )
    for name in columns:
        adata.obs[name] = columns[name].to_numpy()


def add_metadata(adata: AnnData, path: Path) -> None:
    """Join a table to obs: its first column holds the names of the cells, in any order."""
    table = read_table(path, index_col=0, converters={0: str})  # as text: "007" is no number
    names = adata.obs_names
    if not table.index.is_unique or not names.is_unique:
        where, index = (f"--obs {path}", table.index) if not table.index.is_unique else ("the input", names)
        duplicate = str(index[index.duplicated()][0])
        raise ValueError(f"{where} names cells twice (first: {duplicate!r}), so that they cannot be matched by name.")
    missing = names[~names.isin(table.index)]
    if len(missing) == len(names):
        raise ValueError(
            f"--obs {path} has no cell of the input (first names in the table: {first_names(table.index)}; "
            f"in the input: {first_names(names)}). Give both the same names."
        )
    if len(missing):
        raise ValueError(
            f"--obs {path} lacks {len(missing):,} of {len(names):,} cells (first: {str(missing[0])!r}). Give each cell "
            "a row, or leave these cells out of the input."
        )
    add_columns(adata, table.reindex(names), f"--obs {path}")


def first_names(names: pd.Index) -> str:
    return ", ".join(repr(str(name)) for name in names[:3]) + (", ..." if len(names) > 3 else "")
