"""Plots of a fit and of the embeddings that it writes."""

from ._embedding import embedding
from ._history import history

__all__ = ["embedding", "history"]
