"""Tools: fit a model to the counts in an AnnData, embed its cells, and compare with other methods."""

from ._compare import compare
from ._cvae import cvae
from ._differential import differential
from ._embed import embed
from ._harmony import harmony
from ._score import score
from ._vae import vae

__all__ = ["compare", "cvae", "differential", "embed", "harmony", "score", "vae"]
