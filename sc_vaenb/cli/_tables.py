"""Metadata of cells and sheets of samples: tables as .csv or .tsv, and how they come to cells."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from ._inputs import Input, sample_names

if TYPE_CHECKING:
    from anndata import AnnData

SEPARATORS = {".csv": ",", ".tsv": "\t"}
MIN_COMMON = 0.5  # share of the genes of the smallest file that all files must have, or they are of different genomes
SAMPLE = "sample"  # the column of obs with the file that a cell came from


def read_table(path: Path, **options: Any) -> pd.DataFrame:
    """A table with a header, .csv or .tsv, also compressed (.gz)."""
    separator = next((SEPARATORS[end] for end in path.suffixes[-2:] if end in SEPARATORS), None)
    if separator is None:
        raise ValueError(f"{path} does not end in .csv or .tsv (or these with .gz). Give such a table.")
    try:
        return pd.read_csv(path, sep=separator, **options)
    except (ValueError, OSError) as error:
        raise ValueError(f"{path} cannot be read as a table: {error}.") from error


def read_samples(path: Path) -> list[Input]:
    """The inputs in a sheet: their paths, from its folder, and further columns. Its column `sample` names them."""
    sheet = read_table(path)
    if "path" not in sheet or sheet["path"].isna().any() or sheet.empty:
        raise ValueError(f"{path} needs a column 'path' with a file in each row. Its columns are {list(sheet)}.")
    paths = [path.parent / str(text) for text in sheet["path"]]
    names = sheet[SAMPLE].astype(str).tolist() if SAMPLE in sheet else sample_names(paths)
    if len(set(names)) < len(names):
        raise ValueError(f"{path}: the column 'sample' names two files alike. Give each a name of its own.")
    rows = sheet.drop(columns=["path", SAMPLE], errors="ignore").to_dict("records")
    return [Input(*entry) for entry in zip(paths, names, map(_text_keys, rows), strict=True)]


def _text_keys(row: Mapping[Any, Any]) -> dict[str, Any]:
    return {str(name): value for name, value in row.items()}


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
    table = read_table(path, index_col=0)
    table.index = table.index.astype(str)
    names = adata.obs_names
    if not table.index.is_unique or not names.is_unique:
        where, index = (f"--obs {path}", table.index) if not table.index.is_unique else ("the input", names)
        duplicate = str(index[index.duplicated()][0])
        raise ValueError(f"{where} names cells twice (first: {duplicate!r}), so that they cannot be matched by name.")
    missing = names[~names.isin(table.index)]
    if len(missing) == len(names):
        raise ValueError(
            f"--obs {path} has no cell of the input (first names in the table: {_first(table.index)}; in the input: "
            f"{_first(names)}). Give both the same names."
        )
    if len(missing):
        raise ValueError(
            f"--obs {path} lacks {len(missing):,} of {len(names):,} cells (first: {str(missing[0])!r}). Give each cell "
            "a row, or leave these cells out of the input."
        )
    add_columns(adata, table.reindex(names), f"--obs {path}")


def join(inputs: list[Input], adatas: list[AnnData]) -> tuple[AnnData, list[str]]:
    """One AnnData of several: the genes in common, `obs["sample"]`, and what is to be said about it."""
    import anndata

    for entry, adata in zip(inputs, adatas, strict=True):
        constant = pd.DataFrame(entry.columns, index=adata.obs_names, columns=list(entry.columns))
        add_columns(adata, constant, "the sheet of --samples")
    names = [str(entry.sample) for entry in inputs]
    messages = [_name_samples(names, adatas)]
    common = reduce(pd.Index.intersection, [adata.var_names for adata in adatas])
    smallest = min(adata.n_vars for adata in adatas)
    if len(common) < MIN_COMMON * smallest:
        genes = "; ".join(f"{entry.path}: {_first(a.var_names)}" for entry, a in zip(inputs, adatas, strict=True))
        raise ValueError(
            f"the inputs have {len(common):,} genes in common, and the smallest has {smallest:,} ({genes}). They seem "
            "to be of different genomes, or to name genes in different ways. Give all the same names of genes."
        )
    all_genes = reduce(pd.Index.union, [adata.var_names for adata in adatas])
    messages.append(f"{len(common):,} genes are in all inputs; {len(all_genes) - len(common):,} others are dropped")
    lost = sorted({str(name) for a in adatas for name in a.obs} - set.intersection(*({*a.obs} for a in adatas)))
    if lost:
        messages.append(f"columns of obs that not all inputs have are dropped: {', '.join(lost)}")
    ending = None
    if not reduce(pd.Index.append, [adata.obs_names for adata in adatas]).is_unique:
        ending = "-"
        example = f"{adatas[0].obs_names[0]}-{names[0]}"
        messages.append(f"inputs share names of cells, which get the sample at their end ({example!r})")
    joined = anndata.concat(dict(zip(names, adatas, strict=True)), join="inner", merge="same", index_unique=ending)
    return joined, messages


def _name_samples(names: list[str], adatas: list[AnnData]) -> str:
    """Write `obs["sample"]`, unless all have it; say which."""
    n_with = sum(SAMPLE in adata.obs for adata in adatas)
    if n_with == len(adatas):
        return f"obs[{SAMPLE!r}]: as in the inputs, which all have this column"
    if n_with:
        raise ValueError(f"{n_with} of {len(adatas)} inputs have obs[{SAMPLE!r}]. Give this column to all, or to none.")
    for name, adata in zip(names, adatas, strict=True):
        adata.obs[SAMPLE] = name
    return f"obs[{SAMPLE!r}]: {', '.join(names)}"


def _first(names: pd.Index) -> str:
    return ", ".join(repr(str(name)) for name in names[:3]) + (", ..." if len(names) > 3 else "")
