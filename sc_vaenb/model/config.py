"""Everything that says which model this is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class ModelConfig:
    """Everything that says which model this is; with the weights it is the model. See `tl.cvae` for the meanings."""

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
    batch_code: tuple[int, ...] = ()  # which batches look alike to the networks; () for none
    batch_group: tuple[int, ...] = ()  # which batches may be laid over each other; () for all
    encode_batch: bool = False
    batch_offsets: bool = False  # batches shift the log expression of genes, and the networks do not know them
    alignment_clusters: int = 0
    n_covariates: int = 0
    labels: tuple[str, ...] = ()  # names of those that the classifier tells apart
    n_proteins: int = 0  # with "protein" among the penalties
    penalties: dict[str, float] = field(default_factory=dict)  # weight of each

    @property
    def encoder_needs_batch(self) -> bool:
        """Whether the latent state of a cell depends on its batch, before alignment."""
        return self.encode_batch or self.batch_offsets

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> ModelConfig:
        """The configuration that was written as JSON, which knows lists but no tuples."""
        arguments: dict[str, Any] = {n: tuple(part) if isinstance(part, list) else part for n, part in values.items()}
        return cls(**arguments)
