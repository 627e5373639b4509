"""Global state of the process or the session: computations neither depend on it nor change it.

Random numbers come from local generators, and each new tensor has an explicit dtype. The rest is here: modes that a
thread can set for itself (`own_state`), a lock for state that libraries share between threads (`shared`), and forks.
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
    # a thread that was not copied may hold the old locks
    _forked, _lock, _counting = (True, threading.RLock(), threading.Lock())


if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(after_in_child=_after_fork)


def is_forked() -> bool:
    """Whether this process is a fork of another one (`multiprocessing` with `fork`), without its OpenMP threads."""
    return _forked


def shared() -> threading.RLock:
    """The lock to hold while a library changes state that all threads share: warning filters, igraph's random numbers,
    the number of BLAS threads, scanpy's settings.
    """
    return _lock


def counting() -> threading.Lock:
    """The lock to hold, for a short time, while torch's number of threads is read and set."""
    return _counting


@contextmanager
def one_thread() -> Iterator[None]:
    """Hold the lock of `shared`, and let OpenMP and BLAS use one thread.

    Sums then do not depend on the number of cores, and on a busy machine no thread waits for another one.
    """
    with shared(), threadpool_limits(1):
        yield


def own_state() -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Compute as in a new session: gradients, autocast, default device and NumPy's error modes have their defaults.

    In a forked process OpenMP would wait forever for threads that only the parent has, so it uses one thread there.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        wrapper = _default_state()(function)
        wrapper.__kwdefaults__ = function.__kwdefaults__  # other code reads the defaults here
        return wrapper

    return decorate


@contextmanager
def _default_state() -> Iterator[None]:
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
