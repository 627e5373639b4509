"""Negative binomial log-likelihood of whole cells and its gradient: most of the cost is for non-zeros only.

With the odds u = mu / theta, the log-probability of a zero is `-theta * log1p(u)`, without gamma functions. A count
x > 0 adds `x * log(u / (1 + u))` and `lgamma(x + theta) - lgamma(theta) - lgamma(x + 1)`. For small x the latter is a
sum of x logarithms, and is read from a table with one row per gene. Only larger counts need gamma functions: in
float64, where the textbook formula is accurate. The gradients are closed forms of results of the forward pass, so
autograd stores no graph over the genes. On a CPU, `nb_compiled` does all this in one pass, with Stirling's series for
large counts. The PyTorch code here is for other devices. `distributions.negative_binomial` computes the same for
single counts; tests compare both with it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .minibatch import Minibatch
from .nb_compiled import LARGEST_LOG_ODDS, TABLE_SIZE, TINY, cells


def negative_binomial_cells(
    log_rate: Tensor, offset: Tensor, log_theta: Tensor, batch: Minibatch, *, is_softmax: bool = False
) -> Tensor:
    """Sum over the genes of log NB(x | mean, inverse dispersion) for each cell.

    Parameters
    ----------
    log_rate
        (n_cells, n_genes); the mean is exp(log_rate + offset), or with `is_softmax` softmax(log_rate) * exp(offset).
    offset
        (n_cells, 1), not differentiated.
    log_theta
        (1, n_genes), or (n_batches, n_genes): `batch.batch_index` selects the row of each cell.
    batch
        The counts.

    Returns
    -------
    (n_cells,), differentiable in `log_rate` and `log_theta`.
    """
    use_compiled = log_rate.device.type == "cpu" and log_rate.dtype == torch.float32
    return (_Compiled if use_compiled else _InTorch).apply(log_rate, offset, log_theta, batch, is_softmax)


def value_and_gradients(
    log_rate: Tensor, offset: Tensor, log_theta: Tensor, batch: Minibatch, is_softmax: bool, weight: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The same on a CPU, compiled; also the gradients of the weighted sum over cells in `log_rate` and `log_theta`.

    `weight` has one value per cell. If it is empty, no gradients are computed.
    """
    code = batch.batch_index if len(log_theta) > 1 else torch.zeros_like(batch.batch_index)
    log_rate = log_rate.detach()
    tensors = log_rate, log_rate.amax(1), offset.squeeze(1), log_theta.detach().exp(), code
    arrays = (tensor.contiguous().numpy() for tensor in (*tensors, batch.row, batch.gene, batch.count))
    value, grad, grad_theta = cells(*arrays, is_softmax, weight.contiguous().numpy())
    return torch.from_numpy(value), torch.from_numpy(grad), torch.from_numpy(grad_theta)


class _Compiled(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, log_rate: Tensor, offset: Tensor, log_theta: Tensor, batch: Minibatch, is_softmax: bool
    ) -> Tensor:
        needs_grad = any(ctx.needs_input_grad)
        weight = log_rate.new_ones(batch.n_cells if needs_grad else 0)
        value, *gradients = value_and_gradients(log_rate, offset, log_theta, batch, is_softmax, weight)
        ctx.save_for_backward(log_rate, offset, log_theta, *gradients)
        ctx.batch, ctx.is_softmax = batch, is_softmax
        return value

    @staticmethod
    def backward(ctx: Any, weight: Tensor) -> tuple[Tensor | None, ...]:
        log_rate, offset, log_theta, grad, grad_theta = ctx.saved_tensors
        if weight.min() == weight.max():  # as in a mean over cells
            return grad * weight[0], None, grad_theta * weight[0], None, None
        _, grad, grad_theta = value_and_gradients(log_rate, offset, log_theta, ctx.batch, ctx.is_softmax, weight)
        return grad, None, grad_theta, None, None


class _InTorch(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, log_rate: Tensor, offset: Tensor, log_theta: Tensor, batch: Minibatch, is_softmax: bool
    ) -> Tensor:
        value, grad, cell_grad_theta = _in_torch(log_rate, offset, log_theta, batch, is_softmax)
        ctx.batch_index, ctx.n_batches = batch.batch_index, len(log_theta)
        ctx.save_for_backward(grad, cell_grad_theta)
        return value

    @staticmethod
    def backward(ctx: Any, weight: Tensor) -> tuple[Tensor | None, ...]:
        grad, cell_grad_theta = ctx.saved_tensors
        if ctx.n_batches == 1:
            grad_theta = (weight @ cell_grad_theta).unsqueeze(0)
        else:
            grad_theta = cell_grad_theta.new_zeros(ctx.n_batches, cell_grad_theta.shape[1])
            grad_theta.index_add_(0, ctx.batch_index, cell_grad_theta * weight.unsqueeze(1))
        return grad * weight.unsqueeze(1), None, grad_theta, None, None


