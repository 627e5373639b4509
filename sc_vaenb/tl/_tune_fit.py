"""Fit one configuration and score it without labels; this may run in its own process."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from sklearn.metrics import normalized_mutual_info_score as nmi

from .._record import FittedModel
from .._scanpy import override
from .._session import shared
from ..fit.split import MAX_CELLS_HELD_OUT, split
from ..inference.marginal import log_likelihood
from ..metrics import RESOLUTIONS, fuzzy_graph, ilisi, knn, leiden
from ..metrics.catalogue import BIO_WEIGHT, GRAPH_K
from ._counts import read_counts
from ._cvae import cvae
from ._pca import AllAlikeError, log_pca
from ._vae import vae

if TYPE_CHECKING:
    from anndata import AnnData

N_SAMPLES = 20  # samples of the state of a held-out cell, for the lower bound of its log-likelihood
MAX_CELLS_SCORED = 5_000  # with more cells, scoring takes longer than the fit, and the scores change little
MIN_CELLS_PER_BATCH = 30  # batches with fewer cells are not clustered
BATCH_RESOLUTIONS = (0.2, 0.6, 1.0, 1.4, 2.0)  # Leiden resolutions of the clusters within batches
N_NEIGHBORS = 90  # neighbours of a cell, including itself, for iLISI, as in scIB


@dataclass
class TrialData:
    """The data that all trials share.

    Attributes
    ----------
    counts
        Counts of the genes used (cells x genes).
    obs, var
        The columns of `obs` that a fit reads, and the names of the genes.
    batch_key
        The column or columns with the batches; None for `tl.vae`.
    cells
        The cells that are scored.
    codes
        Batch codes of these cells; zeros for `tl.vae`.
    batch_clusters
        The clusters within each batch, from :func:`clusters_per_batch`.
    """

    counts: csr_matrix
    obs: pd.DataFrame
    var: pd.DataFrame
    batch_key: str | Sequence[str] | None
    cells: NDArray[np.int64]
    codes: NDArray[np.int64]
    batch_clusters: NDArray[np.int64]
    device: str


def fit_and_score(data: TrialData, config: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Fit a configuration; return its scores, or the `error` of the fit."""
    from anndata import AnnData

    start_time = time.perf_counter()
    options = {**config, "layer": None, "mask_var": None, "device": data.device, "rng": seed}
    adata = AnnData(data.counts, data.obs, data.var)  # shares the counts
    with shared(), override(verbosity="error"):
        try:
            if data.batch_key is None:
                vae(adata, **options)
            else:
                cvae(adata, data.batch_key, **options)
        except (FloatingPointError, MemoryError) as error:
            return {"error": str(error)}
    if adata.uns["vae"]["verdict"]["status"] == "interrupted":
        raise KeyboardInterrupt
    scores = _scores(data, np.asarray(adata.obsm["X_vae"]))
    return scores | {"log_likelihood": _log_likelihood(adata, seed), "seconds": time.perf_counter() - start_time}


def _scores(data: TrialData, embedding: NDArray[np.float32]) -> dict[str, float]:
    """`kept`, with batches `mixed`, and the `score` that combines them."""
    neighbors = knn(embedding[data.cells], N_NEIGHBORS)
    joint_clusters = leiden(fuzzy_graph(neighbors.first(GRAPH_K)), RESOLUTIONS, seed=0)
    kept = agreement(data.batch_clusters, joint_clusters, data.codes)
    if data.batch_key is None:
        return {"kept": kept, "score": kept}
    mixed = ilisi(neighbors, data.codes)
    return {"kept": kept, "mixed": mixed, "score": BIO_WEIGHT * kept + (1 - BIO_WEIGHT) * mixed}


def clusters_per_batch(counts: csr_matrix, codes: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """Leiden clusters of each batch alone, in its own PCA: resolutions x cells; -1 if a batch has fewer than two."""
    from anndata import AnnData

    batch_clusters = np.full((len(BATCH_RESOLUTIONS), len(codes)), -1)
    for code in np.unique(codes):
        cells = np.flatnonzero(codes == code)
        if len(cells) < MIN_CELLS_PER_BATCH:
            continue
        batch = AnnData(counts[cells])
        try:
            components = log_pca(batch, None, None, seed)
        except AllAlikeError:
            continue
        graph = fuzzy_graph(knn(components, GRAPH_K))
        for row, clusters in zip(batch_clusters, leiden(graph, BATCH_RESOLUTIONS, seed=0), strict=True):
            if len(np.unique(clusters)) > 1:
                row[cells] = clusters
    return batch_clusters


def agreement(
    batch_clusters: NDArray[np.int64], joint_clusters: list[NDArray[np.intp]], codes: NDArray[np.int64]
) -> float:
    """NMI, over the cells of a batch, of its own clusters and the clusters of all batches; mean over batches.

    Batches without two clusters of their own are left out.

    The resolution of the joint clusters does not matter: for each resolution of `batch_clusters`, the joint clusters
    that agree best count. The result is the mean over the resolutions of `batch_clusters`.
    """
    best = []
    for row in batch_clusters:
        clustered = [cells for code in np.unique(codes) if row[cells := np.flatnonzero(codes == code)][0] >= 0]
        if clustered:
            best.append(
                max(float(np.mean([nmi(row[c], clusters[c]) for c in clustered])) for clusters in joint_clusters)
            )
    return float(np.mean(best))


def _log_likelihood(adata: AnnData, seed: int) -> float:
    """Mean log-likelihood of the held-out cells, in nats per cell; NaN if there are none."""
    fitted = FittedModel.from_uns(adata, "vae")
    counts = read_counts(adata, "vae", fitted)
    fraction = float(adata.uns["vae"]["params"]["validation_fraction"])
    cells = split(counts.batch_index, fraction, MAX_CELLS_HELD_OUT, np.random.default_rng(seed))[1]
    if not len(cells):
        return float("nan")
    device = torch.device(str(adata.uns["vae"]["params"]["device"]))
    return float(log_likelihood(fitted.model, counts.subset(cells), N_SAMPLES, device, seed)[0].mean())
