"""Plots of a fit, of the embeddings that it writes, and of a comparison of methods."""

from ._compare import compare
from ._embedding import embedding
from ._history import history
from ._scores import scores

__all__ = ["compare", "embedding", "history", "scores"]
