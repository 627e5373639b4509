"""What the neighbours of a cell in an embedding say of its counts: how good the embedding is, without labels.

The counts of some cells are split at random in two halves, whose noise is independent (Batson et al. 2019, "Molecular
cross-validation for single-cell RNA-seq"; Neufeld et al. 2024, "Inference after latent variable estimation"). One half
is embedded, and the neighbours there are judged by the other half: by the covariance of a cell's expression with that
of its neighbours, which noise does not raise. PCA of the same half is what an embedding is compared with.

Neighbours are looked for within a batch, where there is no batch effect.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from torch import Tensor

from ..data.counts import Counts, cells_by_code
from ..model.vae import CountVAE

MAX_CELLS, MAX_BATCHES = 512, 4  # more would cost time: 0.1 s in all
MAX_SPLITS = 8
MIN_CELLS_PER_BATCH = 12  # of a batch that is looked at
N_NEIGHBORS, CELLS_PER_NEIGHBOR = 15, 4  # neighbours, but no more than a quarter of the batch
THETA = 1.0  # of Pearson residuals: variance mean + mean^2, over cells of all kinds
N_COMPONENTS, N_OVERSAMPLED, N_POWER_ITERATIONS = 50, 10, 3  # of the PCA


class Neighborhoods:
    """Cells with split counts. `explained` says how much their neighbours in a model's embedding tell of them."""

    def __init__(self, counts: Counts, cells: NDArray[np.int64], device: torch.device) -> None:
        """Draw from these cells; `counts` must hold them. The random numbers are not those of the fit."""
        rng = np.random.default_rng(0)
        cells = draw(counts.batch_index, cells, rng)
        self.device, codes = device, counts.batch_index[cells]
        self.groups = [group for group in cells_by_code(codes) if len(group) >= MIN_CELLS_PER_BATCH]
        self.n_cells = sum(len(group) for group in self.groups)
        self.halves: list[Counts] = []
        self.products: list[list[Tensor]] = []
        self.of_pca = float("nan")
        if not self.n_cells:
            return
        whole = counts.matrix[counts.rows(cells)].tocsr()
        side_inputs = {name: values[cells] for name, values in counts.side_inputs.items()}
        for _ in range(int(np.clip(MAX_CELLS // len(cells), 1, MAX_SPLITS))):  # of few cells one would be all chance
            half = whole.copy()
            half.data = rng.binomial(np.rint(whole.data).astype(np.int64), 0.5).astype(np.float32)
            other = whole - half
            half.eliminate_zeros()
            share = np.maximum(_depth(half) / np.maximum(_depth(whole), 1), 1e-3)
            size_factor = (counts.size_factor[cells] * share).astype(np.float32)
            self.halves.append(Counts(half, size_factor, codes, side_inputs))
            self.products.append([_products(_residuals(other[group])) for group in self.groups])
        pca = [_pca(_log_normalised(half.matrix), rng) for half in self.halves]
        self.of_pca = self._covariance(pca)

    @torch.no_grad()
    def explained(self, model: CountVAE) -> float:
        """The covariance of cells with their neighbours in the embedding as a share of that in PCA; NaN if unknown."""
        if not self.of_pca > 0:
            return float("nan")
        training = model.training
        model.eval()
        latent = [model.encode(half.minibatch(slice(None), self.device))[0].float().cpu() for half in self.halves]
        model.train(training)
        finite = all(bool(torch.isfinite(z).all()) for z in latent)
        return self._covariance(latent) / self.of_pca if finite else float("nan")

    def _covariance(self, embeddings: list[Tensor]) -> float:
        """Mean over cells and splits, given an embedding of each half."""
        total = 0.0
        for embedding, of_split in zip(embeddings, self.products, strict=True):
            for group, products in zip(self.groups, of_split, strict=True):
                k = min(N_NEIGHBORS, len(group) // CELLS_PER_NEIGHBOR)
                distances = torch.cdist(embedding[group], embedding[group]).fill_diagonal_(torch.inf)
                total += float(products.gather(1, distances.topk(k, largest=False).indices).mean(1).sum())
        return total / (self.n_cells * len(embeddings))


def draw(batch_index: NDArray[np.int64], cells: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Some cells, of the largest batches: of few cells of many batches no neighbours could be found."""
    groups = sorted(cells_by_code(batch_index[cells]), key=len, reverse=True)[:MAX_BATCHES]
    return np.sort(rng.permutation(cells[np.concatenate(groups)])[:MAX_CELLS])


def _depth(matrix: csr_matrix) -> NDArray[np.float64]:
    return np.asarray(matrix.sum(1), np.float64).ravel()


def _log_normalised(matrix: csr_matrix) -> Tensor:
    """Dense log1p of the counts, every cell brought to the median depth."""
    depth = np.maximum(_depth(matrix), 1)
    dense = torch.from_numpy(matrix.toarray().astype(np.float32))
    return torch.log1p(dense * torch.from_numpy((np.median(depth) / depth).astype(np.float32))[:, None])


def _residuals(counts: csr_matrix) -> Tensor:
    """Pearson residuals of a batch: what depth alone makes of a count is taken off, which in log1p stays visible."""
    dense = torch.from_numpy(counts.toarray().astype(np.float32))
    depth = dense.sum(1, keepdim=True)
    mean = depth * (dense.sum(0) / depth.sum().clamp(min=1))
    residuals = (dense - mean) / (mean + mean**2 / THETA).clamp(min=1e-9).sqrt()
    return residuals.clamp(-(len(dense) ** 0.5), len(dense) ** 0.5)  # as Lause et al. 2021


def _products(expression: Tensor) -> Tensor:
    """Of each two cells of a batch the product of their expression (cells x cells), of which chance alone makes 0.

    Each cell is compared with the mean of the others of the batch; were it that of all, its own noise would be in it.
    """
    n = len(expression)
    centred = expression - expression.mean(0)
    products = centred @ centred.T
    return n / (n - 1) * (products + products.diagonal()[:, None] / (n - 1))


def _pca(expression: Tensor, rng: np.random.Generator) -> Tensor:
    """Scores of the cells, by a randomised singular value decomposition (Halko et al. 2011)."""
    centred = expression - expression.mean(0)
    n = min(N_COMPONENTS, *(size - 1 for size in centred.shape))
    width = min(n + N_OVERSAMPLED, *centred.shape)
    basis = torch.from_numpy(rng.standard_normal((centred.shape[1], width)).astype(np.float32))
    for _ in range(N_POWER_ITERATIONS):
        basis = centred.T @ torch.linalg.qr(centred @ basis)[0]
    left = torch.linalg.qr(centred @ basis)[0]
    u, scale, _ = torch.linalg.svd(left.T @ centred, full_matrices=False)
    return (left @ u * scale)[:, :n]
