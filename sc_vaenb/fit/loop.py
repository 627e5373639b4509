"""The loop that fits a model."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from ..data.counts import Counts, evenly_spread
from ..model.config import ModelConfig
from ..model.minibatch import Minibatch
from ..model.vae import CountVAE, Terms
from .checkpoint import Checkpoint
from .convergence import fit_length, scoring_steps
from .device import generator, generators, normal_like, threads_as_asked, threads_of_a_step
from .history import History, Verdict
from .neighborhoods import Neighborhoods
from .schedule import default_steps, one_cycle, warm_up
from .split import split_cells
from .stability import Adaptation
from .state import Best, FitConfig, State, parameter_groups

CLIP = 1e3  # largest norm of the gradient; usual steps stay well below, a rare step with extreme counts does not
MIN_CELLS_FOR_DISPERSION = 200  # with fewer, the noise of these cells would determine the dispersions
N_DISPERSION_STEPS = 12
DISPERSION_PENALTY = 0.5  # nats per squared change of log theta: where counts say little, theta hardly changes


class Step:
    """A training step: called with cells, learning rate, weight of the KL, and fraction of the KL warm-up done."""

    is_distributed = False  # whether several processes share the fit

    def __init__(
        self, model: CountVAE, counts: Counts, options: FitConfig, n_cells: int, generator: torch.Generator
    ) -> None:
        self.model, self.counts, self.free_bits, self.generator = model, counts, options.free_bits, generator
        self.device = model.depth.device
        self.optimizer = torch.optim.AdamW(parameter_groups(model, options.weight_decay), fused=True)

    def __call__(self, cells: Any, rate: Any, beta: Any, kl_warmup: Any = 1.0) -> Terms:
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        terms = self.gradients(cells, beta, kl_warmup)
        self.all_reduce(terms)
        self.clip()
        self.optimizer.step()
        return terms

    def gradients(self, cells: Any, beta: Any, kl_warmup: Any) -> Terms:
        """Compute the objective, and write its gradients to the `grad` of the parameters."""
        terms = self.model.loss(self.minibatch_with_noise(cells), beta, self.free_bits, kl_warmup)
        self.optimizer.zero_grad()
        terms.loss.backward()
        return Terms(*(term.detach() for term in terms))

    def clip(self) -> None:
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)

    def all_reduce(self, terms: Terms) -> None:
        """If several processes share a fit, combine the gradients and terms of their parts into those of all cells."""

    def broadcast(self, tensors: Iterable[Tensor]) -> None:
        """If several processes share a fit, replace these tensors by those of the first process."""

    def minibatch_with_noise(self, cells: Any) -> Minibatch:
        """The minibatch of these cells, with the generator of their noise."""
        batch = self.minibatch(cells)
        batch.generator = self.generator
        return batch

    def minibatch(self, cells: Any) -> Minibatch:
        return self.counts.minibatch(cells, self.device)


def fit(
    config: ModelConfig,
    counts: Counts,
    options: FitConfig,
    device: torch.device,
    seed: int,
    progress: bool = False,
    make_step: Callable[[CountVAE, Counts, FitConfig, int, torch.Generator], Step] = Step,
    checkpoint: Checkpoint | None = None,
    batch_offset: NDArray[np.float32] | None = None,
) -> tuple[CountVAE, History, Verdict]:
    """Fit a new model: to the end of the schedule, or with `patience` until the loss of held-out cells stops falling.

    After an early stop or Ctrl-C, the model has the weights with the lowest loss of held-out cells; Ctrl-C before the
    first evaluation raises KeyboardInterrupt. If the loss becomes NaN or infinite again and again, FloatingPointError
    is raised. With a checkpoint, the fit goes on from the state stored there, if any, with the same result as a fit
    without interruption.
    """
    split_of_cells = split_cells(counts.batch_index, options, seed)
    train, validation = split_of_cells.train, split_of_cells.validation
    batch_size = min(options.batch_size, len(train))
    history = History(batch_size / len(train), options.n_steps, options.validation_beta, config.penalties)
    bar = tqdm(total=options.n_steps, disable=not progress, leave=False, mininterval=0.5)
    generator_of = generators(seed, device)
    noise = generator_of[device.type]
    with threads_as_asked(threads_of_a_step(batch_size, config.n_genes + config.n_peaks)), bar:
        model = CountVAE(config, generator_of["cpu"]).to(device)
        init_batch = counts.minibatch(split_of_cells.init, device)
        init_batch.generator = noise
        if batch_offset is not None:
            model.set_batch_offset(batch_offset)
        model.initialise(init_batch)
        train_step = make_step(model, counts, options, batch_size, noise)
        best, adapt = Best(model), Adaptation(model, options.beta, options.target_kl, history.interval)
        state = State(model, train_step.optimizer, history, best, adapt, generator_of)
        neighborhoods = Neighborhoods(counts, np.union1d(split_of_cells.init, validation), device)
        evaluation_steps = [step for step in range(options.n_steps) if history.is_due(step)]
        n_default_steps = default_steps(len(counts), config.n_genes, counts.typical_depth())
        length = fit_length(options.n_steps, options.learning_rate, n_default_steps)
        n_epochs = options.n_steps * history.per_step
        steps_scored = scoring_steps(evaluation_steps, options.n_steps, length, n_epochs)

        def explained() -> float:
            score = torch.tensor([neighborhoods.explained(model)], dtype=torch.float32, device=device)
            train_step.broadcast([score])
            return float(score)

        if checkpoint is not None:
            checkpoint.restore(state)
        minibatches = islice(counts.shuffled(train, options.batch_size, split_of_cells.rng), state.step, None)
        try:
            for step in range(state.step, 0 if state.status else options.n_steps):
                rate = options.learning_rate / adapt.lr_divisor * one_cycle(step, options.n_steps)
                kl_warmup = warm_up(step, options.n_steps, options.warmup)
                beta = adapt.beta * kl_warmup
                history.add(train_step(next(minibatches), rate, beta, kl_warmup))
                if history.is_due(step):
                    held_out = evaluate(model, counts, validation, options, device) if len(validation) else None
                    train_step.broadcast(held_out or ())
                    history.record(step, beta, rate, held_out, explained() if step in steps_scored else math.nan)
                    bar.update(step + 1 - bar.n)
                    if adapt.rolled_back(model, history.rows[-1], beta):
                        history.drop_last()
                        train_step = make_step(model, counts, options, batch_size, noise)
                        state.optimizer = train_step.optimizer
                    else:
                        best.update(history.losses()[-1], step + 1)
                    state.step = step + 1
                    if options.patience and best.n_since_best >= options.patience and kl_warmup == 1:
                        state.status = "stopped_early"
                    if checkpoint is not None:
                        checkpoint.offer(state, last=bool(state.status) or state.step == options.n_steps)
                    if state.status:
                        break
        except KeyboardInterrupt:
            if best.weights is None or train_step.is_distributed:  # no weights to keep yet, or other processes go on
                raise
            state.status = "interrupted"
        if best.weights is None:
            raise FloatingPointError("the loss was NaN or infinite from the first evaluation on")
        if state.status:
            best.restore()
        history.rows[-1]["neighbors_explained"] = explained()  # of the weights that are kept
        refit_dispersion(model, counts, device, noise)
        for parameter in model.parameters():
            parameter.data = parameter.data.contiguous()  # a step may have ordered its memory in another way
        train_step.broadcast(model.state_dict().values())
    verdict = history.verdict(
        state.status, best.step, adapt.setbacks, options.learning_rate, n_default_steps, len(counts)
    )
    return model, history, verdict


@torch.no_grad()
def evaluate(
    model: CountVAE, counts: Counts, cells: NDArray[np.int64], options: FitConfig, device: torch.device
) -> Terms:
    """The objective on some cells, always with the same beta and noise, so that evaluations can be compared."""
    model.eval()
    noise, terms = generator(0, device), []
    parts = [cells[start : start + 1024] for start in range(0, len(cells), 1024)]
    for part in parts:
        batch = counts.minibatch(part, device)
        batch.generator = noise
        terms.append(model.loss(batch, options.validation_beta, options.free_bits))
    weights = [len(part) / len(cells) for part in parts]
    model.train()
    return Terms(*(sum(w * t for w, t in zip(weights, term, strict=True)) for term in zip(*terms, strict=True)))


def refit_dispersion(model: CountVAE, counts: Counts, device: torch.device, generator: torch.Generator) -> None:
    """Set the dispersions to their most likely values, given the means that the fitted networks predict.

    During a fit, weight decay keeps log theta low, so that the networks do not follow single counts. That improves the
    embedding, but counts drawn from the model vary too much. The networks, and so the embedding, do not change here.
    """
    log_theta = getattr(model.likelihood, "log_theta", None)
    if log_theta is None or not log_theta.requires_grad or len(counts) < MIN_CELLS_FOR_DISPERSION:
        return
    model.eval()
    batch = counts.minibatch(evenly_spread(len(counts)), device)
    with torch.no_grad():
        mean, log_var = model.encode(batch)
        raw = model.decode(mean + (0.5 * log_var).exp() * normal_like(mean, generator), batch)
    log_theta_before, offset = log_theta.detach().clone(), model.offset(batch)
    optimizer = torch.optim.Rprop([log_theta], lr=0.5, step_sizes=(1e-3, 1.0))  # a step size per gene
    for _ in range(N_DISPERSION_STEPS):
        optimizer.zero_grad()
        penalty = DISPERSION_PENALTY * (log_theta - log_theta_before).square().sum()
        (penalty - model.likelihood.log_prob(raw, offset, batch).sum()).backward()
        optimizer.step()
    log_theta.grad = None
