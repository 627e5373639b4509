"""What belongs to the whole process or to the user's session: computations neither depend on it nor change it.

Random numbers come from generators of one's own, types are named where a tensor is made. The rest is here: modes that a
thread can set for itself (`own_state`), a lock for what libraries only set for all threads (`shared`), and the fork.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import ParamSpec, TypeVar

import numpy as np
import torch
from threadpoolctl import threadpool_limits

P = ParamSpec("P")
R = TypeVar("R")

_forked, _lock, _counting = False, threading.RLock(), threading.Lock()


def _after_fork() -> None:
    global _forked, _lock, _counting
    _forked, _lock, _counting = True, threading.RLock(), threading.Lock()  # a thread not copied may hold the old ones


if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(after_in_child=_after_fork)


def is_forked() -> bool:
    """Whether this process is the copy of another one (`multiprocessing` with `fork`), without its OpenMP threads."""
    return _forked


def shared() -> threading.RLock:
    """The lock to hold while a library changes what all threads share: warning filters, igraph's random numbers,
    threads of BLAS, scanpy's settings.
    """
    return _lock


def counting() -> threading.Lock:
    """The lock to hold while torch's number of threads is read and set; never for long."""
    return _counting


def own_state() -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Compute as in a new session, whatever the user's has set: gradients, autocast, default device, NumPy's errors.

    In a forked process OpenMP would wait for ever for threads that only the parent has: there it is left at one.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        wrapper = _as_new()(function)
        wrapper.__kwdefaults__ = function.__kwdefaults__  # read where calls are planned
        return wrapper

    return decorate


@contextmanager
def _as_new() -> Iterator[None]:
    with ExitStack() as stack:
        stack.enter_context(np.errstate(all="warn", under="ignore"))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for kind in ("cpu", "cuda", "mps"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        if is_forked():
            torch.set_num_threads(1)
            stack.enter_context(threadpool_limits(1, user_api="openmp"))
        yield
