"""The configuration of a model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class ModelConfig:
    """The configuration of a model: with its weights it defines the model. See `tl.cvae` for the meanings."""

    n_genes: int
    n_batches: int = 0
    n_latent: int = 30
    hidden: tuple[int, ...] = (128,)
    decoder_hidden: tuple[int, ...] = (128,)
    activation: str = "gelu"
    norm: str = "layer"
    dropout: float = 0.0
    likelihood: str = "nb"
    dispersion: str = "gene"
    link: str = "softmax"
    size_factor_as: str = "multiplier"
    prior: str = "normal"
    n_components: int = 1
    batch_width: int = 0
    batch_code: tuple[int, ...] = ()  # batches with one code are the same for the networks; (): each has its own
    batch_group: tuple[int, ...] = ()  # only batches of the same group may be overlaid; (): all batches
    encode_batch: bool = False
    batch_offsets: bool = False  # batches shift the log expression of genes; the networks do not know the batch
    alignment_clusters: int = 0
    embedding_map: bool = False  # whether the embedding has other coordinates than the latent states
    n_covariates: int = 0
    labels: tuple[str, ...] = ()  # names of the classes of the classifier
    n_proteins: int = 0  # needs "protein" in `penalties`
    n_peaks: int = 0  # needs "peaks" in `penalties`
    penalties: dict[str, float] = field(default_factory=dict)  # names and weights

    @property
    def encoder_needs_batch(self) -> bool:
        """Whether the latent state of a cell depends on its batch, before alignment."""
        return self.encode_batch or self.batch_offsets

    @property
    def n_batch_inputs(self) -> int:
        """Number of inputs of a network that say which batch a cell is of."""
        if self.batch_offsets or not self.n_batches:
            return 0
        return self.batch_width or max(self.batch_code or range(self.n_batches)) + 1

    @property
    def n_encoder_side(self) -> int:
        """Number of inputs of the encoder besides the counts."""
        return self.n_covariates + self.n_batch_inputs * self.encode_batch + 2 * self.n_proteins

    @property
    def n_decoder_side(self) -> int:
        """Number of inputs of the decoder besides the latent state."""
        return self.n_covariates + self.n_batch_inputs + (self.size_factor_as == "covariate")

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> ModelConfig:
        """The configuration from JSON, where tuples are lists."""
        arguments: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
        }
        return cls(**arguments)
