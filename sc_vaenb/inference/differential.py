"""Differential expression between groups of cells: the rates of the decoder, corrected by the counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..data.counts import Counts, cells_by_code
from ..fit.device import generator, normal_like, threads_as_asked
from ..model.likelihood import NegativeBinomial
from ..model.minibatch import Minibatch
from ..model.vae import CountVAE
from .posterior import finite, posterior

PRIOR_COUNTS = 1.0  # weight of the decoder's rate, in pseudo-counts that are added to the counts of a group
SMALLEST = 1e-30  # replaces zero in divisions and logarithms

Values = NDArray[np.float64]


@dataclass
class StratumSums:
    """Sums over the cells of a stratum (the cells of one group in one batch); one per gene, except `n`.

    mu is the expected count of the decoder, and `rate` is mu / size factor. w = 1 / (1 + mu / theta) is the optimal
    weight of a count, whose variance is mu + mu^2 / theta = mu / w.
    """

    n: int
    rate: Values
    rate_squared: Values
    expected: Values  # w * mu
    observed: Values  # w * count
    residual: Values  # (w * (count - mu))^2
    count: Values
    cells_expressing: Values

    def __add__(self, other: StratumSums) -> StratumSums:
        return StratumSums(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))


class Difference(NamedTuple):
    """Per gene: mean rates of a group and of its reference, the log2 of their ratio, and its standard deviation."""

    rate: Values
    reference_rate: Values
    log2_fold: Values
    sd: Values


@torch.inference_mode()
def stratum_sums(
    model: CountVAE, counts: Counts, stratum: NDArray[np.int64], n_samples: int, device: torch.device, seed: int
) -> dict[int, StratumSums]:
    """Sums of each stratum, decoded from `n_samples` posterior samples per cell; cells with code -1 are left out.

    Strata are processed one by one, in blocks of cells, to limit memory.
    """
    sums, noise = {}, generator(seed, device)
    with threads_as_asked():
        for cells in cells_by_code(stratum):
            if (code := int(stratum[cells[0]])) >= 0:
                sums[code] = _sums(model, counts.subset(cells), n_samples, device, noise)
    return sums


def _sums(model: CountVAE, counts: Counts, n_samples: int, device: torch.device, noise: torch.Generator) -> StratumSums:
    totals = np.zeros((7, counts.matrix.shape[1]))
    for cells, mean, sd in posterior(model, counts, device):
        batch = counts.minibatch(cells, device)
        mu = mean.new_zeros(batch.n_cells, batch.n_genes)
        for _ in range(n_samples):
            z = mean + sd * normal_like(mean, noise)
            mu += model.log_mean(z, batch.size_factor, batch.batch_index, batch.side_inputs).exp_()
        mu /= n_samples
        x, rate, weight = batch.dense(batch.count), mu / batch.size_factor.unsqueeze(1), _weight(model, mu, batch)
        expected, observed = weight * mu, weight * x
        residual = (observed - expected).square()
        for total, values in zip(totals, (rate, rate**2, expected, observed, residual, x, x > 0), strict=True):
            total += values.sum(0).cpu().numpy()
    return StratumSums(len(counts), *finite(totals))


def _weight(model: CountVAE, mu: Tensor, batch: Minibatch) -> Tensor:
    if not isinstance(model.likelihood, NegativeBinomial):
        return torch.ones_like(mu)
    theta = model.likelihood.log_theta_of(batch.batch_index).exp()
    return theta / (theta + mu)


def overdispersion(sums: Sequence[StratumSums]) -> Values:
    """Per gene, variance of the counts around the decoder's expected counts, relative to the model's; at least 1."""
    residual, expected = (np.sum([getattr(s, name) for s in sums], axis=0) for name in ("residual", "expected"))
    return np.maximum(residual / np.maximum(expected, SMALLEST), 1.0)


def difference(
    group: Mapping[int, StratumSums], reference: Mapping[int, StratumSums], dispersion: Values
) -> Difference:
    """Compare two groups within the batches that hold cells of both. The groups are given as sums per batch.

    A batch with n and m cells has the weight n * m / (n + m) on both sides, as in the rate ratio of Mantel and
    Haenszel. So neither batch effects nor the sizes of the groups in each batch bias the result, and batches without
    counts of a gene do no harm. `dispersion` is the result of :func:`overdispersion`.
    """
    shared = sorted(group.keys() & reference.keys())
    weight = {b: group[b].n * reference[b].n / (group[b].n + reference[b].n) for b in shared}
    total = sum(weight.values())
    sides = [
        _mean_rate([side[b] for b in shared], [weight[b] / total for b in shared], dispersion)
        for side in (group, reference)
    ]
    (rate, variance), (reference_rate, reference_variance) = sides
    sd = np.sqrt(variance + reference_variance) / np.log(2)
    return Difference(rate, reference_rate, np.log2(rate / reference_rate), sd)


def _mean_rate(strata: Sequence[StratumSums], weights: Sequence[float], dispersion: Values) -> tuple[Values, Values]:
    """Posterior mode of a mean rate on the log scale, and the variance of its logarithm.

    The rate is that of the decoder times a factor u. Its estimate observed / expected has the mean u and the variance
    u / expected, like a Poisson count `observed` with the mean u * expected. So a gamma prior with mean 1 is conjugate.
    The cells are a sample of their group: this adds the variance of their rates, written in the same form.
    """
    decoded = estimate = variance = np.zeros(len(dispersion))
    for sums, weight in zip(strata, weights, strict=True):
        rate = sums.rate / sums.n
        expected = np.maximum(sums.expected, SMALLEST)
        sampling_variance = np.maximum(sums.rate_squared / sums.n - rate**2, 0) / max(sums.n - 1, 1)
        decoded = decoded + weight * rate
        estimate = estimate + weight * rate * sums.observed / expected
        variance = variance + weight**2 * (rate**2 * dispersion / expected + sampling_variance)
    decoded = np.maximum(decoded, SMALLEST)
    n_expected = decoded**2 / np.maximum(variance, SMALLEST)
    n_observed = n_expected * estimate / decoded
    rate = decoded * (PRIOR_COUNTS + n_observed) / (PRIOR_COUNTS + n_expected)
    return rate, 1 / (PRIOR_COUNTS + n_observed)
