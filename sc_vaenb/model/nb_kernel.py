"""The negative binomial log-likelihood of whole cells and its gradient, at little more than the cost of the non-zeros.

With the odds u = mu / theta the log-probability of a zero is `-theta * log1p(u)`: no gamma function. A count x > 0
adds `x * log(u / (1 + u))` and `lgamma(x + theta) - lgamma(theta) - lgamma(x + 1)`, which for small x is a sum of x
logarithms, read from a table with a row per gene; only the few larger counts need gamma functions (in float64, where
the textbook formula is sound). The gradients are closed forms of what the forward pass has at hand, so that autograd
keeps no graph over the genes. On a CPU `nb_compiled` does all this in one pass; what is said here in PyTorch is for
other devices. `distributions.negative_binomial` says the same for single counts; the tests hold both to it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .minibatch import Minibatch
from .nb_compiled import LARGEST_LOG_ODDS, TABLE_SIZE, TINY, cells


def negative_binomial_cells(
    log_rate: Tensor, offset: Tensor, log_theta: Tensor, batch: Minibatch, *, shares: bool = False
) -> Tensor:
    """Sum over the genes of log NB(x | mean, inverse dispersion) for each cell.

    Parameters
    ----------
    log_rate
        (n_cells, n_genes); the mean is exp(log_rate + offset), or with `shares` softmax(log_rate) * exp(offset).
    offset
        (n_cells, 1), not differentiated.
    log_theta
        (1, n_genes), or (n_batches, n_genes) to look up each cell's row by `batch.batch_index`.
    batch
        The counts.

    Returns
    -------
    (n_cells,), differentiable in `log_rate` and `log_theta`.
    """
    quick = log_rate.device.type == "cpu" and log_rate.dtype == torch.float32
    return (_Compiled if quick else _InTorch).apply(log_rate, offset, log_theta, batch, shares)


def value_and_gradients(
    log_rate: Tensor, offset: Tensor, log_theta: Tensor, batch: Minibatch, shares: bool, weight: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The same on a CPU, compiled, with the gradients of the cells' weighted sum in `log_rate` and `log_theta`.

    Without weights, of which there is one a cell, only the value is computed.
    """
    code = batch.batch_index if len(log_theta) > 1 else torch.zeros_like(batch.batch_index)
    log_rate = log_rate.detach()
    tensors = log_rate, log_rate.amax(1), offset.squeeze(1), log_theta.detach().exp(), code
    arrays = (tensor.contiguous().numpy() for tensor in (*tensors, batch.row, batch.gene, batch.count))
    value, grad, grad_theta = cells(*arrays, shares, weight.contiguous().numpy())
    return torch.from_numpy(value), torch.from_numpy(grad), torch.from_numpy(grad_theta)


class _Compiled(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, log_rate: Tensor, offset: Tensor, log_theta: Tensor, batch: Minibatch, shares: bool
    ) -> Tensor:
        wanted = any(ctx.needs_input_grad)
        weight = log_rate.new_ones(batch.n_cells if wanted else 0)
        value, *gradients = value_and_gradients(log_rate, offset, log_theta, batch, shares, weight)
        ctx.save_for_backward(log_rate, offset, log_theta, *gradients)
        ctx.batch, ctx.shares = batch, shares
        return value

    @staticmethod
    def backward(ctx: Any, weight: Tensor) -> tuple[Tensor | None, ...]:
        log_rate, offset, log_theta, grad, grad_theta = ctx.saved_tensors
        if weight.min() == weight.max():  # as those of a mean
            return grad * weight[0], None, grad_theta * weight[0], None, None
        _, grad, grad_theta = value_and_gradients(log_rate, offset, log_theta, ctx.batch, ctx.shares, weight)
        return grad, None, grad_theta, None, None


class _InTorch(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, log_rate: Tensor, offset: Tensor, log_theta: Tensor, batch: Minibatch, shares: bool
    ) -> Tensor:
        value, grad, grad_of_theta = _in_torch(log_rate, offset, log_theta, batch, shares)
        ctx.batch_index, ctx.n_batches = batch.batch_index, len(log_theta)
        ctx.save_for_backward(grad, grad_of_theta)
        return value

    @staticmethod
    def backward(ctx: Any, weight: Tensor) -> tuple[Tensor | None, ...]:
        grad, grad_of_theta = ctx.saved_tensors
        if ctx.n_batches == 1:
            grad_theta = (weight @ grad_of_theta).unsqueeze(0)
        else:
            grad_theta = grad_of_theta.new_zeros(ctx.n_batches, grad_of_theta.shape[1])
            grad_theta.index_add_(0, ctx.batch_index, grad_of_theta * weight.unsqueeze(1))
        return grad * weight.unsqueeze(1), None, grad_theta, None, None


