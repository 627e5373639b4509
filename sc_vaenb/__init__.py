"""Negative-binomial variational autoencoders for single-cell counts, in the place of PCA.

`pp` prepares counts, `tl` fits models and embeds cells, `pl` draws, `report` writes a comparison as a page,
`datasets` makes data to try it on.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING

from . import _command

if TYPE_CHECKING:
    from . import datasets, metrics, pl, pp, report, tl

if _command.is_command():  # it imports torch once it knows that its arguments are right
    _command.listen()
else:
    # Before anything runs numba's parallel code, as much of scanpy does: PyTorch's CPU builds would then find the
    # OpenMP library that numba has loaded, and share its threads with it, which makes the steps of a fit twice as slow.
    import torch as _torch  # noqa: F401

__all__ = ["datasets", "metrics", "pl", "pp", "report", "tl"]
__version__ = version("sc_vaenb")


def __getattr__(name: str) -> object:
    # scanpy takes seconds to import: it loads with the first submodule that needs it
    if name in __all__:
        return import_module(f".{name}", __name__)
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
