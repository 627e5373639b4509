"""Batch offsets: by how much a batch shifts the log expression of each gene, equally in all cell types.

If each patient is a batch, a conditional model removes effects of the disease as batch effects. Here, a shift that a
batch has in most cell types is a batch effect, and a shift in a few cell types is biology. An ordinary conditional
model finds the cell types: it overlays the batches. The offset of a gene in a batch is a weighted median, over the
clusters of the embedding of that model, of the log fold change against the control samples (CellANOVA, Zhang et al.
2024, also learns batch effects from control samples only).

In a time course, a batch is compared with all cells of the same cluster and time point. So an offset is the difference
of a batch from its time point, and what the batches of a time point have in common is kept.
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

from .._session import one_thread
from ..data.counts import Counts
from ..fit.align import align
from ..fit.loop import Step, fit
from ..fit.state import FitConfig
from ..model.config import ModelConfig
from .embed import aligned, latent_states

MAX_CLUSTERS, CELLS_PER_CLUSTER = 20, 50
MAX_CELLS_CLUSTERED = 20_000  # used to learn the clusters: more cells take time and hardly change them
PSEUDO_COUNT = 0.5  # pseudo-count for observed and expected counts of a cluster: avoids log(0)
CLUSTER_VARIANCE = 0.05  # of log fold changes between the clusters of a batch, besides sampling variance


def with_offsets(config: ModelConfig, group: NDArray[np.int64] | None = None) -> ModelConfig:
    """The configuration of the model whose batches only shift the log expression of genes.

    Its embedding is aligned only if there is a `group` for each batch: that of its time point.
    """
    shifted = replace(config, batch_offsets=True, encode_batch=False, batch_width=0, batch_code=())
    if group is None:
        return replace(shifted, alignment_clusters=0)
    return replace(shifted, batch_group=tuple(group.tolist()))


def find_offsets(
    config: ModelConfig,
    counts: Counts,
    options: FitConfig,
    device: torch.device,
    seed: int,
    progress: bool,
    make_step: Callable[..., Step],
    control: NDArray[np.bool_] | None,
    time: NDArray[np.int64] | None,
    group: NDArray[np.int64],
) -> NDArray[np.float32]:
    """Fit a conditional model with this configuration, and learn the offsets (batches x genes) from its clusters.

    Each cluster is compared with the cells of control samples in it, or, given the `time` of each cell, with its cells
    of the same time point. `group` gives, for each batch, its group: batches of one group share cell types.
    """
    model, _, verdict = fit(config, counts, options, device, seed, progress, make_step)
    if verdict.status == "interrupted":  # half a fit shows no batch effects; there is no result to keep yet
        raise KeyboardInterrupt
    latent = latent_states(model, counts, device)  # they serve as embedding: nobody sees that of this model
    if model.alignment is not None:
        align(model.alignment, latent, counts.batch_index, group, seed)
        latent = aligned(model, latent, counts.batch_index, device)
    held = np.arange(len(counts)) if counts.held is None else counts.held
    cluster = _clusters(latent, seed)
    if time is not None:
        cluster = np.unique([cluster, time], axis=1, return_inverse=True)[1]
    reference = np.ones(len(counts), bool) if control is None else control
    return batch_offsets(counts.matrix, cluster[held], counts.batch_index[held], reference[held], config.n_batches)


def _clusters(latent: NDArray[np.float32], seed: int) -> NDArray[np.int64]:
    n_clusters = max(min(MAX_CLUSTERS, len(latent) // CELLS_PER_CLUSTER), 1)
    chosen = np.random.default_rng(seed).permutation(len(latent))[:MAX_CELLS_CLUSTERED]
    with one_thread():
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
    """Per batch and gene, the weighted median over clusters of the log fold change against the control cells.

    Medians with a large error are shrunk towards 0. The weight of a cluster is the precision of its fold change; a
    cluster without control cells has the weight 0.
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
        change = np.log((observed + PSEUDO_COUNT) / (expected + PSEUDO_COUNT))
        weight = has_controls * expected / (1 + CLUSTER_VARIANCE * expected)
        offset[batch] = _shrunken(_weighted_median(change, weight), weight.sum(0))
    return offset


def _shrunken(median: NDArray[np.float64], precision: NDArray[np.float64]) -> NDArray[np.float64]:
    """Medians of the genes of one batch, shrunk towards 0 according to their errors (Efron & Morris 1975)."""
    # the variance of a median is pi / 2 times that of a mean
    error_variance = 0.5 * np.pi / np.maximum(precision, 1e-9)
    weight = np.minimum(1 / error_variance, 1 / CLUSTER_VARIANCE)
    if not precision.any():
        return np.zeros_like(median)
    variance = max(float(np.average(median**2 - error_variance, weights=weight)), 0.0)
    return median * variance / (variance + error_variance)


def _sums(counts: csr_matrix, cluster: NDArray[np.int64], n_clusters: int) -> NDArray[np.float64]:
    """Counts of each gene in the cells of each cluster (clusters x genes)."""
    cells = np.arange(len(cluster))
    is_in_cluster = csr_matrix((np.ones(len(cells)), (cluster, cells)), shape=(n_clusters, len(cells)))
    return np.asarray((is_in_cluster @ counts).todense(), np.float64)


def _weighted_median(values: NDArray[np.float64], weight: NDArray[np.float64]) -> NDArray[Any]:
    """Weighted median of each column; 0 if all weights are 0."""
    order = np.argsort(values, axis=0)
    cumulative = np.take_along_axis(weight, order, 0).cumsum(0)
    middle = (cumulative >= 0.5 * cumulative[-1]).argmax(0)
    median = np.take_along_axis(values, np.take_along_axis(order, middle[None], 0), 0)[0]
    return np.where(cumulative[-1] > 0, median, 0.0)
