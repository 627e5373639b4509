"""Marginal likelihood of held-out cells: the quantity by which models with different likelihoods can be compared."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..data.counts import Counts
from ..fit.cuda import to_device
from ..fit.device import generator, normal_like, threads_as_asked
from ..fit.loop import fit
from ..fit.state import FitConfig
from ..model.config import ModelConfig
from ..model.distributions import HALF_LOG_2PI
from ..model.vae import CountVAE
from .posterior import posterior

NO_WIDTH = -30.0  # log-variance of a normal so narrow that it is a point for any prior


class Fitness(NamedTuple):
    """Per held-out cell, two bounds in nats and the expected share of zeros; `steps`: the step of the kept weights."""

    bound: NDArray[np.float64]
    elbo: NDArray[np.float64]
    zeros: NDArray[np.float64]
    steps: int


@torch.inference_mode()
def log_likelihood(
    model: CountVAE, counts: Counts, n_samples: int, device: torch.device, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Two lower bounds of log p(x) of every cell, and the share of zeros among counts drawn once per cell.

    The first bound is the logarithm of the mean of p(x | z) p(z) / q(z | x) over `n_samples` states (IWAE; Burda,
    Grosse & Salakhutdinov 2016), which rises to log p(x) with their number; the second is the mean of the logarithms
    (ELBO).
    """
    bound, elbo, zeros = (np.empty(len(counts)) for _ in range(3))
    rng = generator(seed, device)
    with threads_as_asked():
        for cells, mean, sd in posterior(model, counts, device):
            batch = counts.minibatch(cells, device)
            weights = []
            for _ in range(n_samples):
                noise = normal_like(mean, rng)
                z = mean + sd * noise
                log_p_counts = model.likelihood.log_prob(model.decode(z, batch), model.offset(batch), batch)
                log_q_state = -(0.5 * noise**2 + sd.log() + HALF_LOG_2PI).sum(1)
                weights.append(log_p_counts + (log_prior(model, z, batch.batch_index) - log_q_state))
            stacked = torch.stack(weights)
            bound[cells] = (torch.logsumexp(stacked, 0) - math.log(n_samples)).cpu().numpy()
            elbo[cells] = stacked.mean(0).cpu().numpy()
            drawn = model.draw(z, batch.size_factor, batch.batch_index, rng, batch.side_inputs)
            zeros[cells] = (drawn == 0).float().mean(1).cpu().numpy()
    return bound, elbo, zeros


def log_prior(model: CountVAE, z: Tensor, batch_index: Tensor) -> Tensor:
    """log p(z) of every cell: computed as the KL divergence of a very narrow normal at z, without its entropy."""
    kl = model.prior.kl(z, torch.full_like(z, NO_WIDTH), batch_index)
    return -(kl + 0.5 * (NO_WIDTH + 1) + HALF_LOG_2PI).sum(1)


def refit(
    config: ModelConfig, counts: Counts, held_out: NDArray[np.int64], options: FitConfig, n_samples: int,
    device: torch.device, seed: int, progress: bool = False, batch_offset: NDArray[np.float32] | None = None,
) -> Fitness:  # fmt: skip
    """Fit a model to all cells except `held_out`, and evaluate it on these; with `batch_offset`, if it has one."""
    train = counts.subset(np.setdiff1d(np.arange(len(counts)), held_out))
    train, step = to_device(train, device)
    config = replace(config, alignment_clusters=0)  # the alignment does not change the likelihood
    model, _, verdict = fit(config, train, options, device, seed, progress, step, None, batch_offset)
    if verdict.status == "interrupted":
        raise KeyboardInterrupt
    return Fitness(*log_likelihood(model, counts.subset(held_out), n_samples, device, seed), verdict.kept_step)
