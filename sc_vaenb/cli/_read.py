"""Read an AnnData from common file formats, and match the counts of a second file by name."""

from __future__ import annotations

import errno
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._inputs import BACKED, check_format

if TYPE_CHECKING:
    from anndata import AnnData

LOCKED = {errno.EAGAIN, errno.EWOULDBLOCK, errno.EDEADLK, errno.ENOLCK}
NOT_READABLE = {errno.ENAMETOOLONG, errno.ELOOP, errno.EMFILE, errno.ENFILE, errno.EIO, errno.ESTALE, errno.ENXIO}
N_COPIES = 2  # of X that a command holds in memory at least: X, and the counts of all genes as a layer
ROWS, RAW_COUNTS = 1000, "whole numbers: raw counts"  # rows of a matrix that are read to describe it, and for counts
MIN_MATCHED = 0.5  # share of cells and genes that the file with counts must have, or it is of another data set


def read(path: Path, *, backed: bool = False) -> AnnData:
    """Read an AnnData; the file name determines the format. With `backed`, X and layers stay in the file."""
    mtx = check_format(path, backed=backed)
    import anndata
    import scanpy as sc

    readers = getattr(sc, "io", sc)  # since scanpy 1.13 they are in scanpy.io
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about old formats, and about duplicate names, which are made unique below
            if backed:
                adata = _read_backed(path)
            elif mtx:
                adata = readers.read_10x_mtx(path, prefix=_prefix(path, mtx))
            elif path.suffix == ".h5":
                adata = readers.read_10x_h5(path)
            else:
                adata = anndata.read_h5ad(path) if path.suffix == ".h5ad" else anndata.read_zarr(path)
            adata.var_names_make_unique()
    except (PermissionError, Unreadable):
        raise
    except Exception as error:  # h5py, zarr and pandas raise many kinds of errors for a broken file
        raise _reading_error(path, error) from error
    return adata


class Unreadable(ValueError):
    """An intact file that cannot be read; the message says why."""


def _prefix(path: Path, mtx: list[Path]) -> str:
    """The prefix of matrix.mtx in the file names, as in files from GEO."""
    prefixes = sorted({file.name.partition("matrix.mtx")[0] for file in mtx})
    if "" in prefixes:
        return ""
    if len(prefixes) > 1:
        raise Unreadable(
            f"{path} holds the files of {len(prefixes)} samples ({', '.join(f'{p}matrix.mtx' for p in prefixes[:3])}"
            f"{', ...' if len(prefixes) > 3 else ''}). Put the three files of each into a folder of its own and read "
            "all these folders: they are joined, and each is a sample."
        )
    return prefixes[0]


def _reading_error(path: Path, error: Exception) -> Exception:
    """The error to raise for an error while reading: the known reason, or else a damaged file."""
    text = str(error)
    if isinstance(error, MemoryError) or "std::bad_alloc" in text or "Unable to allocate" in text:
        advice = " Leave the counts in the file: vae or cvae with --backed." if path.suffix in BACKED else ""
        return MemoryError(f"{path} does not fit into the memory that is free.{advice}")
    code = getattr(error, "errno", None)
    if code in LOCKED or "unable to lock file" in text:
        return OSError(
            f"{path} is locked: another program has it open for writing, or its file system has no locks. Close that "
            "program; or if there is none, set HDF5_USE_FILE_LOCKING=FALSE."
        )
    if isinstance(error, FileNotFoundError) and path.is_dir() and path.suffix != ".zarr":
        return FileNotFoundError(f"{path} lacks a file that belongs to matrix.mtx: {error.filename or error}.")
    if code is not None and code in NOT_READABLE:
        return OSError(f"{path} cannot be read: {os.strerror(code)}.")
    return ValueError(f"{path} cannot be read; it may be damaged or incomplete ({error}).")


def _store(path: Path) -> Any:
    """The open HDF5 file or zarr group."""
    import h5py

    if path.suffix == ".h5ad":
        return h5py.File(path)
    import zarr

    return zarr.open_group(path, mode="r")


def _read_backed(path: Path) -> AnnData:
    """An AnnData whose matrices stay in the file. If `raw` has the same genes, its matrix becomes layer "raw"."""
    from anndata import AnnData
    from anndata.io import read_elem, sparse_dataset

    def matrix(element: Any) -> Any:
        if element is None or element.attrs.get("encoding-type") == "null":
            return None
        return sparse_dataset(element) if hasattr(element, "keys") else element

    store, names = _store(path), ("obs", "var", "obsm", "varm", "obsp", "varp", "uns")
    old_tables = [name for name in ("obs", "var") if name in store and not hasattr(store[name], "keys")]
    if old_tables:
        raise Unreadable(
            f"{path} was written by anndata 0.6 or older, which --backed cannot read. Write it again "
            "(anndata.read_h5ad(...).write_h5ad(...)), or leave out --backed."
        )
    parts = {name: read_elem(store[name]) for name in names if name in store}
    layers = {name: matrix(store["layers"][name]) for name in store.get("layers", ())}
    raw = store.get("raw")
    if hasattr(raw, "keys") and "raw" not in layers and read_elem(raw["var"]).index.equals(parts["var"].index):
        layers["raw"] = matrix(raw["X"])
    return AnnData(matrix(store.get("X")), layers=layers, **parts)


