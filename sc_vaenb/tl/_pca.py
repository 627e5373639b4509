"""What count models are compared with: PCA of the log-normalised counts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import scanpy as sc
from numpy.typing import NDArray

from .. import _adata
from .._session import shared

if TYPE_CHECKING:
    from anndata import AnnData

COMPONENTS = 50
ROUNDING = 1e-6  # of squares in float32


class AllAlikeError(ValueError):
    """Cells that do not differ have no principal components."""


def log_pca(
    adata: AnnData, layer: str | None, mask_var: str | NDArray[np.bool_] | None, seed: int
) -> NDArray[np.float32]:
    """PCA (cells x 50, or fewer) of the variable genes' counts, scaled to the median depth and log1p-transformed."""
    from anndata import AnnData as New

    mask = _adata.gene_mask(adata, mask_var)
    if min(adata.n_obs, mask.sum()) < 2:
        msg = f"adata has {adata.n_obs} cells and {mask.sum()} genes to use: a PCA needs two of each at least."
        raise ValueError(msg)
    counts: Any = _adata.read_counts(adata, layer, mask, allow_non_integer=True)
    plain = New(counts)
    with shared(), sc.settings.verbosity.override("error"):
        sc.pp.normalize_total(plain)
        sc.pp.log1p(plain)
        square = plain.X.multiply(plain.X).mean(0, dtype=np.float64).sum()
        if square - np.square(plain.X.mean(0, dtype=np.float64)).sum() <= ROUNDING * square:
            raise AllAlikeError("all cells have the same expression: a PCA needs cells that differ.")
        sc.pp.pca(plain, n_comps=min(COMPONENTS, *(size - 1 for size in plain.shape)), random_state=seed)
    return np.asarray(plain.obsm["X_pca"], np.float32)
