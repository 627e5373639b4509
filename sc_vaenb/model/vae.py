"""The count VAE: encode, sample, decode, likelihood, KL."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from .alignment import Alignment
from .config import ModelConfig
from .embedding_map import EmbeddingMap
from .labels import Labels
from .likelihood import LIKELIHOODS
from .minibatch import ForwardState, Minibatch, without_counts
from .network import MLP, BatchEmbedding, draw_weights
from .peaks import Peaks, is_measured, product, split, weight_of_genes
from .penalty import PENALTIES
from .prior import PRIORS
from .protein import Protein
from .sparse_linear import sparse_linear

LOG_VAR = (-12.0, 6.0)  # bounds of the log-variance of the posterior


class Terms(NamedTuple):
    """The objective of a minibatch, in nats per cell: reconstruction + beta * kl (with free bits, if any) + penalties.

    The penalties are weighted, in the order of `CountVAE.penalties`.
    """

    loss: Tensor
    reconstruction: Tensor
    kl_per_dim: Tensor
    penalties: Tensor


class CountVAE(nn.Module):
    """A variational autoencoder of counts (Kingma & Welling 2014; for single cells Lopez et al. 2018).

    With `config.n_batches` > 0 it is conditional: the decoder, and optionally the encoder, sees the batch. With
    `config.batch_offsets` the networks do not see it: a batch only shifts the log expression of the genes. The initial
    weights are drawn from a generator, by default with seed 0.
    """

    def __init__(self, config: ModelConfig, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.config = config
        code = config.batch_code or range(config.n_batches)
        self.batch_embedding = BatchEmbedding(code, config.batch_width) if config.n_batch_inputs else None
        offsets = torch.zeros(config.n_batches, config.n_genes, dtype=torch.float32) if config.batch_offsets else None
        self.batch_offset = nn.Buffer(offsets) if offsets is not None else None
        likelihood = LIKELIHOODS[config.likelihood]
        style = (config.activation, config.norm, config.dropout)
        self.encoder = MLP(config.n_genes, config.n_encoder_side, config.hidden, 2 * config.n_latent, *style)
        n_outputs = likelihood.heads * config.n_genes
        self.decoder = MLP(config.n_latent, config.n_decoder_side, config.decoder_hidden, n_outputs, *style)
        n_dispersions = config.n_batches if config.dispersion == "gene-batch" else 1
        self.likelihood = likelihood(config.n_genes, n_dispersions, config.link)
        self.prior = PRIORS[config.prior](config.n_latent, config.n_batches, config.n_components)
        self.embedding_map = EmbeddingMap(config.n_latent) if config.embedding_map else None
        alignment_shape = (config.alignment_clusters, config.n_batches, config.n_latent)
        self.alignment = Alignment(*alignment_shape) if config.alignment_clusters else None
        self.penalties = nn.ModuleDict({name: PENALTIES[name](config) for name in config.penalties})
        # The mean depth: with a softmax link, a cell with size factor 1 has this number of counts.
        self.depth = nn.Buffer(torch.ones((), dtype=torch.float32))
        draw_weights(self, generator or torch.Generator("cpu").manual_seed(0))
        if config.labels:
            labels = self.penalties["labels"]
            assert isinstance(labels, Labels)
            labels.start()

    @property
    def protein(self) -> Protein | None:
        """The protein part of the model, if any."""
        part = self.penalties["protein"] if self.config.n_proteins else None
        assert part is None or isinstance(part, Protein)
        return part

    @property
    def peaks(self) -> Peaks | None:
        """The part of the model for open chromatin, if any."""
        part = self.penalties["peaks"] if self.config.n_peaks else None
        assert part is None or isinstance(part, Peaks)
        return part

    def set_batch_offset(self, offset: NDArray[np.float32]) -> None:
        """Set the shifts of the log expression (batches x genes); they are known before the fit."""
        assert self.batch_offset is not None
        self.batch_offset.copy_(torch.from_numpy(offset))

    @torch.no_grad()
    def initialise(self, batch: Minibatch) -> None:
        """Initialise with the mean expression and moment dispersions of some cells: the fit needs fewer steps."""
        self.depth.fill_(batch.count.sum() / batch.size_factor.sum())
        self.decoder.output.bias.copy_(self.likelihood.initialise(batch))
        if self.protein is not None:
            self.protein.initialise(batch)
        if self.peaks is not None:
            self.peaks.initialise(batch)
        self.prior.start(batch, self.encode)

    def encode(self, batch: Minibatch) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of q(z | x) or q(z | x, s), each (n_cells, n_latent)."""
        first, side = sparse_linear(self.encoder.first, self.encoder_input(batch), batch), self.encoder_side(batch)
        mean, log_var = self.encoder.after_first(first, side, batch.generator).chunk(2, dim=1)
        genes = mean, log_var.clamp(*LOG_VAR)
        if self.peaks is None:
            return genes
        has_genes = is_measured(batch)
        if batch.peaks is None:
            return product(genes, genes, has_genes, torch.zeros_like(has_genes))
        peak_mean, peak_log_var = self.peaks.encode(batch, side)
        return product(genes, (peak_mean, peak_log_var.clamp(*LOG_VAR)), has_genes, is_measured(batch.peaks))

    def encoder_input(self, batch: Minibatch) -> Tensor:
        """Log-normalised counts, one per non-zero; batch offsets, if any, are subtracted."""
        if self.batch_offset is None:
            return batch.log_normalised()
        return batch.log_normalised(self.batch_offset[batch.batch_index[batch.row], batch.gene])

    def encoder_side(self, batch: Minibatch) -> list[Tensor]:
        """Inputs of the encoder besides the counts."""
        side = self.covariates(batch)
        if self.batch_embedding is not None and self.config.encode_batch:
            side.append(self.batch_embedding(batch.batch_index))
        if self.protein is not None:
            side.append(self.protein.encoder_input(batch))
        return side

    def decode(self, z: Tensor, batch: Minibatch) -> Tensor:
        """Raw output of the decoder, (n_cells, heads * n_genes): the input of the likelihood."""
        raw = self.decoder(z, self.decoder_side(batch), batch.generator)
        if self.batch_offset is None:
            return raw
        expression, rest = raw.tensor_split([self.config.n_genes], dim=1)
        return torch.cat([expression + self.batch_offset[batch.batch_index], rest], dim=1)

    def decoder_side(self, batch: Minibatch) -> list[Tensor]:
        """Inputs of the decoder besides the latent state."""
        side = self.covariates(batch)
        if self.batch_embedding is not None:
            side.append(self.batch_embedding(batch.batch_index))
        if self.config.size_factor_as == "covariate":
            side.append(batch.size_factor.log().unsqueeze(1))
        return side

    def covariates(self, batch: Minibatch) -> list[Tensor]:
        """The covariates (n_cells, n_covariates), if the model has any; cells without covariates get their mean, 0."""
        if not self.config.n_covariates:
            return []
        if "covariates" in batch.side_inputs:
            return [batch.side_inputs["covariates"]]
        return [batch.size_factor.new_zeros(batch.n_cells, self.config.n_covariates)]

    def offset(self, batch: Minibatch) -> Tensor:
        """Offset of the log expression, (n_cells, 1): log size factor, and with a softmax link the log mean depth."""
        log_size = batch.size_factor.log().unsqueeze(1)
        if self.config.size_factor_as == "covariate":
            log_size = torch.zeros_like(log_size)
        # The Gaussian does not use the link
        is_softmax = self.config.link == "softmax" and self.config.likelihood != "gaussian"
        return log_size + self.depth.log() if is_softmax else log_size

    def to_embedding(self, z: Tensor) -> Tensor:
        """Latent states in the coordinates of the embedding, before alignment."""
        return z if self.embedding_map is None else self.embedding_map(z)

    def aligned(self, z: Tensor, batch_index: Tensor) -> Tensor:
        """Latent states after alignment, which acts on the embedding: states that can be decoded."""
        if self.alignment is None:
            return z
        embedding = self.alignment(self.to_embedding(z), batch_index)
        return embedding if self.embedding_map is None else self.embedding_map.inverse(embedding)

    def log_mean(
        self, z: Tensor, size_factor: Tensor, batch_index: Tensor, side_inputs: dict[str, Tensor] | None = None
    ) -> Tensor:
        """Log of the expected counts of latent states, (n_cells, n_genes), without extra zeros.

        Parameters
        ----------
        z
            Latent states from the encoder, not aligned (n_cells, n_latent).
        size_factor, batch_index, side_inputs
            Per cell, as in a `Minibatch`. Covariates that are not in `side_inputs` are at their mean.
        """
        cells = without_counts(size_factor, batch_index, self.config.n_genes, side_inputs)
        return self.likelihood.log_mean(self.decode(z, cells), self.offset(cells))

    def draw(
        self,
        z: Tensor,
        size_factor: Tensor,
        batch_index: Tensor,
        generator: torch.Generator,
        side_inputs: dict[str, Tensor] | None = None,
    ) -> Tensor:
        """Counts drawn from the likelihood given latent states, (n_cells, n_genes), integers; see `log_mean`."""
        cells = without_counts(size_factor, batch_index, self.config.n_genes, side_inputs)
        return self.likelihood.draw(self.decode(z, cells), self.offset(cells), batch_index, generator)

    def loss(
        self,
        batch: Minibatch,
        beta: float | Tensor = 1.0,
        free_bits: float = 0.0,
        kl_warmup: float | Tensor = 1.0,
    ) -> Terms:
        """Negative ELBO and penalties. The KL has the weight `beta`; each dimension counts at least `free_bits` nats.

        `kl_warmup` is the weight of the KL as a share of its final value: the penalties on batch effects rise with it.
        """
        all_counts, batch = batch, split(batch)
        mean, log_var = self.encode(batch)
        noise = batch.random(torch.randn, mean.shape[1])
        z = mean + (0.5 * log_var).exp() * noise
        raw = self.decode(z, batch)
        log_prob = self.likelihood.log_prob(raw, self.offset(batch), all_counts)
        if self.peaks is not None:
            log_prob = log_prob * weight_of_genes(all_counts, batch)
        reconstruction = -log_prob.mean()
        kl = self.prior.kl(mean, log_var, batch.batch_index).mean(0)
        loss = reconstruction + beta * kl.clamp(min=free_bits).sum()
        if not self.penalties:
            return Terms(loss, reconstruction, kl, loss.new_zeros(0))
        state = ForwardState(batch, mean, log_var, z, raw, kl_warmup, self.covariates(batch), self.decoder_side(batch))
        penalties = torch.stack([penalty(state) for penalty in self.penalties.values()])
        return Terms(loss + penalties.sum(), reconstruction, kl, penalties)
