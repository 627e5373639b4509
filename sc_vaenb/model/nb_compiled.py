"""Negative binomial log-likelihood of whole cells, compiled for CPUs: cell by cell, so that data stay in the cache.

`nb_kernel` needs a dozen passes of PyTorch over (cells x genes); each reads and writes main memory. Here it is one
pass. The loops over genes and over large counts have no branches and no calls, so the compiler can use vector
instructions. This is why exp and log are implemented here (polynomials of Cephes, S. Moshier; relative error 2e-7).
"""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from .compiled import OPTIONS, cached_njit

TABLE_SIZE = 16  # counts up to this value are looked up in tables
# Constants have the type float32: Python floats would convert everything to float64.
LARGEST_IN_TABLE = np.float32(TABLE_SIZE)
ZERO, HALF, ONE = np.float32(0), np.float32(0.5), np.float32(1)
TINY = np.float32(1e-37)  # replaces odds that underflow, so that their logarithm is finite
LARGEST_LOG_ODDS = np.float32(80)
NEAR = np.float32(0.25)  # relative difference of two numbers below which a series replaces the logarithm of their ratio
HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)
HALF_LOG_2PI_32, TWELFTH, STIRLING_3, DIGAMMA_4 = map(np.float32, (HALF_LOG_2PI, 1 / 12, 1 / 360, 1 / 120))
SMALLEST_EXPONENT, LOG2_E, LN2_HIGH, LN2_LOW = map(np.float32, (-87, 1.44269504, 0.693359375, -2.12194440e-4))
EXP = tuple(map(np.float32, (1.9875692e-4, 1.3981999e-3, 8.3334519e-3, 4.1665796e-2, 1.6666667e-1, 0.5)))
LOG = tuple(map(np.float32, (7.0376836e-2, -1.1514610e-1, 1.1676998e-1, -1.2420140e-1, 1.4249323e-1)))
LOG += tuple(map(np.float32, (-1.6668057e-1, 2.0000714e-1, -2.4999994e-1, 3.3333331e-1)))
# Bits of a float32: position of the exponent, exponent of 1, mask of the mantissa, and the bits of sqrt(1/2).
EXPONENT, BIAS, MANTISSA, SQRT_HALF = np.int32(23), np.int32(127), np.int32(0x7FFFFF), np.int32(0x3F3504F3)


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
def _dot(a: NDArray, b: NDArray) -> Any:
    total = ZERO
    for j in range(len(a)):
        total += a[j] * b[j]
    return total


@numba.njit(fastmath={"contract", "reassoc"}, **OPTIONS)
def _dot_of_shares(theta: NDArray, odds: NDArray, theta_share: NDArray) -> Any:
    """Sum of theta * mu / (theta + mu)."""
    total = ZERO
    for j in range(len(theta)):
        total += theta[j] * odds[j] * theta_share[j]
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
def _theta_rests(theta: float) -> tuple[Any, Any]:
    """What Stirling's formulas leave at theta: of log gamma(theta + 1), and of digamma(theta) - log(theta).

    Float64 is needed for small theta only, and only once for all cells.
    """
    x = np.float64(theta)
    if x < 30:
        stirling = math.lgamma(x + 1) - (x + 0.5) * math.log(x) + x - HALF_LOG_2PI
        return np.float32(stirling), np.float32(_digamma(x) - math.log(x))
    r = 1 / (x * x)
    return np.float32((1 / 12 - r * (1 / 360 - r / 1260)) / x), np.float32(-0.5 / x - r * (1 / 12 - r / 120))


@numba.njit(fastmath={"contract"}, forceinline=True, **OPTIONS)
def _log1p_beyond(x: Any) -> Any:
    """log1p(x) - x for x in -0.29 .. 0.41, without cancellation: the series of `_log`."""
    series = ZERO
    for c in LOG:
        series = series * x + c
    return x * x * (series * x - HALF)


@numba.njit(fastmath={"contract"}, forceinline=True, **OPTIONS)
def _deviance(observed: Any, expected: Any, relative: Any) -> Any:
    """observed * log(observed / expected) - (observed - expected), given relative = (observed - expected) / expected.

    Where the two are close, each of these terms is much larger than their difference.
    """
    near = expected * (relative * relative + (ONE + relative) * _log1p_beyond(relative))
    far = observed * _log(observed / expected) - expected * relative
    return near if -NEAR < relative < NEAR else far


