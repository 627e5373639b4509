"""Posterior predictive check: are cells drawn from a fitted model like the cells that were counted?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from ..data.counts import Counts
from ..fit.device import generator, normal_like, threads_as_asked
from ..fit.split import MAX_CELLS_HELD_OUT, split
from ..model.vae import CountVAE
from .posterior import finite, posterior

COVERAGE_LEVELS = (50, 80, 90, 95)  # percent of the central intervals whose coverage is reported
BINS = 40  # of a histogram of PIT values: the edges of these intervals are edges of bins
N_CORRELATED_GENES = 50  # most variable genes, whose correlations are compared
MIN_EXPECTED_COUNTS = 1.0  # with fewer, the PIT of a count depends more on its randomisation than on the model


class Compared(NamedTuple):
    """One statistic of the data (n) and of each replicate (n_samples x n)."""

    data: NDArray[np.float64]
    replicates: NDArray[np.float64]

    def pit(self, rng: np.random.Generator) -> NDArray[np.float64]:
        """Rank of the data among the replicates, 0 to 1: uniform if the data are like one more replicate.

        The rank is random within ties and within its step (Smith 1985; Czado, Gneiting & Held 2009). So it is uniform
        also for discrete statistics and few replicates.
        """
        below = (self.replicates < self.data).sum(0)
        ties = (self.replicates == self.data).sum(0)
        return (below + rng.random(len(self.data)) * (ties + 1)) / (len(self.replicates) + 1)


@dataclass
class Check:
    """Result of `compare_replicates`.

    Attributes
    ----------
    genes
        `mean`, `variance` and `zeros` (share of the cells without a count) of every gene.
    cells
        `depth` and number of `detected` genes of every cell.
    correlation
        Pearson correlation of log1p of the scaled counts, for every pair of the most variable genes.
    pairs
        These genes (2 x pairs), as columns of the counts.
    counts
        Histograms (40 bins) of the PIT of single counts: `all`, and `expressed` (expected count 1 or more).
    """

    genes: dict[str, Compared]
    cells: dict[str, Compared]
    correlation: Compared
    pairs: NDArray[np.int64]
    counts: dict[str, NDArray[np.float64]]


def histogram(pit: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.histogram(pit, BINS, (0, 1))[0].astype(np.float64)


def coverage(counts: NDArray[np.float64]) -> list[float]:
    """Share of the PIT values, given their histogram, within each central interval of `COVERAGE_LEVELS`."""
    centers = (np.arange(BINS) + 0.5) / BINS
    inside = [np.abs(centers - 0.5) < level / 200 for level in COVERAGE_LEVELS]
    return [float(counts[within].sum() / counts.sum()) if counts.sum() else np.nan for within in inside]


@torch.inference_mode()
def held_out_again(
    model: CountVAE, counts: Counts, fraction: float, seed: int, kl_per_dim: NDArray, device: torch.device
) -> NDArray[np.int64] | None:
    """The cells that a fit held out, drawn again with its seed; None if cells or their order differ from the fit.

    `kl_per_dim` is the KL that the fit recorded for its held-out cells and kept weights: other cells give other values.
    """
    cells = split(counts.batch_index, fraction, MAX_CELLS_HELD_OUT, np.random.default_rng(seed))[1]
    if not len(cells):
        return None
    held_out, total = counts.subset(cells), np.zeros(model.config.n_latent)
    batch_index = torch.from_numpy(held_out.batch_index).to(device)
    with threads_as_asked():
        for block, mean, sd in posterior(model, held_out, device):
            total += model.prior.kl(mean, 2 * sd.log(), batch_index[block]).sum(0).cpu().numpy()
    return cells if np.allclose(total / len(cells), kl_per_dim, rtol=1e-3, atol=1e-4) else None


@torch.inference_mode()
def compare_replicates(
    model: CountVAE, counts: Counts, n_samples: int, device: torch.device, seed: int, progress: bool = False
) -> Check:
    """Draw `n_samples` replicates of every cell and compare: encode, draw a state, draw counts at its depth and batch.

    Cells are processed in blocks; only statistics of the replicates are kept.
    """
    statistics = _Statistics(counts, 1 + n_samples)
    pit = {name: np.zeros(BINS) for name in ("all", "expressed")}
    bar = tqdm(total=len(counts), disable=not progress, leave=False, mininterval=0.5)
    noise = generator(seed, device)
    with threads_as_asked(), bar:
        for cells, mean, sd in posterior(model, counts, device):
            batch = counts.minibatch(cells, device)
            x = batch.dense(batch.count)
            statistics.add(0, cells, x, batch.size_factor)
            below, ties, total = (torch.zeros_like(x) for _ in range(3))
            for sample in range(1, 1 + n_samples):
                z = mean + sd * normal_like(mean, noise)
                replicate = finite(model.draw(z, batch.size_factor, batch.batch_index, noise, batch.side_inputs))
                statistics.add(sample, cells, replicate, batch.size_factor)
                below += replicate < x
                ties += replicate == x
                total += replicate
            uniform = torch.rand(x.shape, generator=noise, dtype=x.dtype, device=device)
            values = (below + uniform * (ties + 1)) / (n_samples + 1)
            for name, selected in {
                "all": values,
                "expressed": values[total >= MIN_EXPECTED_COUNTS * n_samples],
            }.items():
                pit[name] += torch.histc(selected.cpu(), BINS, 0, 1).numpy()
            bar.update(cells.stop - cells.start)
    return statistics.check(pit)


class _Statistics:
    """Statistics of the data (row 0) and of the replicates (other rows), added up block by block."""

    def __init__(self, counts: Counts, n_rows: int) -> None:
        self.n_cells, n_genes = counts.matrix.shape
        self.top_genes = _most_variable(counts)
        self.gene_sums = np.zeros((n_rows, 3, n_genes))  # sums of counts and squares, number of zeros
        self.cell_sums = np.zeros((2, n_rows, self.n_cells))
        # of log values and a column of ones
        self.products = np.zeros((n_rows, len(self.top_genes) + 1, len(self.top_genes) + 1))

    def add(self, row: int, cells: slice, x: Tensor, size_factor: Tensor) -> None:
        self.gene_sums[row] += torch.stack([x.sum(0), (x * x).sum(0), (x == 0).sum(0).float()]).cpu().numpy()
        self.cell_sums[:, row, cells] = torch.stack([x.sum(1), (x > 0).sum(1).float()]).cpu().numpy()
        y = torch.log1p(x[:, torch.from_numpy(self.top_genes).to(x.device)] / size_factor[:, None])
        y = torch.cat([y, torch.ones_like(y[:, :1])], 1)
        self.products[row] += (y.T @ y).cpu().numpy()

    def check(self, pit: dict[str, NDArray[np.float64]]) -> Check:
        mean, square, zeros = np.moveaxis(self.gene_sums / self.n_cells, 1, 0)
        variance = (square - mean**2) * self.n_cells / (self.n_cells - 1)
        pairs = np.array(np.triu_indices(len(self.top_genes), 1))
        means = self.products[:, :-1, -1] / self.n_cells
        covariance = self.products[:, :-1, :-1] / self.n_cells - means[:, :, None] * means[:, None, :]
        # a gene may have no counts in a replicate
        sd = np.sqrt(np.diagonal(covariance, axis1=1, axis2=2).clip(min=1e-12))
        correlation = (covariance / (sd[:, :, None] * sd[:, None, :]))[:, *pairs]
        genes = {"mean": mean, "variance": variance, "zeros": zeros}
        cells = {"depth": self.cell_sums[0], "detected": self.cell_sums[1]}
        return Check(
            {name: Compared(rows[0], rows[1:]) for name, rows in genes.items()},
            {name: Compared(rows[0], rows[1:]) for name, rows in cells.items()},
            Compared(correlation[0], correlation[1:]),
            self.top_genes[pairs],
            pit,
        )


def _most_variable(counts: Counts) -> NDArray[np.int64]:
    values = counts.matrix.multiply(1 / counts.size_factor[:, None]).tocsr()
    values.data = np.log1p(values.data)
    mean = np.asarray(values.mean(0)).ravel()
    variance = np.asarray(values.multiply(values).mean(0)).ravel() - mean**2
    return np.sort(np.argsort(-variance, kind="stable")[:N_CORRELATED_GENES])
