"""Data to try the package on: simulated, real with a known batch effect, and published."""

from ._demo import demo
from ._hcc import hcc
from ._simulate import simulate

__all__ = ["demo", "hcc", "simulate"]
