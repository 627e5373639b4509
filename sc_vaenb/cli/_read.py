"""Files of every common format to an AnnData, and counts of a second file matched to it by name."""

from __future__ import annotations

import errno
import os
import stat
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from anndata import AnnData

LOCKED = {errno.EAGAIN, errno.EWOULDBLOCK, errno.EDEADLK, errno.ENOLCK}
CANNOT = {errno.ENAMETOOLONG, errno.ELOOP, errno.EMFILE, errno.ENFILE, errno.EIO, errno.ESTALE, errno.ENXIO}
FORMATS = ".h5ad, .zarr, 10x .h5, or a folder with matrix.mtx"
BACKED = (".h5ad", ".zarr")
HELD = 2  # times X that a command holds at least: X, and counts of all genes as a layer
MATCHED = 0.5  # of cells and of genes that the file with counts must know, or it is another data set's


def read(path: Path, *, backed: bool = False) -> AnnData:
    """Read an AnnData; the name says which format it has. With `backed`, X and layers stay in the file."""
    import anndata
    import scanpy as sc

    try:
        is_folder = stat.S_ISDIR(path.stat().st_mode)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} does not exist.") from None
    except OSError as error:  # as of a name or a path that is too long
        raise OSError(f"{path} cannot be opened: {error.strerror}.") from error
    mtx = sorted(path.glob("*matrix.mtx*")) if is_folder else []
    if path.suffix not in {".h5ad", ".zarr", ".h5"} and not mtx:
        what = "is a folder without matrix.mtx" if is_folder else f"has the ending {path.suffix!r}"
        raise ValueError(f"{path} {what}. Give {FORMATS}.")
    if is_folder and path.suffix in {".h5ad", ".h5"}:
        raise IsADirectoryError(f"{path} is a folder, not a file. Give {FORMATS}.")
    if backed and path.suffix not in BACKED:
        raise ValueError(
            f"--backed takes {' or '.join(BACKED)}, and {path} is neither. Convert it, or leave out --backed."
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of duplicate names, which are mended below, and of old formats
            if backed:
                adata = _opened(path)
            elif mtx:
                adata = sc.read_10x_mtx(path, prefix=_prefix(path, mtx))
            elif path.suffix == ".h5":
                adata = sc.read_10x_h5(path)
            else:
                adata = anndata.read_h5ad(path) if path.suffix == ".h5ad" else anndata.read_zarr(path)
            adata.var_names_make_unique()
    except (PermissionError, Unreadable):
        raise
    except Exception as error:  # whatever h5py, zarr and pandas make of a broken file
        raise _explained(path, error) from error
    return adata


class Unreadable(ValueError):
    """A file that is whole and cannot be read all the same, with the reason."""


def _prefix(path: Path, mtx: list[Path]) -> str:
    """What stands before matrix.mtx in the names of the files, as GEO has them."""
    prefixes = sorted({file.name.partition("matrix.mtx")[0] for file in mtx})
    if "" in prefixes:
        return ""
    if len(prefixes) > 1:
        raise Unreadable(
            f"{path} holds the files of {len(prefixes)} samples ({', '.join(f'{p}matrix.mtx' for p in prefixes[:3])}"
            f"{', ...' if len(prefixes) > 3 else ''}). Put the three files of each into a folder of its own and read "
            "one, or join them with anndata.concat first."
        )
    return prefixes[0]


def _explained(path: Path, error: Exception) -> Exception:
    """The error to raise for one that reading ended in: the true reason where it is known, else a damaged file."""
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
    if code is not None and code in CANNOT:
        return OSError(f"{path} cannot be read: {os.strerror(code)}.")
    return ValueError(f"{path} cannot be read; it may be damaged or incomplete ({error}).")


def _store(path: Path) -> Any:
    """The file as h5py or zarr sees it."""
    import h5py

    if path.suffix == ".h5ad":
        return h5py.File(path)
    import zarr

    return zarr.open_group(path, mode="r")


def _opened(path: Path) -> AnnData:
    """An AnnData whose matrices are in the file; those of `raw` too, if its genes are the same, as layer "raw"."""
    from anndata import AnnData
    from anndata.io import read_elem, sparse_dataset

    def matrix(found: Any) -> Any:
        if found is None or found.attrs.get("encoding-type") == "null":
            return None
        return sparse_dataset(found) if hasattr(found, "keys") else found

    store, names = _store(path), ("obs", "var", "obsm", "varm", "obsp", "varp", "uns")
    old = [name for name in ("obs", "var") if name in store and not hasattr(store[name], "keys")]
    if old:
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
    """Bytes that a file needs and that the machine has, where it has fewer; None too where one of them is not known."""
    if path.suffix not in BACKED or not hasattr(os, "sysconf"):
        return None
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        found = _store(path)["X"]
        parts = [found[name] for name in found] if hasattr(found, "keys") else [found]
        need = HELD * sum(int(part.nbytes) for part in parts)
    except Exception:  # without X, or damaged, of which reading will tell
        return None
    return (need, memory) if need > memory else None


def with_counts(adata: AnnData, counts: AnnData, layer: str | None) -> tuple[AnnData, str]:
    """The cells and genes that both have, with `layers["counts"]` from `counts`; and what was found, in words."""
    for what, names in (("adata", adata.obs_names), ("counts", counts.obs_names)):
        if not names.is_unique:
            twice = names[names.duplicated()][0]
            raise ValueError(f"--{what} names cells twice (first: {twice!r}), so that they cannot be matched by name.")
    for what, own, other in (
        ("cells", adata.obs_names, counts.obs_names),
        ("genes", adata.var_names, counts.var_names),
    ):
        found = own.isin(other).mean() if len(own) else 0.0
        if found < MATCHED:
            raise ValueError(
                f"--counts has {found:.0%} of the {what} of --adata ({own[0]!r}, ... there; {other[0]!r}, ... here). "
                f"It seems to belong to other data: give both the same names of {what}."
            )
    layers = [name for name in counts.layers if name is not None]  # as which anndata 0.13 lists X
    if layer is None and "counts" in layers:
        layer = "counts"
    if layer is not None and layer not in layers:
        raise KeyError(f"--layer {layer!r} is not in the layers of --counts, which are {layers}.")
    cells, genes = adata.obs_names.isin(counts.obs_names), adata.var_names.isin(counts.var_names)
    found = (
        f"counts: {cells.sum():,} of {adata.n_obs:,} cells and {genes.sum():,} of {adata.n_vars:,} genes found by name"
    )
    adata = adata if cells.all() and genes.all() else adata[cells, genes].copy()
    rows, columns = counts.obs_names.get_indexer(adata.obs_names), counts.var_names.get_indexer(adata.var_names)
    from ..data.sparse import sound

    matrix = sound(*((counts.X, "--counts: X") if layer is None else (counts.layers[layer], f"--counts: {layer!r}")))
    adata.layers["counts"] = matrix[rows][:, columns]
    return adata, found


def choose_key(adata: AnnData, option: str, key: str | None, usual: tuple[str, ...], *, needed: bool) -> str | None:
    """A column of obs: the one that was named (none: no column), or the only one with a usual name."""
    columns = list(map(str, adata.obs.columns))
    if key == "none" and key not in columns and not needed:
        return None
    if key is not None:
        if key not in columns:
            raise KeyError(f"--{option} {key!r} is not a column of obs, which has {columns}.")
        return key
    found = [name for name in usual if name in columns]
    if len(found) == 1:
        return found[0]
    if needed or found:
        which = f"obs has both {' and '.join(found)}" if found else f"obs has no column {' or '.join(usual)}"
        raise KeyError(f"{which}: name the one to use with --{option}. The columns are {columns}.")
    return None
