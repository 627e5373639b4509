"""The negative binomial of whole cells compiled for a CPU: a cell at a time, so that all of it stays in the cache.

What `nb_kernel` says in a dozen passes of PyTorch over (cells x genes), each of which reads and writes main memory, is
here one pass. The loops over genes have no branches and no calls, so that they become vector instructions: that is why
exp and log are written out (the polynomials of Cephes, S. Moshier; relative error 2e-7).
"""

from __future__ import annotations

import math
from functools import wraps
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

TABLE_SIZE = 16  # counts up to here are looked up
# Constants have a type, or they would make float64 of everything.
ZERO, HALF, ONE = np.float32(0), np.float32(0.5), np.float32(1)
TINY = np.float32(1e-37)  # stands for odds that underflow, so that their logarithm stays a number
LARGEST_LOG_ODDS = np.float32(80)
SMALLEST_EXPONENT, LOG2_E, LN2_HIGH, LN2_LOW = map(np.float32, (-87, 1.44269504, 0.693359375, -2.12194440e-4))
EXP = tuple(map(np.float32, (1.9875692e-4, 1.3981999e-3, 8.3334519e-3, 4.1665796e-2, 1.6666667e-1, 0.5)))
LOG = tuple(map(np.float32, (7.0376836e-2, -1.1514610e-1, 1.1676998e-1, -1.2420140e-1, 1.4249323e-1)))
LOG += tuple(map(np.float32, (-1.6668057e-1, 2.0000714e-1, -2.4999994e-1, 3.3333331e-1)))
# Of the bits of a float32: where the exponent begins, what it is for 1, the rest, and the square root of a half.
EXPONENT, BIAS, MANTISSA, SQRT_HALF = np.int32(23), np.int32(127), np.int32(0x7FFFFF), np.int32(0x3F3504F3)

OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy"}  # without, a division would be a branch


def cached_njit(function: Any) -> Any:
    """Compiled once, for later sessions too where there is a folder to keep it.

    Whatever goes wrong with that folder (it is full, or its files are damaged), and when: the function is compiled for
    this session then. The functions change no argument, so that a call can be made again.
    """
    compiled = numba.njit(**OPTIONS)(function)
    try:
        cached = numba.njit(cache=True, **OPTIONS)(function)
    except RuntimeError:  # there is no folder
        return compiled

    @wraps(function)
    def call(*arguments: Any) -> Any:
        nonlocal cached
        if cached is compiled:
            return compiled(*arguments)
        try:
            return cached(*arguments)
        except Exception:  # errors of the disk, of unpickling, of compiled code that is cut: each with its own class
            cached = compiled
            return compiled(*arguments)

    return call


@numba.njit(fastmath={"contract"}, forceinline=True, **OPTIONS)
def _exp(x: Any) -> Any:
    """Up to 88; what is below -87 counts as that."""
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
    """Of positive numbers with full precision."""
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
    """In float64: by recurrence to 10 or more, and there by its asymptotic series."""
    below = 0.0
    while x < 10:
        below += 1 / x
        x += 1
    r = 1 / (x * x)
    series = r * (1 / 12 - r * (1 / 120 - r * (1 / 252 - r * (1 / 240 - r / 132))))
    return math.log(x) - 0.5 / x - series - below


@numba.njit(**OPTIONS)
def _large(x: float, odds: float, theta: float) -> tuple[float, float]:
    """The whole log-probability by the textbook formula, and the part of its slope in log theta with digammas."""
    x, odds, theta = np.float64(x), np.float64(odds), np.float64(theta)
    total, log1p = x + theta, math.log1p(odds)
    value = math.lgamma(total) - math.lgamma(theta) - math.lgamma(x + 1) + x * math.log(odds) - total * log1p
    return value, theta * (_digamma(total) - _digamma(theta) - log1p)


@numba.njit(fastmath={"contract"}, **OPTIONS)
def _tables(theta: NDArray) -> NDArray:
    """Of every count up to TABLE_SIZE and gene (of all batches) the terms with gamma functions, and their slopes.

    These are lgamma(x + theta) - lgamma(theta) - lgamma(x + 1) and theta times its derivative in theta.
    """
    tables = np.empty((2, TABLE_SIZE + 1, len(theta)), np.float32)
    value, slope = tables
    for j in range(len(theta)):
        value[0, j] = slope[0, j] = ZERO
    for x in range(TABLE_SIZE):
        below, k = np.float32(x), np.float32(1 / (x + 1))
        for j in range(len(theta)):
            value[x + 1, j] = value[x, j] + _log((theta[j] + below) * k)
            slope[x + 1, j] = slope[x, j] + theta[j] / (theta[j] + below)
    return tables


