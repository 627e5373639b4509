"""The two dimensions in which an embedding is drawn: its own, a UMAP of it that is there, or a new one."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scanpy as sc
from anndata import AnnData
from scanpy import logging
from scipy.sparse import csr_array

from .. import _adata
from .._scanpy import override, scanpy_1

if TYPE_CHECKING:
    from numpy.typing import NDArray

OF_SCANPY = "X_umap", "umap"  # where scanpy 1 and scanpy 2 write a UMAP
MAX_STRAY = 0.025  # share of the cells; see `_share_of_strays`
MAX_CELLS_ASKED = 5_000  # for their strongest neighbours
MAX_GENES_WITHOUT_PCA = 50  # for scanpy's neighbors
_computed: dict[bytes, NDArray[np.float64]] = {}  # UMAPs of this session, so that a second plot does not wait again
N_KEPT = 16


def two_dimensions(adata: AnnData, key: str, rng: int) -> tuple[str, NDArray[np.float64]]:
    """The name of a two-dimensional embedding, and its coordinates."""
    coordinates = _adata.read_embedding(adata, key, dtype=float)
    if coordinates.shape[1] == 2:
        return key, coordinates
    plane = _stored_umap(adata, key)
    return f"UMAP of {key}", _umap_of(key, coordinates, rng) if plane is None else plane


def _stored_umap(adata: AnnData, key: str) -> NDArray[np.float64] | None:
    """The UMAP of an embedding in obsm: by its name, or scanpy's `X_umap` if it was made from this embedding."""
    name = f"X_umap_{key.removeprefix('X_')}"
    if name in adata.obsm and (plane := _adata.read_embedding(adata, name, dtype=float)).shape[1] >= 2:
        return plane[:, :2]
    of_scanpy = next((name for name in OF_SCANPY if name in adata.obsm), None)
    if of_scanpy is None or "umap" not in adata.uns:
        return None
    plane = _adata.read_embedding(adata, of_scanpy, finite=False, dtype=float)[:, :2]
    if plane.shape[1] < 2 or not np.isfinite(plane).all():
        return None
    stray = min(((_share_of_strays(graph, plane), name) for name, graph in _graphs(adata)), default=(1.0, ""))
    if stray[0] > MAX_STRAY or stray[1] != key:
        return None
    logging.info(f"obsm[{of_scanpy!r}] is drawn: it is the UMAP of obsm[{key!r}]")
    return plane


def _graphs(adata: AnnData) -> Iterator[tuple[str, csr_array]]:
    """The graphs of neighbours that scanpy's `neighbors` has written, under any key, each with its embedding's name."""
    for record in adata.uns.values():
        if not (isinstance(record, Mapping) and isinstance(params := record.get("params"), Mapping)):
            continue
        graph: Any = adata.obsp.get(str(record.get("connectivities_key")))
        if graph is not None:
            # without use_rep, scanpy takes the PCA, but X if it is told so by n_pcs=0 or has few genes
            took_x = params.get("n_pcs") == 0 or adata.n_vars <= MAX_GENES_WITHOUT_PCA
            yield str(params.get("use_rep") or ("X" if took_x else _adata.pca_key(adata))), csr_array(graph)


def _share_of_strays(graph: csr_array, plane: NDArray[np.float64]) -> float:
    """How badly a UMAP fits to a graph: scanpy does not record which one it was made from, and a graph may be newer.

    UMAP draws each cell close to its strongest neighbour. A cell is a stray if its distance to it is above the 10 %
    quantile of the distances of random pairs. On three data sets the UMAP's own graph had up to 1.6 % strays, and those
    of other embeddings of the same cells had 3 % or more, except where 10 principal components were beside 30.
    """
    rng = np.random.default_rng(0)
    cells = rng.permutation(np.flatnonzero(np.diff(graph.indptr)))[:MAX_CELLS_ASKED]
    if not len(cells):
        return 1.0
    strongest = np.asarray(graph[cells].argmax(axis=1)).ravel()
    distance = np.linalg.norm(plane[cells] - plane[strongest], axis=1)
    pairs = rng.integers(len(plane), size=(2, 10_000))
    random_distance = np.linalg.norm(plane[pairs[0]] - plane[pairs[1]], axis=1)
    return float(np.mean(distance > np.quantile(random_distance, 0.1)))


def _umap_of(key: str, coordinates: NDArray[np.float64], rng: int) -> NDArray[np.float64]:
    """A UMAP that is computed now, or was computed before in this session."""
    digest = blake2b(coordinates.tobytes())
    digest.update(repr((coordinates.shape, rng)).encode())
    name = digest.digest()
    if name not in _computed:
        start = logging.info(f"computing a UMAP of obsm[{key!r}], for plots of this session alone")
        plane = _umap(coordinates, rng)
        neighbors_key, umap_key = f"neighbors_{key}", f"X_umap_{key.removeprefix('X_')}"
        logging.info(
            "    finished",
            time=start,
            deep=f"to keep one: sc.pp.neighbors(adata, use_rep={key!r}, key_added={neighbors_key!r}); "
            f"sc.tl.umap(adata, neighbors_key={neighbors_key!r}, key_added={umap_key!r})",
        )
        while len(_computed) >= N_KEPT:
            _computed.pop(next(iter(_computed)), None)  # the oldest
        _computed[name] = plane
    return _computed[name]


def _umap(coordinates: NDArray[np.float64], rng: int) -> NDArray[np.float64]:
    """UMAP of exact neighbours (scanpy's approximate ones fail with pynndescent 0.7.0), initialised with the PCA."""
    n_cells, n_dims = coordinates.shape
    if n_cells < 4:
        raise ValueError(f"a UMAP needs at least 4 cells; found {n_cells}. Pass an embedding with two columns.")
    centred = coordinates - coordinates.mean(axis=0)
    init = np.random.default_rng(rng).normal(scale=1e-4, size=(n_cells, 2))
    init[:, : min(n_dims, 2)] += centred @ np.linalg.eigh(centred.T @ centred)[1][:, : -min(n_dims, 2) - 1 : -1]
    with scanpy_1(), warnings.catch_warnings(), override(verbosity="error"):
        warnings.simplefilter("ignore")
        umap_adata = AnnData(
            obs=pd.DataFrame(index=np.arange(n_cells).astype(str)), obsm={"X": coordinates.astype("f4")}
        )
        sc.pp.neighbors(umap_adata, min(15, n_cells - 1), use_rep="X", transformer="sklearn", random_state=rng)
        sc.tl.umap(umap_adata, init_pos=init, random_state=rng, key_added="umap")
    return np.asarray(umap_adata.obsm["umap"], dtype=float)
