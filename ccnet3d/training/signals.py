"""A clean end of a run that is told to stop."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Any


class SignalReceivedError(Exception):
    """Something that can be begun anew ends where it is, as a signal has come."""


class StopSignals:
    """Within the block SIGINT and SIGTERM are noted instead of ending the process.

    A second one interrupts at once. A signal that the process was started to ignore stays ignored.

    Args:
        patient: a second one is ignored, as under torchrun, which passes on what the terminal sent to all already.
    """

    def __init__(self, *, patient: bool = False) -> None:
        self.received: signal.Signals | None = None
        self._patient = patient
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():  # no other may set handlers
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def watch(self, items: Sequence[int]) -> Iterator[int]:
        """The items, as long as no signal has come.

        Raises:
            SignalReceivedError: one has.
        """
        for item in items:
            if self.received is not None:
                raise SignalReceivedError
            yield item

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if self.received is None:
            self.received = signal.Signals(number)
        elif not self._patient:
            raise KeyboardInterrupt


def ignore_stop_signals(_worker: int = 0) -> None:
    """Leave the end of a loader's process to the run itself, where a signal reaches the whole process group."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
