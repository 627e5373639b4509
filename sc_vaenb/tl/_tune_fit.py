"""One configuration, fitted and judged without labels; it may run in a process of its own."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scanpy import settings
from scipy.sparse import csr_matrix
from sklearn.metrics import normalized_mutual_info_score as nmi

from .._record import FittedModel
from .._session import shared
from ..fit.split import HELD_OUT, split
from ..inference.marginal import log_likelihood
from ..metrics import RESOLUTIONS, fuzzy_graph, ilisi, knn, leiden
from ..metrics.catalogue import BIO_WEIGHT, GRAPH_K
from ._counts import read_counts
from ._cvae import cvae
from ._pca import AllAlikeError, log_pca
from ._vae import vae

if TYPE_CHECKING:
    from anndata import AnnData

DRAWS = 20  # of the state of a held-out cell, for the bound of its likelihood
MAX_CELLS_SCORED = 5_000  # cells; more would take longer to score than to fit, and change the scores little
MIN_CELLS_PER_BATCH = 30  # cells of a batch, below which it has no clusters of its own to speak of
OWN = (0.2, 0.6, 1.0, 1.4, 2.0)  # resolutions of these
NEIGHBORS = 90  # of a cell, itself included, for iLISI, as in scIB


@dataclass
class Bench:
    """What all configurations share.

    Attributes
    ----------
    counts
        Of the genes used (cells x genes).
    obs, var
        The columns of `obs` that a fit reads, and the names of the genes.
    batch_key
        The column with the batches; None for `tl.vae`.
    cells
        Those that are scored.
    codes
        Their batches, zeros for `tl.vae`.
    own
        The clusters of each batch on its own, from :func:`own_clusters`.
    """

    counts: csr_matrix
    obs: pd.DataFrame
    var: pd.DataFrame
    batch_key: str | None
    cells: NDArray[np.int64]
    codes: NDArray[np.int64]
    own: NDArray[np.int64]
    device: str


def judged(bench: Bench, config: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Scores of a configuration, or the `error` with which its fit broke down."""
    from anndata import AnnData

    start = time.perf_counter()
    options = {**config, "layer": None, "mask_var": None, "device": bench.device, "rng": seed}
    adata = AnnData(bench.counts, bench.obs, bench.var)  # shares the counts
    with shared(), settings.verbosity.override("error"):
        try:
            if bench.batch_key is None:
                vae(adata, **options)
            else:
                cvae(adata, bench.batch_key, **options)
        except (FloatingPointError, MemoryError) as error:
            return {"error": str(error)}
    if adata.uns["vae"]["verdict"]["status"] == "interrupted":
        raise KeyboardInterrupt
    found = scores(bench, np.asarray(adata.obsm["X_vae"]))
    return found | {"log_likelihood": _held_out(adata, bench, seed), "seconds": time.perf_counter() - start}


def scores(bench: Bench, embedding: NDArray[np.float32]) -> dict[str, float]:
    """`kept`, and with batches `mixed`, and the `score` made of them."""
    neighbors = knn(embedding[bench.cells], NEIGHBORS)
    joint = leiden(fuzzy_graph(neighbors.first(GRAPH_K)), RESOLUTIONS, seed=0)
    kept = agreement(bench.own, joint, bench.codes)
    if bench.batch_key is None:
        return {"kept": kept, "score": kept}
    mixed = ilisi(neighbors, bench.codes)
    return {"kept": kept, "mixed": mixed, "score": BIO_WEIGHT * kept + (1 - BIO_WEIGHT) * mixed}


def own_clusters(counts: csr_matrix, codes: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """Leiden clusters of each batch on its own, in its own PCA: resolutions x cells, -1 where there are not two."""
    from anndata import AnnData

    own = np.full((len(OWN), len(codes)), -1)
    for code in np.unique(codes):
        cells = np.flatnonzero(codes == code)
        if len(cells) < MIN_CELLS_PER_BATCH:
            continue
        alone = AnnData(counts[cells])
        try:
            components = log_pca(alone, None, None, seed)
        except AllAlikeError:
            continue
        graph = fuzzy_graph(knn(components, GRAPH_K))
        for row, clusters in zip(own, leiden(graph, OWN, seed=0), strict=True):
            if len(np.unique(clusters)) > 1:
                row[cells] = clusters
    return own


def agreement(own: NDArray[np.int64], joint: list[NDArray[np.intp]], codes: NDArray[np.int64]) -> float:
    """NMI of each batch's own clusters with those of all batches together, within the batch; mean over batches.

    How fine the clusters are is not the question: of the joint clusterings the one counts that agrees best, for each
    resolution of the batches' own, and the mean of these is taken.
    """
    best = []
    for row in own:
        parts = [cells for code in np.unique(codes) if row[cells := np.flatnonzero(codes == code)][0] >= 0]
        if parts:
            best.append(max(float(np.mean([nmi(row[c], clusters[c]) for c in parts])) for clusters in joint))
    return float(np.mean(best))


def _held_out(adata: AnnData, bench: Bench, seed: int) -> float:
    """Log-likelihood per cell in nats of the cells that the fit held out; NaN if it held out none."""
    fitted = FittedModel.from_uns(adata, "vae")
    counts = read_counts(adata, "vae", fitted)
    fraction = float(adata.uns["vae"]["params"]["validation_fraction"])
    cells = split(counts.batch_index, fraction, HELD_OUT, np.random.default_rng(seed))[1]
    if not len(cells):
        return float("nan")
    device = torch.device(str(adata.uns["vae"]["params"]["device"]))
    return float(log_likelihood(fitted.model, counts.subset(cells), DRAWS, device, seed)[0].mean())
