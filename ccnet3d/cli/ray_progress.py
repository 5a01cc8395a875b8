"""What ``--engine ray`` shows while it works: the lines of its processes, and how far they are."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from ccnet3d.cli.options import print_now
from ccnet3d.cli.streams import print_message

__all__ = ["Progress"]

_LINE_SECONDS = 30


class Progress:
    """A bar on a terminal, else a line every 30 seconds; on stderr.

    Args:
        videos: how many there are.
        arguments: the command's options.
    """

    def __init__(self, videos: int, arguments: argparse.Namespace) -> None:
        from tqdm import tqdm

        self._videos, self._ended, self._frames = videos, 0, 0
        self._hidden = arguments.quiet or arguments.json
        self._tqdm = tqdm
        self._bar = tqdm(unit="frame", disable=True if self._hidden else None, desc=f"0 of {videos} videos")
        self._spoken = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._bar.close()

    def video_ended(self) -> None:
        self._ended += 1
        self._bar.set_description(f"{self._ended} of {self._videos} videos")

    def show(self, lines: Sequence[tuple[str, str]], frames: int) -> None:
        """Print the lines of the processes, each after the name of its stream, and count frames."""
        if lines:
            with self._tqdm.external_write_mode(file=sys.stderr):
                for stream, line in lines:
                    (print_now if stream == "stdout" else print_message)(line)
        self._frames += frames
        self._bar.update(frames)
        if self._bar.disable and not self._hidden and time.monotonic() - self._spoken >= _LINE_SECONDS:
            self._spoken = time.monotonic()
            print_message(f"{self._ended} of {self._videos} videos, {self._frames} frames")
