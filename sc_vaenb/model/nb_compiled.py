"""Negative binomial log-likelihood of whole cells, compiled for CPUs: cell by cell, so that data stay in the cache.

`nb_kernel` needs a dozen passes of PyTorch over (cells x genes); each reads and writes main memory. Here it is one
pass. The loops over genes have no branches and no calls, so the compiler can use vector instructions. This is why exp
and log are implemented here (polynomials of Cephes, S. Moshier; relative error 2e-7).
"""

from __future__ import annotations

import math
from functools import wraps
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

TABLE_SIZE = 16  # counts up to this value are looked up in tables
# Constants have the type float32: Python floats would convert everything to float64.
ZERO, HALF, ONE = np.float32(0), np.float32(0.5), np.float32(1)
TINY = np.float32(1e-37)  # replaces odds that underflow, so that their logarithm is finite
LARGEST_LOG_ODDS = np.float32(80)
SMALLEST_EXPONENT, LOG2_E, LN2_HIGH, LN2_LOW = map(np.float32, (-87, 1.44269504, 0.693359375, -2.12194440e-4))
EXP = tuple(map(np.float32, (1.9875692e-4, 1.3981999e-3, 8.3334519e-3, 4.1665796e-2, 1.6666667e-1, 0.5)))
LOG = tuple(map(np.float32, (7.0376836e-2, -1.1514610e-1, 1.1676998e-1, -1.2420140e-1, 1.4249323e-1)))
LOG += tuple(map(np.float32, (-1.6668057e-1, 2.0000714e-1, -2.4999994e-1, 3.3333331e-1)))
# Bits of a float32: position of the exponent, exponent of 1, mask of the mantissa, and the bits of sqrt(1/2).
EXPONENT, BIAS, MANTISSA, SQRT_HALF = np.int32(23), np.int32(127), np.int32(0x7FFFFF), np.int32(0x3F3504F3)

OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy"}  # with "python", each division would have a branch


def cached_njit(function: Any) -> Any:
    """Compile a function, and cache the result on disk if there is a folder for it.

    If anything goes wrong with this folder (it is full, or its files are damaged), the function is compiled for this
    session only. The functions do not change their arguments, so a failed call can be repeated.
    """
    compiled = numba.njit(**OPTIONS)(function)
    try:
        cached = numba.njit(cache=True, **OPTIONS)(function)
    except RuntimeError:  # there is no cache folder
        return compiled

    @wraps(function)
    def call(*arguments: Any) -> Any:
        nonlocal cached
        if cached is compiled:
            return compiled(*arguments)
        try:
            return cached(*arguments)
        except Exception:  # disk errors, unpickling errors, truncated code: each has another class
            cached = compiled
            return compiled(*arguments)

    return call


@numba.njit(fastmath={"contract"}, forceinline=True, **OPTIONS)
def _exp(x: Any) -> Any:
    """exp(x) for x up to 88; x below -87 is replaced by -87."""
    x = x if x > SMALLEST_EXPONENT else SMALLEST_EXPONENT
    n = np.floor(x * LOG2_E + HALF)
    x -= n * LN2_HIGH
    x -= n * LN2_LOW
    series = ZERO
    for c in EXP:
        series = series * x + c
    power = np.int32((np.int32(n) + BIAS) << EXPONENT).view(np.float32)
    return (series * x * x + x + ONE) * power


@numba.njit(fastmath={"contract"}, forceinline=True, **OPTIONS)
def _log(x: Any) -> Any:
    """log(x) for positive normal numbers."""
    bits = np.int32(np.float32(x).view(np.int32) - SQRT_HALF)
    power = np.float32(np.int32(bits >> EXPONENT))
    x = np.int32(np.int32(bits & MANTISSA) + SQRT_HALF).view(np.float32) - ONE
    series = ZERO
    for c in LOG:
        series = series * x + c
    square = x * x
    return x + (series * x * square + power * LN2_LOW - HALF * square) + power * LN2_HIGH


