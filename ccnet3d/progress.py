"""Progress of long work: a bar on a terminal, a line every 30 seconds elsewhere."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from tqdm import tqdm

__all__ = ["LINE_SECONDS", "progress_bar"]

LINE_SECONDS = 30.0
"""Time between two lines where there is no terminal."""


def progress_bar(items: Iterable[Any] | None = None, *, hidden: bool = False, **options: Any) -> Any:
    """Return tqdm's bar on a terminal; elsewhere one that writes a line to stderr every 30 seconds.

    Args:
        items: to iterate over; None for a bar that is updated by hand.
        hidden: show neither.
        options: of tqdm, such as ``total``, ``desc``, ``unit`` (in the singular) and ``initial``.

    >>> list(progress_bar([1, 2, 3], unit="frame"))  # shorter than 30 seconds, so there is no line
    [1, 2, 3]
    """
    if hidden or sys.stderr is None:
        return tqdm(items, disable=True, **options)
    if sys.stderr.isatty():
        return tqdm(items, **options)
    aside = io.StringIO()  # gets only the line end with which tqdm leaves a terminal
    return _Lines(
        items, file=aside, mininterval=LINE_SECONDS, maxinterval=LINE_SECONDS, delay=LINE_SECONDS, miniters=1, **options
    )


class _Lines(tqdm):  # type: ignore[misc]
    """A bar whose every display is a line of its own."""

    def set_postfix(self, *values: Any, refresh: bool = True, **named: Any) -> None:  # noqa: ARG002
        super().set_postfix(*values, refresh=False, **named)  # the text goes with the next line

    def set_description(self, desc: str | None = None, refresh: bool = True) -> None:  # noqa: ARG002
        super().set_description(desc, refresh=False)

    def display(self, msg: str | None = None, pos: int | None = None) -> None:  # noqa: ARG002
        seconds = max(self.format_dict["elapsed"], 1e-9)
        rate = (self.n - self.initial) / seconds
        of = f" of {self.total}" if self.total else ""
        line = f"{self.desc.removesuffix(': ') or 'progress'}: {self.n}{of} {self.unit}s, {rate:.2f} per second"
        if self.total and rate and self.n < self.total:
            line += f", {tqdm.format_interval((self.total - self.n) / rate)} remaining"
        with suppress(OSError):  # the reader of stderr is gone
            print(line, file=sys.stderr, flush=True)
