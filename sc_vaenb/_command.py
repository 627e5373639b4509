"""Signals of a command, from its first moment: Ctrl-C, SIGTERM and SIGHUP end it with one line and the usual exit code.

Loading the libraries takes seconds, so this is set up before they are loaded, when Python was started for `sc-vaenb`.
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

TOLD = (OSError, RuntimeError)  # in cleaning up after a write that failed, whose own error the command tells
AGAIN = 0.05  # seconds after which a signal that was lost comes again
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
    """Have signals end the command; those that are ignored, as in the background of a script, stay so."""
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _end)


def _end(number: int, frame: FrameType | None) -> None:
    Received.number = number
    if Received.loading:  # nothing to clear up yet, and importing code may hide an exception
        with suppress(OSError):  # the terminal is gone
            os.write(2, f"sc-vaenb: {SIGNALS[signal.Signals(number)]}\n".encode())
        os._exit(128 + number)
    raise KeyboardInterrupt


@contextmanager
def running() -> Iterator[None]:
    """While the command runs, a signal raises KeyboardInterrupt, as Ctrl-C always does."""
    Received.number, Received.loading = None, False
    if threading.current_thread() is not threading.main_thread():  # where no signal arrives
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    hooks = sys.unraisablehook, sys.excepthook
    sys.unraisablehook, sys.excepthook = _again, _untold
    listen()
    try:
        yield
    finally:
        sys.unraisablehook, sys.excepthook = hooks
        for number, handler in before.items():
            signal.signal(number, handler)


def _again(unraisable: Any) -> None:
    """A signal that came while Python cleared up an object is lost there: have it come again, a moment later."""
    if issubclass(unraisable.exc_type, KeyboardInterrupt) and Received.number is not None:
        again = threading.Timer(AGAIN, os.kill, (os.getpid(), Received.number))
        again.daemon = True
        again.start()
    elif not issubclass(unraisable.exc_type, TOLD):
        sys.__unraisablehook__(unraisable)


def _untold(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Cython passes errors in clean-up here first, as h5py's on a full disk, once for each object in the file."""
    if not issubclass(kind, (KeyboardInterrupt, *TOLD)):
        sys.__excepthook__(kind, error, trace)


def ignore_signals() -> None:
    """At the end of a command, whose result stands."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def said() -> tuple[int, str]:
    """Exit code and word for the signal that ended the command."""
    number = signal.Signals(Received.number or signal.SIGINT)
    return 128 + number, SIGNALS[number]
