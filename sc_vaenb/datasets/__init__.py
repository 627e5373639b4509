"""Data to try the package on: simulated, or real cells with a known batch effect."""

from ._demo import demo
from ._simulate import simulate

__all__ = ["demo", "simulate"]
