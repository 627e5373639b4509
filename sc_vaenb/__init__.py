"""Negative-binomial variational autoencoders for single-cell counts, in the place of PCA.

`pp` prepares counts, `tl` fits models and embeds cells, `pl` draws, `datasets` makes data to try it on.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from . import datasets, metrics, pl, pp, tl

__all__ = ["datasets", "metrics", "pl", "pp", "tl"]
__version__ = version("sc_vaenb")


def __getattr__(name: str) -> object:
    # torch and scanpy take seconds to import: they load with the first submodule that is used
    if name in __all__:
        return import_module(f".{name}", __name__)
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
