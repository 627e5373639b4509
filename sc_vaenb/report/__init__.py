"""A comparison as one HTML file that can be read by itself, kept and sent."""

from ._write import write

__all__ = ["write"]