@numba.njit(fastmath={"contract"}, **OPTIONS)
def _large(
    x: NDArray, odds: NDArray, theta: NDArray, stirling: NDArray, digamma: NDArray, value: NDArray, slope: NDArray
) -> None:
    """Set log-probabilities of large counts, and the part of their derivatives in log theta with digammas.

    Loader's saddle-point form (see `distributions`): in float32, and without branches. `stirling` and `digamma` are the
    rests at theta (see `_theta_rests`). For x and x + theta, which are above TABLE_SIZE, two terms of the series do.
    """
    for k in range(len(x)):
        total, theta_share = x[k] + theta[k], ONE / (ONE + odds[k])
        mu_share, excess = odds[k] * theta_share, theta_share * (x[k] - odds[k] * theta[k])
        expected, expected_theta = total * mu_share, total * theta_share
        deviance = _deviance(x[k], expected, excess / expected)
        deviance += _deviance(theta[k], expected_theta, -excess / expected_theta)
        a, b = ONE / total, ONE / x[k]
        rests = a * (TWELFTH - a * a * STIRLING_3) - b * (TWELFTH - b * b * STIRLING_3) - stirling[k]
        value[k] = rests - deviance + HALF * _log(theta[k] * a * b) - HALF_LOG_2PI_32
        step = excess / theta[k]  # (x - mu) / (theta + mu)
        log_ratio = step + _log1p_beyond(step) if -NEAR < step < NEAR else _log(expected_theta / theta[k])
        digamma_rest = -a * (HALF + a * (TWELFTH - a * a * DIGAMMA_4))
        slope[k] = theta[k] * (log_ratio + digamma_rest - digamma[k])


@numba.njit(**OPTIONS)
def _not_integer(x: float, odds: float, theta: float) -> tuple[Any, Any]:
    """As `_large` for a value that is no integer, by the textbook formula in float64."""
    x, odds, theta = np.float64(x), np.float64(odds), np.float64(theta)
    total, log1p = x + theta, math.log1p(odds)
    value = math.lgamma(total) - math.lgamma(theta) - math.lgamma(x + 1) + x * math.log(odds) - total * log1p
    return np.float32(value), np.float32(theta * (_digamma(total) - _digamma(theta) - log1p))


@numba.njit(fastmath={"contract"}, **OPTIONS)
def _logs(out: NDArray, values: NDArray) -> None:
    for j in range(len(values)):
        out[j] = _log(values[j])


@numba.njit(fastmath={"contract"}, **OPTIONS)
def _add_logs(out: NDArray, before: NDArray, theta: NDArray, k: float, inverse: float) -> None:
    for j in range(len(theta)):
        out[j] = before[j] + _log((theta[j] + k) * inverse)


@numba.njit(fastmath={"contract"}, **OPTIONS)
def _add_shares(out: NDArray, before: NDArray, theta: NDArray, k: float) -> None:
    for j in range(len(theta)):
        out[j] = before[j] + theta[j] / (theta[j] + k)


@numba.njit(fastmath={"contract"}, **OPTIONS)
def _tables(theta: NDArray) -> NDArray:
    """Tables of the terms with gamma functions and of their slopes, for every count up to TABLE_SIZE and every theta.

    The terms and slopes are lgamma(x + theta) - lgamma(theta) - lgamma(x + 1) and theta times its derivative in theta.
    """
    tables = np.empty((2, TABLE_SIZE + 1, len(theta)), np.float32)
    value, slope = tables[0], tables[1]  # not unpacked: loops over the parts would not be vectorised
    value[0], slope[0] = ZERO, ZERO
    for x in range(TABLE_SIZE):
        k, inverse = np.float32(x), np.float32(1 / (x + 1))
        _add_logs(value[x + 1], value[x], theta, k, inverse)
        _add_shares(slope[x + 1], slope[x], theta, k)
    return tables


@numba.njit(fastmath={"contract"}, **OPTIONS)
def _exp_of_rates(odds: NDArray, log_rate: NDArray, shift: float, log_theta: NDArray) -> None:
    """Set odds = mu / theta with mu = exp(log_rate + shift)."""
    for j in range(len(odds)):
        log_odds = log_rate[j] + shift - log_theta[j]
        odds[j] = _exp(log_odds if log_odds < LARGEST_LOG_ODDS else LARGEST_LOG_ODDS)


@numba.njit(fastmath={"contract", "reassoc"}, **OPTIONS)
def _sum_of_exp(log_rate: NDArray, largest: float) -> Any:
    total = ZERO
    for j in range(len(log_rate)):
        total += _exp(log_rate[j] - largest)
    return total


@numba.njit(fastmath={"contract"}, **OPTIONS)
def _zeros(odds: NDArray, theta_share: NDArray, log1p: NDArray) -> None:
    """Set theta_share = 1 / (1 + odds), which is theta / (theta + mu), and log1p = log1p(odds)."""
    for j in range(len(odds)):
        total = ONE + odds[j]
        inverse = ONE / total
        theta_share[j] = inverse
        log1p[j] = _log(total) + (odds[j] - (total - ONE)) * inverse  # plus the rounding error of 1 + odds


