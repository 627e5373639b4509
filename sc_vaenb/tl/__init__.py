"""Tools: fit a model to the counts in an AnnData, embed its cells, use what it learned, compare methods."""

from ._accessibility import accessibility
from ._compare import compare
from ._corrected import corrected
from ._cvae import cvae
from ._denoised_protein import denoised_protein
from ._design import design
from ._differential import differential
from ._embed import embed
from ._export_model import export_model
from ._factors import factors
from ._harmony import harmony
from ._import_model import import_model
from ._importance import importance
from ._interpolate import interpolate
from ._map_query import map_query
from ._normalized import normalized
from ._posterior_check import posterior_check
from ._pseudobulk import pseudobulk
from ._sample import sample
from ._score import score
from ._spatial import spatial
from ._tune import tune
from ._vae import vae

__all__ = [
    "accessibility",
    "compare",
    "corrected",
    "cvae",
    "denoised_protein",
    "design",
    "differential",
    "embed",
    "export_model",
    "factors",
    "harmony",
    "import_model",
    "importance",
    "interpolate",
    "map_query",
    "normalized",
    "posterior_check",
    "pseudobulk",
    "sample",
    "score",
    "spatial",
    "tune",
    "vae",
]
