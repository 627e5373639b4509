"""Signals of a command: Ctrl-C, SIGTERM and SIGHUP end it with one line and the usual exit code.

Loading the libraries takes seconds, so the handlers are set before that if Python was started for `sc-vaenb`.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

# from clean-up after a failed write; the command reports the error of the write itself
CLEANUP_ERRORS = (OSError, RuntimeError)
RESEND_AFTER = 0.05  # seconds, until a lost signal is sent again
SIGNALS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}
if hasattr(signal, "SIGHUP"):  # not on Windows
    SIGNALS[signal.SIGHUP] = "ended, as the terminal was closed"


class Received:
    """The signal that ends the command, if any, and whether the command is still loading."""

    number: int | None = None
    loading = True


def is_command() -> bool:
    """Whether Python was started for the command line: `sc-vaenb` or `python -m sc_vaenb`."""
    return Path(sys.argv[0]).stem == "sc-vaenb" or (sys.argv[0] == "-m" and "sc_vaenb" in sys.orig_argv)


def listen() -> None:
    """Let signals end the command. Signals that are ignored, as for a script in the background, stay ignored."""
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _end)


def _end(number: int, frame: FrameType | None) -> None:
    Received.number = number
    if Received.loading:  # there is nothing to clean up yet
        with suppress(OSError):  # the terminal is gone
            os.write(2, f"sc-vaenb: {SIGNALS[signal.Signals(number)]}\n".encode())
        os._exit(128 + number)
    raise KeyboardInterrupt


@contextmanager
def running() -> Iterator[None]:
    """While the command runs, a signal raises KeyboardInterrupt, as Ctrl-C always does."""
    Received.number, Received.loading = None, False
    if threading.current_thread() is not threading.main_thread():  # signals arrive only in the main thread
        yield
        return
    handlers_before = {number: signal.getsignal(number) for number in SIGNALS}
    hooks = sys.unraisablehook, sys.excepthook
    sys.unraisablehook, sys.excepthook = _resend_lost_signal, _hide_cleanup_errors
    listen()
    try:
        yield
    finally:
        sys.unraisablehook, sys.excepthook = hooks
        for number, handler in handlers_before.items():
            signal.signal(number, handler)


@contextmanager
def loading() -> Iterator[None]:
    """While libraries load, a signal ends the process at once: code that imports may hide an exception."""
    Received.loading = True
    try:
        yield
    finally:
        Received.loading = False


def _resend_lost_signal(unraisable: Any) -> None:
    """A signal that arrives while Python deletes an object is lost: send it again a moment later."""
    if issubclass(unraisable.exc_type, KeyboardInterrupt) and Received.number is not None:
        timer = threading.Timer(RESEND_AFTER, os.kill, (os.getpid(), Received.number))
        timer.daemon = True
        timer.start()
    elif not issubclass(unraisable.exc_type, CLEANUP_ERRORS):
        sys.__unraisablehook__(unraisable)


def _hide_cleanup_errors(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Cython passes errors in clean-up here, such as h5py's on a full disk: once for each object in the file."""
    if not issubclass(kind, (KeyboardInterrupt, *CLEANUP_ERRORS)):
        sys.__excepthook__(kind, error, trace)


def ignore_signals() -> None:
    """Ignore signals at the end of a command, whose result is complete."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def exit_code_and_word() -> tuple[int, str]:
    """The exit code and the word for the signal that ended the command."""
    number = signal.Signals(Received.number or signal.SIGINT)
    return 128 + number, SIGNALS[number]
