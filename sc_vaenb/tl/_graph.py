"""Neighbours, Leiden clusters and UMAP of an embedding."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import scanpy as sc

from .._scanpy import override, scanpy_1

if TYPE_CHECKING:
    from anndata import AnnData

MAX_CELLS_EXACT = 30_000  # with more cells the search for neighbours is approximate


def neighbors_leiden_umap(adata: AnnData, key: str, resolution: float, seed: int, *, again: bool = True) -> None:
    """Compute neighbours, Leiden clusters and UMAP of `obsm["X_" + key]`: those that are missing, or all if `again`."""
    graph, umap, clusters = f"neighbors_{key}", f"X_umap_{key}", f"leiden_{key}"
    again = again or graph not in adata.uns
    with scanpy_1(), override(verbosity="error"):
        if again:
            exact = {"transformer": "sklearn"} if adata.n_obs <= MAX_CELLS_EXACT else {}
            k = min(15, adata.n_obs - 1)
            sc.pp.neighbors(adata, k, use_rep=f"X_{key}", key_added=graph, random_state=seed, **exact)
        record: Any = adata.uns.get(clusters) if clusters in adata.obs else None
        params = record.get("params") if isinstance(record, dict) else None
        if again or not isinstance(params, dict) or params.get("resolution") != resolution:
            sc.tl.leiden(
                adata, resolution, neighbors_key=graph, key_added=clusters, random_state=seed,
                flavor="igraph", n_iterations=2, directed=False,
            )  # fmt: skip
        if again or umap not in adata.obsm:
            sc.tl.umap(adata, neighbors_key=graph, key_added=umap, random_state=seed)
