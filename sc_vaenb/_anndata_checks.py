"""Refuse values that are not an AnnData, and AnnData objects that functions cannot use or write to."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from ._constraints import ArgumentError, is_a


def _not_an_anndata(name: str, value: object) -> str:
    problem = f"{name} is a {type(value).__name__}, not an AnnData."
    if is_a(value, "MuData"):
        modalities = list(value.mod)  # type: ignore[attr-defined]
        example = "rna" if "rna" in modalities or not modalities else modalities[0]
        return f"{problem} Give one of its modalities, which are {modalities}: {name}[{example!r}]."
    if is_a(value, "SpatialData"):
        tables = list(value.tables)  # type: ignore[attr-defined]
        return f"{problem} Give one of its tables, which are {tables}: {name}.tables[{next(iter(tables), 'table')!r}]."
    if is_a(value, "Raw"):
        return f"{problem} Give {name}.to_adata()."
    if isinstance(value, str | os.PathLike):
        return f"{problem} Read it with anndata.read_h5ad first."
    if isinstance(value, list | tuple | Mapping):
        return f"{problem} Join several with anndata.concat first."
    if value is None:
        return f"{name} is None, not an AnnData. Functions of scanpy and of sc_vaenb write into adata and return None."
    return f"{problem} Wrap counts with anndata.AnnData(counts) first."


def check_anndata(adata: Any, name: str = "adata", *, genes: bool = True) -> None:
    """Refuse a value that is not an AnnData, is read lazily, has no cells or, if `genes` are needed, has no genes."""
    if not is_a(adata, "AnnData"):
        raise ArgumentError(_not_an_anndata(name, adata))
    for slot in ("obs", "var"):
        if not is_a(table := getattr(adata, slot), "DataFrame"):
            msg = (
                f"{name}.{slot} is a {type(table).__name__}, as read lazily, not a pandas DataFrame. Call "
                f"{name}.{slot} = {name}.{slot}.to_memory() first; the counts can stay on disk."
            )
            raise ArgumentError(msg)
    if adata.n_obs == 0 or (genes and adata.n_vars == 0):
        msg = f"{name} has {adata.n_obs} cells and {adata.n_vars} genes: there is nothing to fit."
        raise ValueError(msg)


def _check_view(view: Any) -> None:
    """Refuse a view of a matrix that scipy cannot subset: the first result that is written makes a copy of the view."""
    from scipy.sparse import issparse

    original = view._adata_ref
    layers = {f"layers[{name!r}]": matrix for name, matrix in original.layers.items() if name is not None}
    matrices = {"X": original.X} | layers
    for where, matrix in matrices.items():
        if not issparse(matrix) or (matrix.dtype.isnative and matrix.dtype != np.float16):
            continue
        msg = (
            f"adata is a view, and {where} of the original holds {matrix.dtype} numbers, of which scipy can make no "
            f"subset, so nothing can be written to the view. Convert {where} of the original "
            "AnnData with .astype('float32'), and take the subset again."
        )
        raise ValueError(msg)


def check_adata(adata: Any, *, copy: bool = False) -> None:
    """Refuse an AnnData that results cannot be written to, or whose gene names are not unique."""
    from .data.matrix import from_a_file, is_dask

    if adata.isbacked and (adata.is_view or copy):
        msg = (
            "adata is backed by a file, where no view can be written to and no copy made. Call adata.to_memory() first."
        )
        raise ValueError(msg)
    if (  # checked only with copy: reading a matrix of a view would subset it
        copy
        and not adata.is_view
        and any(from_a_file(matrix) and not is_dask(matrix) for matrix in (adata.X, *adata.layers.values()))
    ):
        msg = "adata holds matrices on disk, of which no copy can be made. Leave out copy, and results go into adata."
        raise ValueError(msg)
    if adata.is_view:
        _check_view(adata)
    if not adata.var_names.is_unique:
        duplicates = adata.var_names[adata.var_names.duplicated()]
        msg = (
            f"var_names holds {len(duplicates)} duplicates (first: {duplicates[0]!r}), so genes cannot be told apart "
            "by name. Call adata.var_names_make_unique() first."
        )
        raise ValueError(msg)
