from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scanpy import logging as logg
from scipy import sparse

from .. import _adata, _obs
from .. import _schema as schema
from .._checks import checked, seed_of
from .._session import own_state
from ..data.sparse import checked_matrix
from ..inference.spatial import build_graph, default_hops, kinds, surroundings
from ._arguments import to_uns

if TYPE_CHECKING:
    from anndata import AnnData

OF_SQUIDPY = "spatial_neighbors"  # where squidpy writes its graph; one is built if there is none


@own_state()
@checked
def spatial(
    adata: AnnData,
    key: str = "vae",
    *,
    neighbors_key: str = OF_SQUIDPY,
    slice_key: str | Sequence[str] | None = None,
    basis: str = "spatial",
    n_hops: int | None = None,
    n_kinds: int = 20,
    rng: int | np.random.Generator | None = 0,
    key_added: str | None = None,
    copy: bool = False,
) -> AnnData | None:
    """Embed cells by what surrounds them in a tissue, to find domains.

    Cells are softly assigned to kinds, which are clusters of the embedding. The embedding and the assignments are
    averaged over each cell and its neighbours, several times. So each cell gets the mean state of the cells around it,
    and the shares of kinds among them. The clusters of the result are domains. Find them with k-means: cells that are
    close in the tissue have nearly the same surroundings, so clusters of a graph (Leiden) are patches of the tissue.
    For cell types, keep the embedding itself: surroundings do not help there.

    Parameters
    ----------
    adata
        Cells x genes, with an embedding in `obsm["X_" + key]`. Only `obs`, `obsm`, `obsp` and `uns` are read.
    key
        Name of the embedding: of a model (from :func:`sc_vaenb.tl.vae` or :func:`sc_vaenb.tl.cvae`), or such as
        `"pca"`. If there are several slices, take one that is corrected for them.
    neighbors_key
        Name of the graph of neighbours in the tissue, in `uns`, as `squidpy.gr.spatial_neighbors` writes it. All
        neighbours of a cell count the same. If there is no `uns["spatial_neighbors"]`, the 6 nearest cells
        in the same slice are neighbours.
    slice_key
        Column of `obs` that names the slice of each cell, or several whose combinations are the slices. `None`: the
        batches of the embedding (`uns[key]["params"]["batch_key"]`), or one slice if it has none.
    basis
        Coordinates of the cells in `obsm`, cells x 2 (or 3) in any unit, from which a graph is built. Slices may
        overlap.
    n_hops
        How often the average over neighbours is taken. `None`: 30 times, divided by the mean number of neighbours of
        a cell. More hops smooth more, for few counts per cell and large domains; fewer hops keep thin domains.
    n_kinds
        Number of kinds. 0: the mean states alone.
    rng
        Seed of the clusters.
    key_added
        Name for the result, `key + "_spatial"` by default: `obsm["X_" + key_added]` and `uns[key_added]`.
    copy
        Work on a copy of `adata` and return it.

    Returns
    -------
    `None`, or the copy if `copy`. Written are:

    `obsm["X_vae_spatial"]`
        The mean state around each cell, then the shares of kinds, float32, cells x (dimensions + kinds). Each of the
        two parts is centred and has total variance 1.
    `uns["vae_spatial"]["params"]`
        The arguments, with the number of hops.

    Raises
    ------
    KeyError, TypeError, ValueError
        There is no such embedding, graph or column, a cell has no coordinates or no slice, or the graph joins cells of
        different slices. `adata` is unchanged.

    See Also
    --------
    sc_vaenb.pl.spatial_domains : Plots domains in the tissue.
    sc_vaenb.tl.cvae : An embedding in which slices are corrected.

    Notes
    -----
    A cell without neighbours has its own state and kind.

    References
    ----------
    .. [1] Varrone et al. (2024), CellCharter reveals spatial cell niches associated with tissue remodeling and cell
       plasticity, Nature Genetics 56:74-84.
    .. [2] Palla et al. (2022), Squidpy: a scalable framework for spatial omics analysis, Nature Methods 19:171-178.

    Examples
    --------
    >>> import numpy as np
    >>> import pandas as pd
    >>> from sklearn.cluster import KMeans
    >>> import sc_vaenb
    >>> adata = sc_vaenb.datasets.simulate()
    >>> adata.obsm["spatial"] = np.random.default_rng(0).uniform(size=(adata.n_obs, 2))
    >>> sc_vaenb.pp.prepare(adata, batch_key="batch")
    >>> sc_vaenb.tl.cvae(adata, "batch")
    >>> sc_vaenb.tl.spatial(adata)
    >>> found = KMeans(5, n_init=5, random_state=0).fit_predict(adata.obsm["X_vae_spatial"])
    >>> adata.obs["domain"] = pd.Categorical(found.astype(str))
    >>> sc_vaenb.pl.spatial_domains(adata, "domain", slice_key="batch")
    """
    name = f"{key}_spatial" if key_added is None else key_added
    seed = seed_of(rng)
    _check_name(adata, key, name)
    states = _adata.read_embedding(adata, f"X_{key}")
    slice_key = _batch_key(adata, key) if slice_key is None else slice_key
    slices, slice_names = np.zeros(adata.n_obs, np.int64), np.array([""])
    if slice_key is not None:
        slices, slice_names = _obs.batch_labels(adata, slice_key, "slice_key")
    graph = _read_graph(adata, neighbors_key, slices, slice_names)
    coordinates = _adata.read_coordinates(adata, basis) if graph is None else None

    start = logg.info(f"averaging 'X_{key}' over neighbours in {len(slice_names)} slices")
    adata = adata.copy() if copy else adata
    if graph is None:
        assert coordinates is not None
        logg.info(f"    neighbours are the nearest cells by obsm[{basis!r}]: there is no uns[{neighbors_key!r}]")
        graph = build_graph(coordinates, slices)
    hops = default_hops(graph) if n_hops is None else n_hops
    around = surroundings(states, kinds(states, slices, n_kinds, seed), graph, hops)
    params = {"key": key, "neighbors_key": neighbors_key, "slice_key": slice_key, "basis": basis}
    params |= {"n_hops": hops, "n_kinds": n_kinds, "rng": seed, "version": version("sc_vaenb")}
    _adata.write_result(adata, name, around, {"params": to_uns(params)})
    logg.info("    finished", time=start, deep=f"added\n    'X_{name}', what surrounds each cell (adata.obsm)")
    return adata if copy else None