@numba.njit(fastmath={"contract"}, **OPTIONS)
def _odds_of_rates(odds: NDArray, log_rate: NDArray, offset: float, theta: NDArray) -> None:
    for j in range(len(odds)):
        log_odds = log_rate[j] + offset - _log(theta[j])
        odds[j] = _exp(log_odds if log_odds < LARGEST_LOG_ODDS else LARGEST_LOG_ODDS)


@numba.njit(fastmath={"contract"}, **OPTIONS)
def _odds_of_shares(odds: NDArray, log_rate: NDArray, largest: float, size: float, theta: NDArray) -> None:
    for j in range(len(odds)):
        odds[j] = _exp(log_rate[j] - largest)
    scale = size / _sum(odds)
    for j in range(len(odds)):
        odds[j] *= scale / theta[j]


@numba.njit(fastmath={"contract"}, **OPTIONS)
def _zeros(odds: NDArray, used: NDArray, log1p: NDArray) -> None:
    """odds / (1 + odds) and log1p(odds)."""
    for j in range(len(odds)):
        total = ONE + odds[j]
        inverse = ONE / total
        used[j] = odds[j] * inverse
        log1p[j] = _log(total) + (odds[j] - (total - ONE)) * inverse  # what the sum with 1 has rounded away


@numba.njit(fastmath={"contract"}, **OPTIONS)
def _slopes_of_zeros(
    odds: NDArray, used: NDArray, log1p: NDArray, theta: NDArray, share: float, weight: float, grad_theta: NDArray
) -> None:
    """From `used` the weighted gradient in the log rate, in its place; that in log theta is added to `grad_theta`."""
    for j in range(len(odds)):
        weighted = weight * theta[j]
        grad_theta[j] += weighted * (used[j] - log1p[j])
        used[j] = -weighted * (used[j] + odds[j] * share)


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
    shares: bool,
    weight: NDArray,
) -> tuple[NDArray, NDArray, NDArray]:
    """As `nb_kernel.negative_binomial_cells`; and the gradients of the cells' weighted sum in log rates and log theta.

    Parameters
    ----------
    log_rate, offset, shares
        As there, C-contiguous and float32, with one offset a cell.
    largest
        Of the log rates of each cell.
    theta, code
        Inverse dispersions (kinds x genes), and which row of them is each cell's.
    row, gene, count
        As of a `Minibatch`.
    weight
        Of each cell, float32; none if gradients are not wanted.
    """
    n_cells, n_genes = log_rate.shape
    wanted = len(weight) > 0
    value, grad = np.empty(n_cells, np.float32), np.empty((n_cells if wanted else 0, n_genes), np.float32)
    grad_theta = np.zeros(theta.shape, np.float32)
    gamma, gamma_slope = _tables(theta.reshape(-1))
    odds, log1p, spare = np.empty(n_genes, np.float32), np.empty(n_genes, np.float32), np.empty(n_genes, np.float32)
    slope, slope_theta = np.empty(len(row), np.float32), np.empty(len(row), np.float32)  # of the non-zeros
    end = 0
    for i in range(n_cells):
        begin = end
        while end < len(row) and row[end] == i:
            end += 1
        used = grad[i] if wanted else spare  # what is needed of a cell until its gradient is known
        if not math.isfinite(largest[i]):  # of which _exp would make a number
            value[i] = np.nan
            used[:] = np.nan
            continue
        own, first, size = theta[code[i]], code[i] * n_genes, np.float32(math.exp(offset[i]))
        if shares:
            _odds_of_shares(odds, log_rate[i], largest[i], size, own)
        else:
            _odds_of_rates(odds, log_rate[i], offset[i], own)
        _zeros(odds, used, log1p)

        seen, total = 0.0, 0.0
        for k in range(begin, end):
            x, j = count[k], gene[k]
            u = max(odds[j], TINY)
            unused = ONE / (ONE + u)  # theta / (theta + mu)
            column = int(min(x, TABLE_SIZE))
            if column == x:
                seen += gamma[column, first + j] + x * _log(u * unused)
                of_gamma = gamma_slope[column, first + j]
            else:  # the large terms of zeros and counts cancel: taken together, in float64, and not again as zeros
                log_prob, of_gamma = _large(x, u, own[j])
                seen += log_prob
                log1p[j] = ZERO
            slope[k], slope_theta[k] = x * unused, of_gamma - x * unused
            total += slope[k]
        value[i] = seen - _dot(own, log1p)
        if not wanted:
            continue

        share = np.float32((total - _dot(own, used)) / size) if shares else ZERO
        _slopes_of_zeros(odds, used, log1p, own, share, weight[i], grad_theta[code[i]])
        for k in range(begin, end):
            used[gene[k]] += weight[i] * slope[k]
            grad_theta[code[i], gene[k]] += weight[i] * slope_theta[k]
    return value, grad, grad_theta