def _in_torch(
    log_rate: Tensor, offset: Tensor, log_theta: Tensor, batch: Minibatch, shares: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Values of the cells, and their gradients in `log_rate` and, of each cell, in log theta."""
    shared = len(log_theta) == 1
    theta = log_theta.exp()
    cell_theta = theta if shared else theta[batch.batch_index]  # broadcast, or a row per cell

    def weigh(matrix: Tensor) -> Tensor:
        return matrix @ theta[0] if shared else (matrix * cell_theta).sum(1)

    size = offset.exp()
    if shares:
        odds = torch.softmax(log_rate, 1).mul_(size).div_(cell_theta)
    else:
        cell_log_theta = log_theta if shared else log_theta[batch.batch_index]
        odds = (log_rate + offset).sub_(cell_log_theta).clamp_(max=float(LARGEST_LOG_ODDS)).exp_()
    log1p_odds = torch.log1p(odds)
    used = odds / (odds + 1)  # mu / (theta + mu)

    x, seen_odds = batch.count, batch.at_nonzeros(odds).clamp_(min=float(TINY))
    unused = 1 / (1 + seen_odds)  # theta / (theta + mu)
    entry = batch.gene if shared else batch.batch_index[batch.row] * batch.n_genes + batch.gene
    gamma, gamma_slope, large = _gamma_terms(x, theta, entry)
    seen = gamma.addcmul_(x, torch.log(seen_odds * unused))
    if len(large):
        # Here the large terms of zeros and counts cancel: taken together, in float64, and not again as zeros.
        wide_x, wide, wide_theta = (
            to_float64(x[large]),
            to_float64(seen_odds[large]),
            to_float64(theta.view(-1)[entry[large]]),
        )
        counts = wide_x > 0
        seen[large] = (_large_count(wide_x, wide, wide_theta) * counts).to(seen.dtype)
        gamma_slope[large] -= (wide_theta * torch.log1p(wide) * counts).to(seen.dtype)
        log1p_odds.view(-1).index_fill_(0, batch.position[large], 0.0)
    value = weigh(log1p_odds).neg_().index_add_(0, batch.row, seen)

    slope_of_count = x * unused  # the gradient in log mu is this, less theta * used
    grad_of_theta = (used - log1p_odds).mul_(cell_theta)
    grad_of_theta.view(-1).index_add_(0, batch.position, gamma_slope.sub_(slope_of_count))
    if shares:
        total = slope_of_count.new_zeros(batch.n_cells).index_add_(0, batch.row, slope_of_count) - weigh(used)
        grad = torch.addcmul(used, odds, total.unsqueeze(1) / size, out=odds).mul_(-cell_theta)
    else:
        grad = used.mul_(-cell_theta)
    grad.view(-1).index_add_(0, batch.position, slope_of_count)
    return value, grad, grad_of_theta


def _gamma_terms(x: Tensor, theta: Tensor, entry: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Terms of each count x with the theta at `entry`, and where x is too large for the table, or has a fraction.

    The terms are lgamma(x + theta) - lgamma(theta) - lgamma(x + 1), undefined for large x, and theta times its
    derivative in theta. A table larger than what is looked up in it does not pay: then every x is large.
    """
    on_cuda = x.device.type == "cuda"  # has gamma functions to spare, but no time to report how many counts are large
    n = TABLE_SIZE if theta.numel() <= len(entry) and not on_cuda else 0
    column = x.long().clamp_(max=n)
    large = torch.arange(len(x), device=x.device) if on_cuda else torch.nonzero(column != x).squeeze(1)
    if n:
        k = torch.arange(n, device=theta.device, dtype=theta.dtype)
        factor = theta.view(-1, 1) + k
        below = torch.ones(n, n + 1, dtype=theta.dtype, device=theta.device).triu_(
            1
        )  # a product with it sums over all k < column
        at = column.add_(entry, alpha=n + 1)
        value = ((factor.log() - torch.log1p(k)) @ below).view(-1).index_select(0, at)
        slope = ((theta.view(-1, 1) / factor) @ below).view(-1).index_select(0, at)
    else:
        value, slope = torch.empty_like(x), torch.empty_like(x)
    if len(large):
        wide_x, wide_theta = to_float64(x[large]), to_float64(theta.view(-1)[entry[large]])
        steps = torch.digamma(wide_x + wide_theta) - torch.digamma(wide_theta)
        slope[large] = (wide_theta * steps).to(slope.dtype)
        value.index_fill_(0, large, 0.0)
    return value, slope, large


def _large_count(x: Tensor, odds: Tensor, theta: Tensor) -> Tensor:
    """The whole log-probability, by the textbook formula."""
    gamma = torch.lgamma(x + theta) - torch.lgamma(theta) - torch.lgamma(x + 1)
    return gamma + x * odds.log() - (x + theta) * torch.log1p(odds)


def to_float64(values: Tensor) -> Tensor:
    """Float64 where the device has it."""
    return values if values.device.type == "mps" else values.double()
