"""Tools: fit a model to the counts in an AnnData, embed its cells, map new ones, and compare with other methods."""

from ._compare import compare
from ._cvae import cvae
from ._embed import embed
from ._harmony import harmony
from ._map_query import map_query
from ._score import score
from ._vae import vae

__all__ = ["compare", "cvae", "embed", "harmony", "map_query", "score", "vae"]