def _in_torch(
    log_rate: Tensor, offset: Tensor, log_theta: Tensor, batch: Minibatch, is_softmax: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Values of the cells, and the gradients of each cell in `log_rate` and in log theta (cells x genes)."""
    one_row = len(log_theta) == 1
    theta = log_theta.exp()
    cell_theta = theta if one_row else theta[batch.batch_index]  # broadcast, or a row per cell

    def sum_times_theta(matrix: Tensor) -> Tensor:
        return matrix @ theta[0] if one_row else (matrix * cell_theta).sum(1)

    size = offset.exp()
    if is_softmax:
        odds = torch.softmax(log_rate, 1).mul_(size).div_(cell_theta)
    else:
        cell_log_theta = log_theta if one_row else log_theta[batch.batch_index]
        odds = (log_rate + offset).sub_(cell_log_theta).clamp_(max=float(LARGEST_LOG_ODDS)).exp_()
    log1p_odds = torch.log1p(odds)
    mu_share = odds / (odds + 1)  # mu / (theta + mu)

    x, nonzero_odds = batch.count, batch.at_nonzeros(odds).clamp_(min=float(TINY))
    theta_share = 1 / (1 + nonzero_odds)  # theta / (theta + mu)
    entry = batch.gene if one_row else batch.batch_index[batch.row] * batch.n_genes + batch.gene
    gamma, gamma_slope, large = _gamma_terms(x, theta, entry)
    nonzero_terms = gamma.addcmul_(x, torch.log(nonzero_odds * theta_share))
    if len(large):
        # The large terms of zeros and counts cancel here: their sum is computed in float64,
        # and the term of a zero is set to 0 at these entries. Padding (x = 0) adds nothing.
        x64, odds64 = to_float64(x[large]), to_float64(nonzero_odds[large])
        theta64 = to_float64(theta.view(-1)[entry[large]])
        is_positive = x64 > 0
        nonzero_terms[large] = (_large_count(x64, odds64, theta64) * is_positive).to(nonzero_terms.dtype)
        gamma_slope[large] -= (theta64 * torch.log1p(odds64) * is_positive).to(nonzero_terms.dtype)
        log1p_odds.view(-1).index_fill_(0, batch.position[large], 0.0)
    value = sum_times_theta(log1p_odds).neg_().index_add_(0, batch.row, nonzero_terms)

    nonzero_slope = x * theta_share  # the gradient in log mu is this minus theta * mu_share
    cell_grad_theta = (mu_share - log1p_odds).mul_(cell_theta)
    cell_grad_theta.view(-1).index_add_(0, batch.position, gamma_slope.sub_(nonzero_slope))
    if is_softmax:
        total = nonzero_slope.new_zeros(batch.n_cells).index_add_(0, batch.row, nonzero_slope) - sum_times_theta(
            mu_share
        )
        grad = torch.addcmul(mu_share, odds, total.unsqueeze(1) / size, out=odds).mul_(-cell_theta)
    else:
        grad = mu_share.mul_(-cell_theta)
    grad.view(-1).index_add_(0, batch.position, nonzero_slope)
    return value, grad, cell_grad_theta


def _gamma_terms(x: Tensor, theta: Tensor, entry: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gamma terms of each count x, with the theta at `entry`; and the positions of the "large" counts.

    The terms are lgamma(x + theta) - lgamma(theta) - lgamma(x + 1), which is 0 for large x (see `_large_count`),
    and theta times its derivative in theta. Large are counts that are too large for the table, or not integers. If the
    table would be larger than the number of look-ups, there is no table, and all counts are large.
    """
    # On CUDA gamma functions are cheap, but waiting for the number of large counts is not
    on_cuda = x.device.type == "cuda"
    n = TABLE_SIZE if theta.numel() <= len(entry) and not on_cuda else 0
    column = x.long().clamp_(max=n)
    large = torch.arange(len(x), device=x.device) if on_cuda else torch.nonzero(column != x).squeeze(1)
    if n:
        k = torch.arange(n, device=theta.device, dtype=theta.dtype)
        factor = theta.view(-1, 1) + k
        # A product with this matrix sums over all k < column
        sum_below = torch.ones(n, n + 1, dtype=theta.dtype, device=theta.device).triu_(1)
        index = column.add_(entry, alpha=n + 1)
        value = ((factor.log() - torch.log1p(k)) @ sum_below).view(-1).index_select(0, index)
        slope = ((theta.view(-1, 1) / factor) @ sum_below).view(-1).index_select(0, index)
    else:
        value, slope = torch.empty_like(x), torch.empty_like(x)
    if len(large):
        x64, theta64 = to_float64(x[large]), to_float64(theta.view(-1)[entry[large]])
        digamma_difference = torch.digamma(x64 + theta64) - torch.digamma(theta64)
        slope[large] = (theta64 * digamma_difference).to(slope.dtype)
        value.index_fill_(0, large, 0.0)
    return value, slope, large


def _large_count(x: Tensor, odds: Tensor, theta: Tensor) -> Tensor:
    """The log-probability by the textbook formula."""
    gamma = torch.lgamma(x + theta) - torch.lgamma(theta) - torch.lgamma(x + 1)
    return gamma + x * odds.log() - (x + theta) * torch.log1p(odds)


def to_float64(values: Tensor) -> Tensor:
    """Values in float64, except on MPS, which has no float64."""
    return values if values.device.type == "mps" else values.double()
