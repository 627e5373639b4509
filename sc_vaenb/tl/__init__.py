"""Tools: fit a model to the counts in an AnnData, embed its cells, and compare with other methods."""

from ._compare import compare
from ._cvae import cvae
from ._embed import embed
from ._export_model import export_model
from ._harmony import harmony
from ._import_model import import_model
from ._score import score
from ._vae import vae

__all__ = ["compare", "cvae", "embed", "export_model", "harmony", "import_model", "score", "vae"]
