"""The standard streams and signals of a command: what a shell may have closed, and how a run is told to stop."""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TextIO

__all__ = ["StoppedBySignal", "open_streams", "print_message", "stop_on_signals"]

_STOP_SIGNALS = ("SIGTERM", "SIGHUP")  # of job schedulers and containers; of a closed terminal


class StoppedBySignal(KeyboardInterrupt):
    """A signal asks the process to stop; handled wherever Ctrl-C is.

    Args:
        signal_number: the signal.
    """

    def __init__(self, signal_number: int) -> None:
        super().__init__()
        self.exit_code = 128 + signal_number


def open_streams() -> None:
    """Make the standard streams usable: closed ones lead nowhere, and every name can be printed on the others.

    Without this the next opened file would get the descriptor of a closed stream, and messages would be written into
    it.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest descriptor, which is this one
    if sys.stdout is None:
        sys.stdout = _nowhere()
    if sys.stderr is None:
        sys.stderr = _nowhere()
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")  # as stderr has; else a name could end a finished run


def _nowhere() -> TextIO:
    return open(os.devnull, "w", encoding="utf-8", errors="replace")  # noqa: PTH123 - for the life of the process


def print_message(text: str) -> None:
    """Print a line on stderr, unless its reader is gone: an error message must not fail for its own reason."""
    with suppress(OSError):
        print(text, file=sys.stderr)


@contextmanager
def stop_on_signals() -> Iterator[None]:
    """Raise :class:`StoppedBySignal` in the block on SIGTERM and SIGHUP, unless they are ignored, as with ``nohup``."""
    owner = os.getpid()

    def stop(number: int, _frame: FrameType | None) -> None:
        if os.getpid() != owner:  # a child process that inherited this handler
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        raise StoppedBySignal(number)

    before = {}
    if threading.current_thread() is threading.main_thread():  # others may not set handlers
        for name in _STOP_SIGNALS:
            number = getattr(signal, name, None)  # Windows has no SIGHUP
            if number is not None and signal.getsignal(number) == signal.SIG_DFL:
                before[number] = signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
