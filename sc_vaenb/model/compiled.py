"""Compile functions of numbers for CPUs with numba, and keep the result on disk."""

from __future__ import annotations

from functools import wraps
from typing import Any

import numba

OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy"}  # with "python", each division would have a branch


def cached_njit(function: Any) -> Any:
    """Compile a function, and cache the result on disk if there is a folder for it.

    If anything goes wrong with this folder (it is full, or its files are damaged), the function is compiled for this
    session only. Such errors come before the function runs, so the call can be repeated.
    """
    compiled = numba.njit(**OPTIONS)(function)
    try:
        cached = numba.njit(cache=True, **OPTIONS)(function)
    except RuntimeError:  # there is no cache folder
        return compiled

    @wraps(function)
    def call(*arguments: Any) -> Any:
        nonlocal cached
        if cached is compiled:
            return compiled(*arguments)
        try:
            return cached(*arguments)
        except Exception:  # disk errors, unpickling errors, truncated code: each has another class
            cached = compiled
            return compiled(*arguments)

    return call