def _check_name(adata: AnnData, key: str, name: str) -> None:
    if name == key:
        msg = f"key_added={name!r} would replace the embedding that is averaged. Choose another name."
        raise ValueError(msg)
    _adata.check_key_added(adata, name)


def _batch_key(adata: AnnData, key: str) -> Any:
    """The batches for which an embedding was corrected; None if it is not known or there were none."""
    record: Any = adata.uns.get(key)
    params = record.get("params") if isinstance(record, Mapping) else None
    if not isinstance(params, Mapping) or "batch_key" not in params:
        return None
    with schema.explain_damage(f"uns[{key!r}]['params'] is damaged", "Name the slices with slice_key."):
        return schema.BATCH_KEY(params["batch_key"], "batch_key")


def _read_graph(
    adata: AnnData, neighbors_key: str, slices: NDArray[np.int64], slice_names: NDArray[np.str_]
) -> sparse.csr_array | None:
    """Who is a neighbour of whom; None if there is no graph and the default one is asked for."""
    record: Any = adata.uns.get(neighbors_key)
    if record is None and neighbors_key == OF_SQUIDPY:
        return None
    name = str(record.get("connectivities_key")) if isinstance(record, Mapping) else ""
    if name not in adata.obsp:
        msg = (
            f"neighbors_key={neighbors_key!r} is no graph of neighbours: uns[{neighbors_key!r}]['connectivities_key'] "
            f"must name one in adata.obsp, which holds {list(adata.obsp)}. squidpy.gr.spatial_neighbors writes both; "
            "or leave neighbors_key out."
        )
        raise KeyError(msg)
    graph = sparse.coo_array(checked_matrix(adata.obsp[name], f"obsp[{name!r}]"))
    is_edge = (graph.data != 0) & (graph.row != graph.col)
    i, j = graph.row[is_edge], graph.col[is_edge]
    across = slices[i] != slices[j]
    if across.any():
        first, second = (slice_names[slices[end[np.argmax(across)]]] for end in (i, j))
        msg = (
            f"obsp[{name!r}]: {across.sum():,} of {len(i):,} neighbours are in different slices (first: "
            f"{str(first)!r} and {str(second)!r}). Give squidpy.gr.spatial_neighbors the slices as library_key, name "
            f"the true slices with slice_key, or delete uns[{OF_SQUIDPY!r}] and leave neighbors_key out: then the "
            "nearest cells of each slice are neighbours."
        )
        raise ValueError(msg)
    edges = np.ones(2 * len(i), bool), (np.concatenate([i, j]), np.concatenate([j, i]))
    return sparse.csr_array(edges, graph.shape)
