"""Steps of the most common model on a CPU, with explicit gradients.

With small minibatches, autograd overhead is about 20 % of a step. This file has the explicit gradients of
`CountVAE.loss` for a negative binomial with a softmax link, layer norms, GELU and a normal prior, for any layer sizes
and side inputs. Autograd fits every other model. The tests compare both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, linear

from ..data.counts import Counts
from ..model.likelihood import NegativeBinomial
from ..model.minibatch import Minibatch
from ..model.nb_kernel import value_and_gradients
from ..model.network import MLP
from ..model.sparse_linear import is_sparse, product, weight_gradient
from ..model.vae import LOG_VAR, CountVAE, Terms
from .loop import CLIP, Step
from .state import FitConfig

SUPPORTED = {"likelihood": "nb", "link": "softmax", "norm": "layer", "activation": "gelu", "prior": "normal"}


def step_on_cpu(model: CountVAE, counts: Counts, options: FitConfig, n_cells: int, generator: torch.Generator) -> Step:
    """The fastest step for a model on a CPU."""
    config = model.config
    supported = all(getattr(config, name) == value for name, value in SUPPORTED.items())
    unsupported_extras = config.dropout or config.penalties or options.free_bits or config.batch_offsets
    return (ExplicitStep if supported and not unsupported_extras else Step)(model, counts, options, n_cells, generator)


class ExplicitStep(Step):
    """A step without autograd, with all gradients in one array."""

    def __init__(
        self, model: CountVAE, counts: Counts, options: FitConfig, n_cells: int, generator: torch.Generator
    ) -> None:
        super().__init__(model, counts, options, n_cells, generator)
        assert isinstance(model.likelihood, NegativeBinomial)
        self.likelihood = model.likelihood
        by_gene = model.encoder.first.weight  # a sparse product reads the weights of a gene together
        by_gene.data = by_gene.data.t().contiguous().t()
        sizes = [parameter.numel() for parameter in model.parameters()]
        self.all_gradients = torch.zeros(sum(sizes), dtype=torch.float32)
        for parameter, part in zip(model.parameters(), self.all_gradients.split(sizes), strict=True):
            parameter.grad = part.as_strided(parameter.shape, parameter.stride(), part.storage_offset())
        self.encoder, self.decoder = Layers(model.encoder), Layers(model.decoder)

    def clip(self) -> None:
        norm = torch.linalg.vector_norm(self.all_gradients)
        if norm > CLIP:
            self.all_gradients *= CLIP / norm

    @torch.no_grad()
    def gradients(self, cells: Any, beta: float, kl_warmup: float) -> Terms:
        model, batch = self.model, self.minibatch_with_noise(cells)
        x, side = batch.log_normalised(), model.encoder_side(batch)
        mean, log_var = self.encoder.forward(x, side, batch).chunk(2, dim=1)
        bounded = log_var.clamp(*LOG_VAR)
        noise, sd = batch.random(torch.randn, mean.shape[1]), (0.5 * bounded).exp()
        raw = self.decoder.forward(torch.addcmul(mean, sd, noise), model.decoder_side(batch))
        log_theta, weight = self.likelihood.bounded_log_theta(), mean.new_full((batch.n_cells,), -1 / batch.n_cells)
        value, grad_raw, grad_theta = value_and_gradients(raw, model.offset(batch), log_theta, batch, True, weight)
        reconstruction, kl = -value.mean(), model.prior.kl(mean, bounded, batch.batch_index).mean(0)

        set_grad(self.likelihood.log_theta, grad_theta.mul_(log_theta == self.likelihood.log_theta))
        grad_z, kl_weight = self.decoder.backward(grad_raw), beta / batch.n_cells
        grad_mean = torch.add(grad_z, mean, alpha=kl_weight)
        grad_bounded = (grad_z * noise).mul_(sd).add_(sd.square().sub_(1), alpha=kl_weight).mul_(0.5)
        grad_log_var = grad_bounded.mul_(bounded == log_var)
        self.encoder.backward(torch.cat([grad_mean, grad_log_var], 1), to_input=False)
        if model.batch_embedding is not None and model.batch_embedding.embedding is not None:
            networks = [self.decoder, self.encoder] if model.config.encode_batch else [self.decoder]
            first = model.config.n_covariates  # covariates come first in `encoder_side` and `decoder_side`
            columns = slice(first, first + model.batch_embedding.width)
            grad_vector = torch.stack([layers.grad_side[:, columns] for layers in networks]).sum(0)
            vectors = model.batch_embedding.embedding.weight
            set_grad(
                vectors,
                torch.zeros_like(vectors).index_add_(0, model.batch_embedding.code[batch.batch_index], grad_vector),
            )
        return Terms(reconstruction + beta * kl.sum(), reconstruction, kl, kl.new_zeros(0))


class Layers:
    """Forward and backward pass of a multilayer perceptron; the gradients of its weights go to their `grad`."""

    def __init__(self, mlp: MLP) -> None:
        self.norms = [layer for layer in mlp.rest if isinstance(layer, nn.LayerNorm)]
        self.linears = [mlp.first, *(layer for layer in mlp.rest if isinstance(layer, nn.Linear))]
        self.side = mlp.side

    def forward(self, x: Tensor, side: Sequence[Tensor], batch: Minibatch | None = None) -> Tensor:
        """Compute the output, and save what the backward pass needs. With a minibatch, `x` are its non-zeros."""
        if batch is not None and not is_sparse(batch):
            x, batch = batch.dense(x), None
        self.x, self.batch, self.saved = x, batch, []
        first = self.linears[0]
        h = linear(x, first.weight, first.bias) if batch is None else product(x, first.weight, first.bias, batch)
        if self.side is not None:
            self.side_inputs = torch.cat(list(side), dim=1)
            h.addmm_(self.side_inputs, self.side.weight.t())
        for norm, layer in zip(self.norms, self.linears[1:], strict=True):
            normed, mean, scale = torch.native_layer_norm(h, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
            active = gelu(normed)
            self.saved.append((norm, layer, h, mean, scale, normed, active))
            h = linear(active, layer.weight, layer.bias)
        return h

    def backward(self, grad: Tensor, *, to_input: bool = True) -> Tensor:
        """Gradient in the input from that in the output; without `to_input`, that in the output of the first layer."""
        for norm, layer, h, mean, scale, normed, active in reversed(self.saved):
            torch.mm(grad.t(), active, out=layer.weight.grad)
            torch.sum(grad, 0, out=layer.bias.grad)
            grad = torch.ops.aten.gelu_backward(grad @ layer.weight, normed)
            grad, grad_weight, grad_bias = torch.ops.aten.native_layer_norm_backward(
                grad, h, norm.normalized_shape, mean, scale, norm.weight, norm.bias, [True, True, True]
            )
            set_grad(norm.weight, grad_weight)
            set_grad(norm.bias, grad_bias)
        first = self.linears[0]
        if self.batch is None:
            torch.mm(grad.t(), self.x, out=first.weight.grad)
        else:
            assert first.weight.grad is not None
            weight_gradient(self.x, grad, self.batch, out=first.weight.grad.t())
        torch.sum(grad, 0, out=first.bias.grad)
        if self.side is not None:
            torch.mm(grad.t(), self.side_inputs, out=self.side.weight.grad)
            self.grad_side = grad @ self.side.weight
        return grad @ first.weight if to_input else grad


def set_grad(parameter: Tensor, gradient: Tensor) -> None:
    assert parameter.grad is not None
    parameter.grad.copy_(gradient)
