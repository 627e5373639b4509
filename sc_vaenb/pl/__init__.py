"""Plots of a fit, its embeddings, the results of a model, and a comparison of methods."""

from ._compare import compare
from ._confusion import confusion
from ._embedding import embedding
from ._factors import factors
from ._history import history
from ._interpolation import interpolation
from ._latent import latent
from ._posterior_check import posterior_check
from ._scores import scores
from ._spatial_domains import spatial_domains
from ._tradeoff import tradeoff
from ._trajectory import trajectory
from ._tune import tune

__all__ = [
    "compare",
    "confusion",
    "embedding",
    "factors",
    "history",
    "interpolation",
    "latent",
    "posterior_check",
    "scores",
    "spatial_domains",
    "tradeoff",
    "trajectory",
    "tune",
]