def beyond_memory(path: Path) -> tuple[int, int] | None:
    """Bytes that a file needs and bytes of memory, if the file needs more; None if not, or if either is unknown."""
    if path.suffix not in BACKED or not hasattr(os, "sysconf"):
        return None
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        matrix = _store(path)["X"]
        parts = [matrix[name] for name in matrix] if hasattr(matrix, "keys") else [matrix]
        needed = N_COPIES * sum(int(part.nbytes) for part in parts)
    except Exception:  # no X, or damaged, which `read` reports
        return None
    return (needed, memory) if needed > memory else None


def with_counts(adata: AnnData, counts: AnnData, layer: str | None) -> tuple[AnnData, str]:
    """The common cells and genes, with `layers["counts"]` from `counts`, and a message about how many matched."""
    for kind, names in (("adata", adata.obs_names), ("counts", counts.obs_names)):
        if not names.is_unique:
            duplicate = names[names.duplicated()][0]
            raise ValueError(
                f"--{kind} names cells twice (first: {duplicate!r}), so that they cannot be matched by name."
            )
    for kind, names_in_adata, names_in_counts in (
        ("cells", adata.obs_names, counts.obs_names),
        ("genes", adata.var_names, counts.var_names),
    ):
        matched = names_in_adata.isin(names_in_counts).mean() if len(names_in_adata) else 0.0
        if matched < MIN_MATCHED:
            raise ValueError(
                f"--counts has {matched:.0%} of the {kind} of --adata "
                f"({names_in_adata[0]!r}, ... there; {names_in_counts[0]!r}, ... here). "
                f"It seems to belong to other data: give both the same names of {kind}."
            )
    layers = [name for name in counts.layers if name is not None]  # anndata 0.13 lists X as None
    if layer is None and "counts" in layers:
        layer = "counts"
    if layer is not None and layer not in layers:
        raise KeyError(f"--layer {layer!r} is not in the layers of --counts, which are {layers}.")
    cells, genes = adata.obs_names.isin(counts.obs_names), adata.var_names.isin(counts.var_names)
    message = (
        f"counts: {cells.sum():,} of {adata.n_obs:,} cells and {genes.sum():,} of {adata.n_vars:,} genes found by name"
    )
    adata = adata if cells.all() and genes.all() else adata[cells, genes].copy()
    rows, columns = counts.obs_names.get_indexer(adata.obs_names), counts.var_names.get_indexer(adata.var_names)
    from ..data.sparse import checked_matrix

    matrix, where = (counts.X, "X") if layer is None else (counts.layers[layer], repr(layer))
    matrix = checked_matrix(matrix, f"--counts: {where}")
    adata.layers["counts"] = matrix[rows][:, columns]
    return adata, message


def matrices(adata: AnnData) -> Iterator[tuple[str, Any, str]]:
    """X, layers and raw: name, matrix, and whether a command takes it for raw counts."""
    from ..pp._find_counts import is_searched

    if adata.X is not None:
        yield "X", adata.X, _content(adata.X)
    for name, layer in adata.layers.items():
        if name is not None:  # anndata 0.13 lists X as None
            content = _content(layer)
            if content == RAW_COUNTS and not is_searched(name):
                content = f"whole numbers: raw counts only if you say so, with --layer {name}"
            yield f"layers[{name!r}]", layer, content
    if adata.raw is not None:
        yield "raw", adata.raw.X, _content(adata.raw.X)


def _content(matrix: Any) -> str:
    """What the first rows of a matrix hold."""
    import numpy as np

    first_rows = matrix[:ROWS]
    values = np.asarray(first_rows.data if hasattr(first_rows, "indptr") else first_rows).ravel()
    if not len(values) or values.dtype.kind not in "fiub" or not np.isfinite(values).all():
        return "not counts"
    if values.min() < 0:
        return "negative values: no counts"
    return RAW_COUNTS if (values == np.rint(values)).all() else "fractions: no raw counts"


def choose_key(adata: AnnData, option: str, key: str | None, usual: tuple[str, ...], *, needed: bool) -> str | None:
    """A column of obs: the one that the user named ("none": no column), or the only one with a usual name."""
    columns = list(map(str, adata.obs.columns))
    if key == "none" and key not in columns and not needed:
        return None
    if key is not None:
        if key not in columns:
            raise KeyError(f"--{option} {key!r} is not a column of obs, which has {columns}.")
        return key
    usual_columns = [name for name in usual if name in columns]
    if len(usual_columns) == 1:
        return usual_columns[0]
    if needed or usual_columns:
        problem = (
            f"obs has both {' and '.join(usual_columns)}"
            if usual_columns
            else f"obs has no column {' or '.join(usual)}"
        )
        raise KeyError(f"{problem}: name the one to use with --{option}. The columns are {columns}.")
    return None