@numba.njit(fastmath={"contract", "reassoc"}, **OPTIONS)
def _sum(values: NDArray) -> Any:
    total = ZERO
    for value in values:
        total += value
    return total


@numba.njit(fastmath={"contract", "reassoc"}, **OPTIONS)
def _dot(a: NDArray, b: NDArray) -> Any:
    total = ZERO
    for j in range(len(a)):
        total += a[j] * b[j]
    return total


@numba.njit(**OPTIONS)
def _digamma(x: float) -> float:
    """digamma(x) in float64: recurrence up to x >= 10, then the asymptotic series."""
    recurrence = 0.0
    while x < 10:
        recurrence += 1 / x
        x += 1
    r = 1 / (x * x)
    series = r * (1 / 12 - r * (1 / 120 - r * (1 / 252 - r * (1 / 240 - r / 132))))
    return math.log(x) - 0.5 / x - series - recurrence


@numba.njit(**OPTIONS)
def _large(x: float, odds: float, theta: float) -> tuple[float, float]:
    """The log-probability by the textbook formula, and the part of its derivative in log theta with digammas."""
    x, odds, theta = np.float64(x), np.float64(odds), np.float64(theta)
    total, log1p = x + theta, math.log1p(odds)
    value = math.lgamma(total) - math.lgamma(theta) - math.lgamma(x + 1) + x * math.log(odds) - total * log1p
    return value, theta * (_digamma(total) - _digamma(theta) - log1p)


@numba.njit(fastmath={"contract"}, **OPTIONS)
def _tables(theta: NDArray) -> NDArray:
    """Tables of the terms with gamma functions and of their slopes, for every count up to TABLE_SIZE and every theta.

    The terms and slopes are lgamma(x + theta) - lgamma(theta) - lgamma(x + 1) and theta times its derivative in theta.
    """
    tables = np.empty((2, TABLE_SIZE + 1, len(theta)), np.float32)
    value, slope = tables
    for j in range(len(theta)):
        value[0, j] = slope[0, j] = ZERO
    for x in range(TABLE_SIZE):
        k, inverse = np.float32(x), np.float32(1 / (x + 1))
        for j in range(len(theta)):
            value[x + 1, j] = value[x, j] + _log((theta[j] + k) * inverse)
            slope[x + 1, j] = slope[x, j] + theta[j] / (theta[j] + k)
    return tables


@numba.njit(fastmath={"contract"}, **OPTIONS)
def _odds_of_rates(odds: NDArray, log_rate: NDArray, offset: float, theta: NDArray) -> None:
    """Set odds = mu / theta with mu = exp(log_rate + offset)."""
    for j in range(len(odds)):
        log_odds = log_rate[j] + offset - _log(theta[j])
        odds[j] = _exp(log_odds if log_odds < LARGEST_LOG_ODDS else LARGEST_LOG_ODDS)


@numba.njit(fastmath={"contract"}, **OPTIONS)
def _odds_of_softmax(odds: NDArray, log_rate: NDArray, largest: float, size: float, theta: NDArray) -> None:
    """Set odds = mu / theta with mu = softmax(log_rate) * size."""
    for j in range(len(odds)):
        odds[j] = _exp(log_rate[j] - largest)
    scale = size / _sum(odds)
    for j in range(len(odds)):
        odds[j] *= scale / theta[j]


@numba.njit(fastmath={"contract"}, **OPTIONS)
def _zeros(odds: NDArray, mu_share: NDArray, log1p: NDArray) -> None:
    """Set mu_share = odds / (1 + odds), which is mu / (theta + mu), and log1p = log1p(odds)."""
    for j in range(len(odds)):
        total = ONE + odds[j]
        inverse = ONE / total
        mu_share[j] = odds[j] * inverse
        log1p[j] = _log(total) + (odds[j] - (total - ONE)) * inverse  # plus the rounding error of 1 + odds


