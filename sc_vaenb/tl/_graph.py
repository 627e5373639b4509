"""What follows an embedding: neighbours, clusters, a plane to look at."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import scanpy as sc

from .._session import shared

if TYPE_CHECKING:
    from anndata import AnnData

EXACT_NEIGHBOURS = 30_000  # cells, up to which the search for neighbours is exact


def neighbors_leiden_umap(adata: AnnData, key: str, resolution: float, seed: int, *, again: bool = True) -> None:
    """Neighbours, Leiden clusters and UMAP of `obsm["X_" + key]`, where they are not there or `again`."""
    graph, plane, clusters = f"neighbors_{key}", f"X_umap_{key}", f"leiden_{key}"
    again = again or graph not in adata.uns
    with shared(), sc.settings.verbosity.override("error"):
        if again:
            exact = {"transformer": "sklearn"} if adata.n_obs <= EXACT_NEIGHBOURS else {}
            k = min(15, adata.n_obs - 1)
            sc.pp.neighbors(adata, k, use_rep=f"X_{key}", key_added=graph, random_state=seed, **exact)
        stored: Any = adata.uns.get(clusters) if clusters in adata.obs else None
        kept = stored.get("params") if isinstance(stored, dict) else None
        if again or not isinstance(kept, dict) or kept.get("resolution") != resolution:
            sc.tl.leiden(
                adata, resolution, neighbors_key=graph, key_added=clusters, random_state=seed,
                flavor="igraph", n_iterations=2, directed=False,
            )  # fmt: skip
        if again or plane not in adata.obsm:
            sc.tl.umap(adata, neighbors_key=graph, key_added=plane, random_state=seed)
