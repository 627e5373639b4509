"""Score an embedding without labels: how well the neighbours of a cell in it predict the counts of the cell.

The counts of some cells are split at random into two halves, whose noise is independent (Batson et al. 2019, "Molecular
cross-validation for single-cell RNA-seq"; Neufeld et al. 2024, "Inference after latent variable estimation"). The model
embeds one half. The other half scores the neighbours in this embedding: the score is the covariance of a cell's
expression with that of its neighbours, which noise does not raise. The same score of a PCA of the first half is the
reference.

Neighbours are searched within a batch, where there is no batch effect.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from torch import Tensor

from ..data.counts import Counts, cells_by_code
from ..model.vae import CountVAE
from .device import tensor_of

MAX_CELLS, MAX_BATCHES = 512, 4  # scoring takes about 0.1 s in a fit; more would take longer
MAX_SPLITS = 8
MIN_CELLS_PER_BATCH = 12  # smaller batches are left out
N_NEIGHBORS, CELLS_PER_NEIGHBOR = 15, 4  # at most a quarter of the batch are neighbours
THETA = 1.0  # of Pearson residuals: the variance over cells of all kinds is mean + mean^2
N_COMPONENTS, N_OVERSAMPLED, N_POWER_ITERATIONS = 50, 10, 3  # of the PCA


class Neighborhoods:
    """Cells with split counts; `explained` scores their neighbours in the embedding of a model."""

    def __init__(self, counts: Counts, cells: NDArray[np.int64], device: torch.device) -> None:
        """Draw from these cells, which `counts` must hold, with a generator that the fit does not use."""
        rng = np.random.default_rng(0)
        cells = draw_cells(counts.batch_index, cells, rng)
        self.device, codes = device, counts.batch_index[cells]
        self.groups = [group for group in cells_by_code(codes) if len(group) >= MIN_CELLS_PER_BATCH]
        self.n_cells = sum(len(group) for group in self.groups)
        self.halves: list[Counts] = []
        self.products: list[list[Tensor]] = []
        self.pca_covariance = float("nan")
        if not self.n_cells:
            return
        matrix = counts.matrix[counts.rows(cells)].tocsr()
        side_inputs = {name: values[cells] for name, values in counts.side_inputs.items()}
        for _ in range(int(np.clip(MAX_CELLS // len(cells), 1, MAX_SPLITS))):  # with few cells, one split is too noisy
            half = matrix.copy()
            half.data = rng.binomial(np.rint(matrix.data).astype(np.int64), 0.5).astype(np.float32)
            other_half = matrix - half
            half.eliminate_zeros()
            depth_share = np.maximum(_depth(half) / np.maximum(_depth(matrix), 1), 1e-3)
            size_factor = (counts.size_factor[cells] * depth_share).astype(np.float32)
            self.halves.append(Counts(half, size_factor, codes, side_inputs))
            self.products.append([_products(_residuals(other_half[group])) for group in self.groups])
        pca = [_pca(_log_normalised(half.matrix), rng) for half in self.halves]
        self.pca_covariance = self._covariance(pca)

    @torch.no_grad()
    def explained(self, model: CountVAE) -> float:
        """Covariance of cells with their neighbours in the embedding, divided by that in PCA; NaN if it is unknown."""
        if not self.pca_covariance > 0:
            return float("nan")
        training = model.training
        model.eval()
        latent = [model.encode(half.minibatch(slice(None), self.device))[0].float().cpu() for half in self.halves]
        model.train(training)
        finite = all(bool(torch.isfinite(z).all()) for z in latent)
        return self._covariance(latent) / self.pca_covariance if finite else float("nan")

    def _covariance(self, embeddings: list[Tensor]) -> float:
        """Mean covariance of cells with their neighbours, over cells and splits; one embedding for each half."""
        total = 0.0
        for embedding, products_of_split in zip(embeddings, self.products, strict=True):
            for group, products in zip(self.groups, products_of_split, strict=True):
                k = min(N_NEIGHBORS, len(group) // CELLS_PER_NEIGHBOR)
                distances = torch.cdist(embedding[group], embedding[group]).fill_diagonal_(torch.inf)
                total += float(products.gather(1, distances.topk(k, largest=False).indices).mean(1).sum())
        return total / (self.n_cells * len(embeddings))


def draw_cells(batch_index: NDArray[np.int64], cells: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw some cells of the largest batches; with few cells from each of many batches there would be no neighbours."""
    groups = sorted(cells_by_code(batch_index[cells]), key=len, reverse=True)[:MAX_BATCHES]
    return np.sort(rng.permutation(cells[np.concatenate(groups)])[:MAX_CELLS])


def _depth(matrix: csr_matrix) -> NDArray[np.float64]:
    return np.asarray(matrix.sum(1), np.float64).ravel()


def _log_normalised(matrix: csr_matrix) -> Tensor:
    """Dense log1p of the counts, scaled to the median depth."""
    depth = np.maximum(_depth(matrix), 1)
    dense = torch.from_numpy(matrix.toarray().astype(np.float32))
    return torch.log1p(dense * torch.from_numpy((np.median(depth) / depth).astype(np.float32))[:, None])


def _residuals(counts: csr_matrix) -> Tensor:
    """Pearson residuals of a batch: they remove the effect of depth, which log1p does not remove fully."""
    dense = torch.from_numpy(counts.toarray().astype(np.float32))
    depth = dense.sum(1, keepdim=True)
    mean = depth * (dense.sum(0) / depth.sum().clamp(min=1))
    residuals = (dense - mean) / (mean + mean**2 / THETA).clamp(min=1e-9).sqrt()
    return residuals.clamp(-(len(dense) ** 0.5), len(dense) ** 0.5)  # limit of Lause et al. 2021


def _products(expression: Tensor) -> Tensor:
    """Product of the expression of each two cells of a batch (cells x cells); by chance alone it is 0 on average.

    The mean of the other cells of the batch is subtracted from each cell. The mean of all cells would contain the noise
    of the cell itself.
    """
    n = len(expression)
    centred = expression - expression.mean(0)
    products = centred @ centred.T
    return n / (n - 1) * (products + products.diagonal()[:, None] / (n - 1))


def _pca(expression: Tensor, rng: np.random.Generator) -> Tensor:
    """Principal component scores of cells, by a randomised singular value decomposition (Halko et al. 2011)."""
    centred = expression - expression.mean(0)
    n_components = min(N_COMPONENTS, *(size - 1 for size in centred.shape))
    width = min(n_components + N_OVERSAMPLED, *centred.shape)
    basis = tensor_of(rng.standard_normal((centred.shape[1], width)).astype(np.float32))
    for _ in range(N_POWER_ITERATIONS):
        basis = centred.T @ torch.linalg.qr(centred @ basis)[0]
    left = torch.linalg.qr(centred @ basis)[0]
    u, scale, _ = torch.linalg.svd(left.T @ centred, full_matrices=False)
    return (left @ u * scale)[:, :n_components]