@numba.njit(fastmath={"contract"}, **OPTIONS)
def _slopes_of_zeros(
    odds: NDArray, grad: NDArray, log1p: NDArray, theta: NDArray, correction: float, weight: float, grad_theta: NDArray
) -> None:
    """Weighted gradients without the direct terms of the non-zeros, which are added later.

    `grad` holds mu / (theta + mu); the gradient in log rates replaces it. The gradient in log theta is added to
    `grad_theta`. `correction` is the term of the softmax, 0 without one.
    """
    for j in range(len(odds)):
        weighted = weight * theta[j]
        grad_theta[j] += weighted * (grad[j] - log1p[j])
        grad[j] = -weighted * (grad[j] + odds[j] * correction)


@cached_njit
def cells(
    log_rate: NDArray,
    largest: NDArray,
    offset: NDArray,
    theta: NDArray,
    code: NDArray,
    row: NDArray,
    gene: NDArray,
    count: NDArray,
    is_softmax: bool,
    weight: NDArray,
) -> tuple[NDArray, NDArray, NDArray]:
    """As `nb_kernel.negative_binomial_cells`; also gradients of the weighted sum over cells in log rates and log theta.

    Parameters
    ----------
    log_rate, offset, is_softmax
        As there, C-contiguous and float32, with one offset per cell.
    largest
        Largest log rate of each cell.
    theta, code
        Inverse dispersions (rows x genes), and the row of each cell.
    row, gene, count
        As of a `Minibatch`.
    weight
        Weight of each cell, float32; empty if no gradients are needed.
    """
    n_cells, n_genes = log_rate.shape
    needs_grad = len(weight) > 0
    value, grad = np.empty(n_cells, np.float32), np.empty((n_cells if needs_grad else 0, n_genes), np.float32)
    grad_theta = np.zeros(theta.shape, np.float32)
    gamma, gamma_slope = _tables(theta.reshape(-1))
    odds, log1p, scratch = np.empty(n_genes, np.float32), np.empty(n_genes, np.float32), np.empty(n_genes, np.float32)
    slope, slope_theta = np.empty(len(row), np.float32), np.empty(len(row), np.float32)  # of the non-zeros
    end = 0
    for i in range(n_cells):
        begin = end
        while end < len(row) and row[end] == i:
            end += 1
        mu_share = grad[i] if needs_grad else scratch  # becomes the gradient of this cell
        if not math.isfinite(largest[i]):  # _exp would return a finite number
            value[i] = np.nan
            mu_share[:] = np.nan
            continue
        cell_theta, table_start, size = theta[code[i]], code[i] * n_genes, np.float32(math.exp(offset[i]))
        if is_softmax:
            _odds_of_softmax(odds, log_rate[i], largest[i], size, cell_theta)
        else:
            _odds_of_rates(odds, log_rate[i], offset[i], cell_theta)
        _zeros(odds, mu_share, log1p)

        nonzero_terms, total = 0.0, 0.0
        for k in range(begin, end):
            x, j = count[k], gene[k]
            nonzero_odds = max(odds[j], TINY)
            theta_share = ONE / (ONE + nonzero_odds)  # theta / (theta + mu)
            column = int(min(x, TABLE_SIZE))
            if column == x:
                nonzero_terms += gamma[column, table_start + j] + x * _log(nonzero_odds * theta_share)
                slope_of_gamma = gamma_slope[column, table_start + j]
            else:  # the large terms of zeros and counts cancel: add them in float64, and set log1p to 0
                log_prob, slope_of_gamma = _large(x, nonzero_odds, cell_theta[j])
                nonzero_terms += log_prob
                log1p[j] = ZERO
            slope[k], slope_theta[k] = x * theta_share, slope_of_gamma - x * theta_share
            total += slope[k]
        value[i] = nonzero_terms - _dot(cell_theta, log1p)
        if not needs_grad:
            continue

        correction = np.float32((total - _dot(cell_theta, mu_share)) / size) if is_softmax else ZERO
        _slopes_of_zeros(odds, mu_share, log1p, cell_theta, correction, weight[i], grad_theta[code[i]])
        for k in range(begin, end):
            grad[i, gene[k]] += weight[i] * slope[k]
            grad_theta[code[i], gene[k]] += weight[i] * slope_theta[k]
    return value, grad, grad_theta
