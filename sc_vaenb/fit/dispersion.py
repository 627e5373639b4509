"""Dispersions as the cells have them, once the networks are fitted."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from ..model.vae import CountVAE
from .batches import Counts
from .device import normal_like

FEWEST, MOST = 200, 512  # cells: with fewer their own chance would decide; more change little
ROUNDS = 12
PULL = 0.5  # nats per unit of log theta squared, towards the value before: where counts say little, nothing changes


def evenly(n_cells: int) -> NDArray[np.int64]:
    """The cells that decide: at most 512, spread over all."""
    return np.arange(0, n_cells, -(-n_cells // MOST))


def refit_dispersion(model: CountVAE, counts: Counts, device: torch.device, generator: torch.Generator) -> None:
    """Set the dispersions to their most likely values, given what the fitted networks expect of the cells.

    During a fit weight decay holds log theta back, lest the networks chase single counts. That serves the embedding,
    but drawn counts vary too much. The networks, and so the embedding, stay as they are.
    """
    log_theta = getattr(model.likelihood, "log_theta", None)
    if log_theta is None or len(counts) < FEWEST:
        return
    model.eval()
    batch = counts.minibatch(evenly(len(counts)), device)
    with torch.no_grad():
        mean, log_var = model.encode(batch)
        raw = model.decode(mean + (0.5 * log_var).exp() * normal_like(mean, generator), batch)
    before, offset = log_theta.detach().clone(), model.offset(batch)
    optimizer = torch.optim.Rprop([log_theta], lr=0.5, step_sizes=(1e-3, 1.0))  # every gene at its own pace
    for _ in range(ROUNDS):
        optimizer.zero_grad()
        kept = PULL * (log_theta - before).square().sum()
        (kept - model.likelihood.log_prob(raw, offset, batch).sum()).backward()
        optimizer.step()
    log_theta.grad = None
