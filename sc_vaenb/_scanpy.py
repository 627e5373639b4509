"""Scanpy's settings: changed for a while, so that what is computed does not depend on the user's.

`settings.override` would do this, but only from scanpy 1.13; `settings.verbosity.override` is deprecated there.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import scanpy as sc

from ._session import shared


@contextmanager
def override(**values: object) -> Iterator[None]:
    """Change settings of scanpy, and set them back at the end."""
    before = {name: getattr(sc.settings, name) for name in values}
    try:
        for name, value in values.items():
            setattr(sc.settings, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(sc.settings, name, value)


@contextmanager
def scanpy_1() -> Iterator[None]:
    """Compute as scanpy 1 does: since 1.13, `settings.preset` decides on keys, defaults and clusters.

    Holds the lock of what threads share.
    """
    preset = {"preset": sc.Preset.ScanpyV1} if hasattr(sc, "Preset") else {}
    with shared(), override(**preset):
        yield