@numba.njit(fastmath={"contract"}, **OPTIONS)
def _slopes_of_zeros(
    odds: NDArray, grad: NDArray, log1p: NDArray, theta: NDArray, correction: float, weight: float, grad_theta: NDArray
) -> None:
    """Weighted gradients without the direct terms of the non-zeros, which are added later.

    `grad` holds theta / (theta + mu); the gradient in log rates replaces it. The gradient in log theta is added to
    `grad_theta`. `correction` is the term of the softmax, 0 without one.
    """
    for j in range(len(odds)):
        weighted, mu_share = weight * theta[j], odds[j] * grad[j]
        grad_theta[j] += weighted * (mu_share - log1p[j])
        grad[j] = -weighted * (mu_share + odds[j] * correction)


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
    grad_theta, log_theta = np.zeros(theta.shape, np.float32), np.empty(theta.shape, np.float32)
    _logs(log_theta.reshape(-1), theta.reshape(-1))
    tables = _tables(theta.reshape(-1))
    gamma, gamma_slope = tables[0], tables[1]
    stirling, digamma = np.full(theta.size, np.nan, np.float32), np.empty(theta.size, np.float32)
    odds, log1p, scratch = np.empty(n_genes, np.float32), np.empty(n_genes, np.float32), np.empty(n_genes, np.float32)
    slope, slope_theta = np.empty(len(row), np.float32), np.empty(len(row), np.float32)  # of the non-zeros
    large, where = np.empty((7, n_genes), np.float32), np.empty(n_genes, np.int64)  # arguments and results of _large
    large_x, large_odds, large_theta, rest, rest_slope = large[0], large[1], large[2], large[3], large[4]
    log_prob, large_slope = large[5], large[6]
    end = 0
    for i in range(n_cells):
        begin = end
        while end < len(row) and row[end] == i:
            end += 1
        theta_share = grad[i] if needs_grad else scratch  # becomes the gradient of this cell
        if not math.isfinite(largest[i]):  # _exp would return a finite number
            value[i] = np.nan
            theta_share[:] = np.nan
            continue
        cell_theta, cell_log_theta, table_start = theta[code[i]], log_theta[code[i]], code[i] * n_genes
        size, shift = np.float32(math.exp(offset[i])), np.float32(offset[i])
        if is_softmax:
            shift -= largest[i] + np.float32(math.log(_sum_of_exp(log_rate[i], largest[i])))
        _exp_of_rates(odds, log_rate[i], shift, cell_log_theta)
        _zeros(odds, theta_share, log1p)

        nonzero_terms, total, n_large, cell_log_rate = 0.0, 0.0, 0, log_rate[i]
        for k in range(begin, end):
            x, j = count[k], gene[k]
            column, entry = np.int64(x if x < LARGEST_IN_TABLE else LARGEST_IN_TABLE), table_start + j
            slope_of_gamma = ZERO
            if np.float32(column) == x:
                log_share = cell_log_rate[j] + shift - cell_log_theta[j] - log1p[j]  # of mu / (theta + mu)
                nonzero_terms += gamma[column, entry] + x * log_share
                slope_of_gamma = gamma_slope[column, entry]
            elif x > LARGEST_IN_TABLE:
                if math.isnan(stirling[entry]):
                    stirling[entry], digamma[entry] = _theta_rests(cell_theta[j])
                large_x[n_large], large_odds[n_large], large_theta[n_large] = x, max(odds[j], TINY), cell_theta[j]
                rest[n_large], rest_slope[n_large] = stirling[entry], digamma[entry]
                where[n_large] = k
                n_large += 1
            else:
                term, slope_of_gamma = _not_integer(x, max(odds[j], TINY), cell_theta[j])
                nonzero_terms += term
                log1p[j] = ZERO
            slope[k] = x * theta_share[j]
            slope_theta[k] = slope_of_gamma - slope[k]
            total += slope[k]
        if n_large:  # the large terms of zeros and counts cancel: `_large` has both, and log1p becomes 0
            _large(large_x[:n_large], large_odds, large_theta, rest, rest_slope, log_prob, large_slope)
            for k in range(n_large):
                nonzero_terms += log_prob[k]
                slope_theta[where[k]] += large_slope[k]
                log1p[gene[where[k]]] = ZERO
        value[i] = nonzero_terms - _dot(cell_theta, log1p)
        if not needs_grad:
            continue

        correction = ZERO
        if is_softmax:
            correction = np.float32((total - _dot_of_shares(cell_theta, odds, theta_share)) / size)
        cell_grad, cell_grad_theta, cell_weight = grad[i], grad_theta[code[i]], weight[i]
        _slopes_of_zeros(odds, cell_grad, log1p, cell_theta, correction, cell_weight, cell_grad_theta)
        for k in range(begin, end):
            cell_grad[gene[k]] += cell_weight * slope[k]
            cell_grad_theta[gene[k]] += cell_weight * slope_theta[k]
    return value, grad, grad_theta
