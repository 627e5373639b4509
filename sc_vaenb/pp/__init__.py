"""Getting an AnnData ready for a count model."""

from ._prepare import prepare

__all__ = ["prepare"]
