"""Tools: fit a model to the counts in an AnnData and embed its cells."""

from ._cvae import cvae
from ._embed import embed
from ._vae import vae

__all__ = ["cvae", "embed", "vae"]
