"""The negative binomial log-likelihood of whole cells, and its gradient, at the cost of the non-zeros.

Where x = 0 the log-probability is `-theta * log1p(mu / theta)`: no gamma function. Where x is small,
`lgamma(x + theta) - lgamma(theta) - x log(theta) = sum over k < x of log1p(k / theta)` is read from a table with a
row per gene. Only the few larger counts take the general formula of `distributions`, which stays the reference for all.
One autograd node for the whole matrix keeps no graph over the genes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import softplus

from .distributions import negative_binomial, theta_gradient
from .minibatch import Minibatch

TABLE_SIZE = 16  # counts up to here are looked up


def negative_binomial_cells(log_mu: Tensor, log_theta: Tensor, batch: Minibatch) -> Tensor:
    """Sum over the genes of log NB(x | mu, theta) for each cell.

    Parameters
    ----------
    log_mu
        (n_cells, n_genes)
    log_theta
        (1, n_genes), or (n_conditions, n_genes) to look up each cell's row by `batch.condition`.
    batch
        The counts.

    Returns
    -------
    (n_cells,), differentiable in `log_mu` and `log_theta`.
    """
    return _NegativeBinomialCells.apply(log_mu, log_theta, batch)


class _NegativeBinomialCells(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, log_mu: Tensor, log_theta: Tensor, batch: Minibatch) -> Tensor:
        shared = len(log_theta) == 1
        theta = log_theta.exp()
        # `entry` finds each non-zero's theta in the flattened parameter
        entry = batch.gene if shared else batch.condition[batch.row] * batch.n_genes + batch.gene
        cell_theta = theta if shared else theta[batch.condition]
        odds = log_mu - (log_theta if shared else log_theta[batch.condition])
        shrink = softplus(odds)  # log1p(mu / theta)

        # A table that would be larger than what is looked up in it does not pay.
        n_table = TABLE_SIZE if theta.numel() <= len(entry) else 0
        large = torch.nonzero(batch.count > n_table).squeeze(1)
        k = torch.arange(n_table, device=theta.device, dtype=theta.dtype)
        at = entry * n_table + batch.count.long().clamp_(max=n_table) - 1
        seen_log_mu = batch.at_nonzeros(log_mu)
        if n_table:
            rising = torch.cumsum(torch.log1p(k / theta.view(-1, 1)), 1) - torch.lgamma(k + 2)
            seen = rising.view(-1).index_select(0, at)
            seen += batch.count * (seen_log_mu - batch.at_nonzeros(shrink))
        else:
            seen = torch.empty_like(batch.count)
        large_args = (
            batch.count[large],
            seen_log_mu[large],
            log_theta.reshape(-1)[entry[large]],
        )
        seen[large] = negative_binomial(*large_args)
        shrink.view(-1)[batch.position[large]] = 0.0  # already in the general formula

        zeros = shrink @ theta[0] if shared else (shrink * cell_theta).sum(1)
        ctx.batch, ctx.shared = batch, shared
        if any(ctx.needs_input_grad):
            slope = torch.sigmoid(odds).mul_(-cell_theta)
            # sigmoid(-odds) at the non-zeros, from what is at hand: 1 + slope / theta
            slope.view(-1).index_add_(0, batch.position, batch.count * torch.sigmoid(-batch.at_nonzeros(odds)))
            if n_table:
                of_theta = torch.cumsum(1 / (1 + k / theta.view(-1, 1)), 1).view(-1).index_select(0, at)
            else:
                of_theta = torch.empty_like(batch.count)
            x, large_log_mu, large_log_theta = large_args
            of_theta[large] = theta_gradient(x, large_log_mu.exp(), large_log_theta.exp())
            of_theta[large] += slope.view(-1)[batch.position[large]]
            ctx.save_for_backward(slope, shrink, theta, entry, of_theta)
        return (-zeros).index_add_(0, batch.row, seen)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        slope, shrink, theta, entry, of_theta = ctx.saved_tensors
        batch: Minibatch = ctx.batch
        if ctx.shared:
            grad_theta = -(theta[0] * (grad @ shrink) + grad @ slope).unsqueeze(0)
        else:
            dense = torch.addcmul(slope, shrink, theta[batch.condition]).mul_(grad.unsqueeze(1))
            grad_theta = torch.zeros_like(theta).index_add_(0, batch.condition, dense, alpha=-1)
        grad_theta.view(-1).index_add_(0, entry, of_theta * grad[batch.row])
        return slope * grad.unsqueeze(1), grad_theta, None
