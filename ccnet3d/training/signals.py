"""Graceful shutdown on SIGINT and SIGTERM."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Any

__all__ = ["SignalReceivedError", "StopSignals", "ignore_stop_signals"]


class SignalReceivedError(Exception):
    """A signal interrupts work that can be repeated."""


class StopSignals:
    """A context in which SIGINT and SIGTERM are recorded instead of ending the process.

    A second signal interrupts at once. A signal that was ignored when the process started remains ignored.

    Args:
        ignore_repeats: ignore a second signal. Under torchrun Ctrl-C arrives twice: the terminal sends it to all
            processes, and torchrun forwards it.
    """

    def __init__(self, *, ignore_repeats: bool = False) -> None:
        self.received: signal.Signals | None = None
        self._ignore_repeats = ignore_repeats
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():  # other threads may not set handlers
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._record)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def watch(self, items: Sequence[int]) -> Iterator[int]:
        """Yield the items until a signal is received.

        Raises:
            SignalReceivedError: a signal was received.
        """
        for item in items:
            if self.received is not None:
                raise SignalReceivedError
            yield item

    def _record(self, number: int, _frame: FrameType | None) -> None:
        if self.received is None:
            self.received = signal.Signals(number)
        elif not self._ignore_repeats:
            raise KeyboardInterrupt


def ignore_stop_signals(_worker: int = 0) -> None:
    """Ignore signals in a DataLoader worker: one sent to the whole process group must not end it before the run."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
