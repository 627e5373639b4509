"""Offsets of batches: by how much a batch shifts the log expression of each gene, in all kinds of cells alike.

Where each patient is a batch, a conditional model takes what the disease does for a batch effect. Here, what a batch
does to most kinds of cells is taken for a batch effect, and what it does to a few kinds for biology. An ordinary
conditional model finds the kinds: it lays the batches over each other. The offset of a gene in a batch is the weighted
median, over clusters of its embedding, of the log fold change against the control samples (as CellANOVA, Zhang et al.
2024, learns batch effects from control samples only).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from sklearn.cluster import KMeans

from .._session import shared
from ..data.counts import Counts
from ..fit.align import align
from ..fit.loop import Step, fit
from ..fit.state import FitConfig
from ..model.config import ModelConfig
from .embed import aligned, embed

MAX_CLUSTERS, CELLS_PER_CLUSTER = 20, 50
MAX_CELLS_CLUSTERED = 20_000  # from which the clusters are learned: more would cost time and hardly move them
HALF_A_COUNT = 0.5  # added to the counts observed and expected in a cluster: no logarithm of zero
CLUSTER_VARIANCE = 0.05  # of log fold changes between the clusters of a batch, beside that of counts


def with_offsets(config: ModelConfig) -> ModelConfig:
    """The configuration of the model whose batches only shift the log expression of genes."""
    return replace(config, batch_offsets=True, encode_batch=False, batch_width=0, batch_code=(), alignment_clusters=0)


def find_offsets(
    config: ModelConfig,
    counts: Counts,
    options: FitConfig,
    device: torch.device,
    seed: int,
    progress: bool,
    make_step: Callable[..., Step],
    control: NDArray[np.bool_],
    group: NDArray[np.int64],
) -> NDArray[np.float32]:
    """Fit a conditional model of this configuration, and learn the offsets (batches x genes) from its clusters.

    `control` says which cells are of control samples, `group` which batches have cells of the same kinds.
    """
    model, _, _ = fit(config, counts, options, device, seed, progress, make_step)
    latent = embed(model, counts, device)
    if model.alignment is not None:
        align(model.alignment, latent, counts.batch_index, group, seed)
        latent = aligned(model, latent, counts.batch_index, device)
    held = np.arange(len(counts)) if counts.held is None else counts.held
    cluster = _clusters(latent, seed)[held]
    return batch_offsets(counts.matrix, cluster, counts.batch_index[held], control[held], config.n_batches)


def _clusters(latent: NDArray[np.float32], seed: int) -> NDArray[np.int64]:
    n_clusters = max(min(MAX_CLUSTERS, len(latent) // CELLS_PER_CLUSTER), 1)
    chosen = np.random.default_rng(seed).permutation(len(latent))[:MAX_CELLS_CLUSTERED]
    with shared():  # it sets the threads of BLAS
        clusters = KMeans(n_clusters, n_init=3, random_state=seed % 2**32).fit(latent[chosen])
        labels: NDArray[np.int64] = clusters.predict(latent).astype(np.int64)
    return labels


def batch_offsets(
    counts: csr_matrix,
    cluster: NDArray[np.int64],
    batch_index: NDArray[np.int64],
    control: NDArray[np.bool_],
    n_batches: int,
) -> NDArray[np.float32]:
    """The weighted median over clusters of the log fold change of each gene in a batch against the controls.

    A cluster counts by the precision of its fold change; one without cells of controls does not count.
    """
    n_clusters, n_genes = int(cluster.max()) + 1, counts.shape[1]
    reference = _sums(counts[control], cluster[control], n_clusters)
    share = (reference + 1 / n_genes) / (reference.sum(1, keepdims=True) + 1)
    has_controls = reference.sum(1, keepdims=True) > 0
    offset = np.zeros((n_batches, n_genes), np.float32)
    for batch in range(n_batches):
        cells = batch_index == batch
        observed = _sums(counts[cells], cluster[cells], n_clusters)
        expected = share * observed.sum(1, keepdims=True)
        change = np.log((observed + HALF_A_COUNT) / (expected + HALF_A_COUNT))
        weight = has_controls * expected / (1 + CLUSTER_VARIANCE * expected)
        offset[batch] = _shrunken(_weighted_median(change, weight), weight.sum(0))
    return offset


def _shrunken(median: NDArray[np.float64], precision: NDArray[np.float64]) -> NDArray[np.float64]:
    """Medians shrunk towards 0 by how much of their variance is chance (Efron & Morris 1975), genes of one batch."""
    chance = 0.5 * np.pi / np.maximum(precision, 1e-9)  # the variance of a median is pi / 2 times that of a mean
    weight = np.minimum(1 / chance, 1 / CLUSTER_VARIANCE)
    if not precision.any():
        return np.zeros_like(median)
    variance = max(float(np.average(median**2 - chance, weights=weight)), 0.0)
    return median * variance / (variance + chance)


def _sums(counts: csr_matrix, cluster: NDArray[np.int64], n_clusters: int) -> NDArray[np.float64]:
    """Counts of each gene in the cells of each cluster (clusters x genes)."""
    cells = np.arange(len(cluster))
    belongs = csr_matrix((np.ones(len(cells)), (cluster, cells)), shape=(n_clusters, len(cells)))
    return np.asarray((belongs @ counts).todense(), np.float64)


def _weighted_median(values: NDArray[np.float64], weight: NDArray[np.float64]) -> NDArray[Any]:
    """Of each column; 0 where all weights are."""
    order = np.argsort(values, axis=0)
    up_to = np.take_along_axis(weight, order, 0).cumsum(0)
    middle = (up_to >= 0.5 * up_to[-1]).argmax(0)
    median = np.take_along_axis(values, np.take_along_axis(order, middle[None], 0), 0)[0]
    return np.where(up_to[-1] > 0, median, 0.0)
