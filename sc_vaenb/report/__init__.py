"""Write a comparison as one self-contained HTML file."""

from ._write import write

__all__ = ["write"]
