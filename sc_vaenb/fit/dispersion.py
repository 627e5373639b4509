"""Dispersions as the cells have them, once the networks are fitted."""

from __future__ import annotations

import torch

from ..model.vae import CountVAE
from .batches import Counts, evenly
from .device import normal_like

FEWEST = 200  # cells: with fewer their own chance would decide
ROUNDS = 12
PULL = 0.5  # nats per unit of log theta squared, towards the value before: where counts say little, nothing changes


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
