"""PCA of the log-normalised counts, with which count models are compared."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import scanpy as sc
from numpy.typing import NDArray

from .. import _adata
from .._scanpy import override, scanpy_1

if TYPE_CHECKING:
    from anndata import AnnData

N_COMPONENTS = 50
ROUNDING = 1e-6  # relative rounding error of sums of squares in float32


class AllAlikeError(ValueError):
    """All cells have the same expression: there are no principal components."""


def log_pca(
    adata: AnnData, layer: str | None, mask_var: str | NDArray[np.bool_] | None, seed: int
) -> NDArray[np.float32]:
    """PCA (cells x 50, or fewer) of the variable genes' counts, scaled to the median depth and log1p-transformed."""
    from anndata import AnnData

    mask = _adata.gene_mask(adata, mask_var)
    if min(adata.n_obs, mask.sum()) < 2:
        msg = f"adata has {adata.n_obs} cells and {mask.sum()} genes to use: a PCA needs two of each at least."
        raise ValueError(msg)
    counts: Any = _adata.read_counts(adata, layer, mask, allow_non_integer=True)
    log_counts = AnnData(counts)
    with scanpy_1(), override(verbosity="error"):
        sc.pp.normalize_total(log_counts)
        sc.pp.log1p(log_counts)
        mean_square = log_counts.X.multiply(log_counts.X).mean(0, dtype=np.float64).sum()
        if mean_square - np.square(log_counts.X.mean(0, dtype=np.float64)).sum() <= ROUNDING * mean_square:
            raise AllAlikeError("all cells have the same expression: a PCA needs cells that differ.")
        n_components = min(N_COMPONENTS, *(size - 1 for size in log_counts.shape))
        return np.asarray(sc.pp.pca(log_counts.X, n_comps=n_components, random_state=seed), np.float32)
