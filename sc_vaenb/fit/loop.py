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

from ..data.counts import Counts, evenly
from ..model.config import ModelConfig
from ..model.minibatch import Minibatch
from ..model.vae import CountVAE, Terms
from .checkpoint import Checkpoint
from .convergence import look_steps, training_share
from .device import generator, generators, normal_like, threads_as_asked
from .history import History, Verdict
from .neighborhoods import Neighborhoods
from .schedule import default_steps, one_cycle, warm_up
from .split import split_cells
from .stability import Adaptation
from .state import Best, FitConfig, State, parameter_groups

CLIP = 1e3  # norm of the gradient; ordinary steps stay well below, a rare burst of counts does not
MIN_CELLS_FOR_DISPERSION = 200  # with fewer their own chance would decide
N_DISPERSION_STEPS = 12
PULL = 0.5  # nats per unit of log theta squared, towards the value before: where counts say little, nothing changes


class Step:
    """Called with cells, the learning rate, the weight of the KL and how much of it that is, it improves the model."""

    alone = True  # no other process waits for this one

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
        """The objective, and its gradients in the `grad` of the parameters."""
        terms = self.model.loss(self.drawing(cells), beta, self.free_bits, kl_warmup)
        self.optimizer.zero_grad()
        terms.loss.backward()
        return Terms(*(term.detach() for term in terms))

    def clip(self) -> None:
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)

    def all_reduce(self, terms: Terms) -> None:
        """Where several processes share a fit, make of the gradients and terms of their parts those of all cells."""

    def broadcast(self, tensors: Iterable[Tensor]) -> None:
        """Where several processes share a fit, take over what the first of them has found."""

    def drawing(self, cells: Any) -> Minibatch:
        """The cells, with what their noise is drawn from."""
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
) -> tuple[CountVAE, History, Verdict]:
    """Fit a new model: to the end of the schedule, or with `patience` until held-out cells no longer gain from it.

    Stopped early or by Ctrl-C, the weights go back to those that did best on the held-out cells; Ctrl-C before the
    first look at them ends it all. A loss that ever again is no number raises FloatingPointError. With a checkpoint the
    fit goes on from the state that is kept there, if any, and ends as it would have without the break.
    """
    split_of_cells = split_cells(counts.batch_index, options, seed)
    train, validation = split_of_cells.train, split_of_cells.validation
    n_at_once = min(options.batch_size, len(train))
    history = History(n_at_once / len(train), options.n_steps, options.validation_beta, config.penalties)
    bar = tqdm(total=options.n_steps, disable=not progress, leave=False, mininterval=0.5)
    own = generators(seed, device)
    noise = own[device.type]
    with threads_as_asked(), bar:
        model = CountVAE(config, own["cpu"]).to(device)
        first = counts.minibatch(split_of_cells.first, device)
        first.generator = noise
        model.initialise(first)
        train_step = make_step(model, counts, options, n_at_once, noise)
        best, adapt = Best(model), Adaptation(model, options.beta, options.target_kl, history.interval)
        state = State(model, train_step.optimizer, history, best, adapt, own)
        neighborhoods = Neighborhoods(counts, np.union1d(split_of_cells.first, validation), device)
        due = [step for step in range(options.n_steps) if history.is_due(step)]
        usual = default_steps(len(counts), config.n_genes, counts.typical_depth())
        training = training_share(options.n_steps, options.learning_rate, usual)
        looks = look_steps(due, options.n_steps, training, options.n_steps * history.per_step)

        def explained() -> float:
            found = torch.tensor([neighborhoods.explained(model)], dtype=torch.float32, device=device)
            train_step.broadcast([found])
            return float(found)

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
                    history.record(step, beta, rate, held_out, explained() if step in looks else math.nan)
                    bar.update(step + 1 - bar.n)
                    if adapt.rolled_back(model, history.rows[-1], beta):
                        history.drop_last()
                        train_step = make_step(model, counts, options, n_at_once, noise)
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
            if best.weights is None or not train_step.alone:  # nothing to keep yet, or others go on
                raise
            state.status = "interrupted"
        if best.weights is None:
            raise FloatingPointError("the loss was no number from the first look on")
        if state.status:
            best.restore()
        history.rows[-1]["neighbors_explained"] = explained()  # by the weights that are kept
        refit_dispersion(model, counts, device, noise)
        train_step.broadcast(model.state_dict().values())
    said = history.verdict(state.status, best.step, adapt.setbacks, options.learning_rate, usual, len(counts))
    return model, history, said


@torch.no_grad()
def evaluate(
    model: CountVAE, counts: Counts, cells: NDArray[np.int64], options: FitConfig, device: torch.device
) -> Terms:
    """The objective on some cells, with the same beta and noise every time so that looks can be compared."""
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
    """Set the dispersions to their most likely values, given what the fitted networks expect of the cells.

    During a fit weight decay holds log theta back, lest the networks chase single counts. That serves the embedding,
    but drawn counts vary too much. The networks, and so the embedding, stay as they are.
    """
    log_theta = getattr(model.likelihood, "log_theta", None)
    if log_theta is None or len(counts) < MIN_CELLS_FOR_DISPERSION:
        return
    model.eval()
    batch = counts.minibatch(evenly(len(counts)), device)
    with torch.no_grad():
        mean, log_var = model.encode(batch)
        raw = model.decode(mean + (0.5 * log_var).exp() * normal_like(mean, generator), batch)
    before, offset = log_theta.detach().clone(), model.offset(batch)
    optimizer = torch.optim.Rprop([log_theta], lr=0.5, step_sizes=(1e-3, 1.0))  # every gene at its own pace
    for _ in range(N_DISPERSION_STEPS):
        optimizer.zero_grad()
        kept = PULL * (log_theta - before).square().sum()
        (kept - model.likelihood.log_prob(raw, offset, batch).sum()).backward()
        optimizer.step()
    log_theta.grad = None
