"""What ``--engine ray`` shows while it works: the lines of its processes, and how far they are."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from ccnet3d.cli.options import print_now
from ccnet3d.cli.streams import print_message
from ccnet3d.progress import progress_bar
from ccnet3d.wording import count_of

__all__ = ["Progress"]


class Progress:
    """A bar on a terminal, else a line every 30 seconds; on stderr.

    Args:
        videos: how many there are.
        arguments: the command's options.
    """

    def __init__(self, videos: int, arguments: argparse.Namespace) -> None:
        self._videos, self._ended = videos, 0
        self._bar = progress_bar(unit="frame", hidden=arguments.quiet or arguments.json, desc=self._text())

    def _text(self) -> str:
        return f"{self._ended} of {count_of(self._videos, 'video')}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._bar.close()

    def video_ended(self) -> None:
        self._ended += 1
        self._bar.set_description(self._text())

    def show(self, lines: Sequence[tuple[str, str]], frames: int) -> None:
        """Print the lines of the processes, each after the name of its stream, and count frames."""
        if lines:
            with self._bar.external_write_mode(file=sys.stderr):
                for stream, line in lines:
                    (print_now if stream == "stdout" else print_message)(line)
        self._bar.update(frames)
