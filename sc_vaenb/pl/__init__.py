"""Plots of a fit, of the embeddings that it writes, and of a comparison of methods."""

from ._compare import compare
from ._confusion import confusion
from ._embedding import embedding
from ._factors import factors
from ._history import history
from ._latent import latent
from ._scores import scores
from ._tradeoff import tradeoff

__all__ = ["compare", "confusion", "embedding", "factors", "history", "latent", "scores", "tradeoff"]
