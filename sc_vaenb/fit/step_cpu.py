"""Steps of the usual model on a CPU, with the gradients written out.

With minibatches as small as ours the books that autograd keeps are a fifth of the time of a step. What is written out
here is `CountVAE.loss` of a negative binomial with shares, layer norms, GELU and a normal prior, whatever the sizes of
the layers and whatever they see besides; every other model is fitted by autograd. The tests hold one to the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, linear

from ..data.counts import Counts
from ..model.likelihood import NegativeBinomial
from ..model.nb_kernel import value_and_gradients
from ..model.network import MLP
from ..model.vae import LOG_VAR, CountVAE, Terms
from .loop import CLIP, Step
from .state import FitConfig

SUPPORTED = {"likelihood": "nb", "link": "softmax", "norm": "layer", "activation": "gelu", "prior": "normal"}


def step_on_cpu(model: CountVAE, counts: Counts, options: FitConfig, n_cells: int, generator: torch.Generator) -> Step:
    """The quickest step that there is for a model on a CPU."""
    config = model.config
    usual = all(getattr(config, name) == value for name, value in SUPPORTED.items())
    more = config.dropout or config.penalties or options.free_bits
    return (ExplicitStep if usual and not more else Step)(model, counts, options, n_cells, generator)


class ExplicitStep(Step):
    """A step without autograd, all of whose gradients lie in one place."""

    def __init__(
        self, model: CountVAE, counts: Counts, options: FitConfig, n_cells: int, generator: torch.Generator
    ) -> None:
        super().__init__(model, counts, options, n_cells, generator)
        assert isinstance(model.likelihood, NegativeBinomial)
        self.likelihood = model.likelihood
        sizes = [parameter.numel() for parameter in model.parameters()]
        self.all_gradients = torch.zeros(sum(sizes), dtype=torch.float32)
        for parameter, part in zip(model.parameters(), self.all_gradients.split(sizes), strict=True):
            parameter.grad = part.view_as(parameter)
        self.encoder, self.decoder = Layers(model.encoder), Layers(model.decoder)

    def clip(self) -> None:
        norm = torch.linalg.vector_norm(self.all_gradients)
        if norm > CLIP:
            self.all_gradients *= CLIP / norm

    @torch.no_grad()
    def gradients(self, cells: Any, beta: float, kl_warmup: float) -> Terms:
        model, batch = self.model, self.drawing(cells)
        mean, log_var = self.encoder.forward(batch.log_normalised(), model.encoder_side(batch)).chunk(2, dim=1)
        bounded = log_var.clamp(*LOG_VAR)
        noise, sd = batch.random(torch.randn, mean.shape[1]), (0.5 * bounded).exp()
        raw = self.decoder.forward(torch.addcmul(mean, sd, noise), model.decoder_side(batch))
        log_theta, share = self.likelihood.bounded_log_theta(), mean.new_full((batch.n_cells,), -1 / batch.n_cells)
        value, grad_raw, grad_theta = value_and_gradients(raw, model.offset(batch), log_theta, batch, True, share)
        reconstruction, kl = -value.mean(), model.prior.kl(mean, bounded, batch.batch_index).mean(0)

        set_grad(self.likelihood.log_theta, grad_theta.mul_(log_theta == self.likelihood.log_theta))
        grad_z, pull = self.decoder.backward(grad_raw), beta / batch.n_cells
        grad_mean = torch.add(grad_z, mean, alpha=pull)
        of_log_var = (grad_z * noise).mul_(sd).add_(sd.square().sub_(1), alpha=pull).mul_(0.5).mul_(bounded == log_var)
        self.encoder.backward(torch.cat([grad_mean, of_log_var], 1), to_input=False)
        if model.batch_embedding is not None and model.batch_embedding.embedding is not None:
            seen_by = [self.decoder, self.encoder] if model.config.encode_batch else [self.decoder]
            first = model.config.n_covariates  # of the columns, as `encoder_side` and `decoder_side` order them
            columns = slice(first, first + model.batch_embedding.width)
            grad_vector = torch.stack([layers.of_beside[:, columns] for layers in seen_by]).sum(0)
            weight = model.batch_embedding.embedding.weight
            set_grad(
                weight,
                torch.zeros_like(weight).index_add_(0, model.batch_embedding.code[batch.batch_index], grad_vector),
            )
        return Terms(reconstruction + beta * kl.sum(), reconstruction, kl, kl.new_zeros(0))


class Layers:
    """A multilayer perceptron there and back; the gradients of its weights go to their `grad`."""

    def __init__(self, mlp: MLP) -> None:
        self.norms = [layer for layer in mlp.rest if isinstance(layer, nn.LayerNorm)]
        self.linears = [mlp.first, *(layer for layer in mlp.rest if isinstance(layer, nn.Linear))]
        self.side = mlp.side

    def forward(self, x: Tensor, side: Sequence[Tensor]) -> Tensor:
        """The output; what the way back needs is kept."""
        self.x, self.passed = x, []
        h = linear(x, self.linears[0].weight, self.linears[0].bias)
        if self.side is not None:
            self.side_inputs = torch.cat(list(side), dim=1)
            h.addmm_(self.side_inputs, self.side.weight.t())
        for norm, layer in zip(self.norms, self.linears[1:], strict=True):
            normed, mean, scale = torch.native_layer_norm(h, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
            active = gelu(normed)
            self.passed.append((norm, layer, h, mean, scale, normed, active))
            h = linear(active, layer.weight, layer.bias)
        return h

    def backward(self, grad: Tensor, *, to_input: bool = True) -> Tensor:
        """From the gradient in the output to that in the input (or, if it is not asked for, in the first layer)."""
        for norm, layer, h, mean, scale, normed, active in reversed(self.passed):
            torch.mm(grad.t(), active, out=layer.weight.grad)
            torch.sum(grad, 0, out=layer.bias.grad)
            grad = torch.ops.aten.gelu_backward(grad @ layer.weight, normed)
            grad, of_weight, of_bias = torch.ops.aten.native_layer_norm_backward(
                grad, h, norm.normalized_shape, mean, scale, norm.weight, norm.bias, [True, True, True]
            )
            set_grad(norm.weight, of_weight)
            set_grad(norm.bias, of_bias)
        first = self.linears[0]
        torch.mm(grad.t(), self.x, out=first.weight.grad)
        torch.sum(grad, 0, out=first.bias.grad)
        if self.side is not None:
            torch.mm(grad.t(), self.side_inputs, out=self.side.weight.grad)
            self.of_beside = grad @ self.side.weight
        return grad @ first.weight if to_input else grad


def set_grad(parameter: Tensor, gradient: Tensor) -> None:
    assert parameter.grad is not None
    parameter.grad.copy_(gradient)
