"""Which frames of a video are segmented."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ccnet3d.errors import UserError
from ccnet3d.video import VideoFrame

Position = int | float
"""A frame's number (int), or seconds since the first frame (float)."""

_CLOCK = re.compile(r"(?:(?:(\d+):)?(\d+):)?(\d+(?:\.\d*)?|\.\d+)")


def parse_position(text: str) -> Position:
    """A frame's number, such as ``250``, or a time: ``10s``, ``10.5``, ``1:30``, ``1:02:03.5``.

    Raises:
        ValueError: anything else.
    """
    if text.isdecimal():
        return int(text)
    match = _CLOCK.fullmatch(text.removesuffix("s"))
    if not match:
        raise UserError(
            f"expected a frame's number such as 250, or a time such as 10s, 10.5 or 1:02:03.5, got {text!r}"
        )
    hours, minutes, seconds = (float(part or 0) for part in match.groups())
    return 3600 * hours + 60 * minutes + seconds


@dataclass(frozen=True)
class Selection:
    """Every ``stride``-th frame from ``start`` up to, and without, ``end``."""

    start: Position = 0
    end: Position | None = None
    """None for the video's end."""
    stride: int = 1
    """In frames."""

    def __post_init__(self) -> None:
        if self.stride < 1:
            raise UserError(f"the frame stride must be at least 1, got {self.stride}")
        for name, position in (("start", self.start), ("end", self.end)):
            if position is not None and not 0 <= position < math.inf:
                raise UserError(f"{name} must be a frame's number or a time from 0 on, got {position}")

    def __call__(self, frames: Iterable[VideoFrame]) -> Iterator[VideoFrame]:
        """Pass on the frames that are selected; nothing after ``end`` is asked for.

        Raises:
            ValueError: a time, for frames that have none, or a selection without a frame.
        """
        first_seconds: float | None = None
        first_number: int | None = None
        last = -1
        for frame in frames:
            if first_seconds is None:
                first_seconds = frame.pts_seconds
            if self.end is not None and self._reached(self.end, frame, first_seconds):
                break
            if not self._reached(self.start, frame, first_seconds):
                last = frame.index
                continue
            first_number = frame.index if first_number is None else first_number
            if (frame.index - first_number) % self.stride == 0:
                yield frame
            last = frame.index
        if first_number is None:
            raise UserError(
                f"no frame lies between start {self.start} and end {self.end}; the last one before is {last}"
                if last >= 0
                else f"no frame lies between start {self.start} and end {self.end}"
            )

    @staticmethod
    def _reached(position: Position, frame: VideoFrame, first_seconds: float | None) -> bool:
        if isinstance(position, int):
            return frame.index >= position
        if frame.pts_seconds is None or first_seconds is None:
            raise UserError(f"the video has no times, so that {position} seconds mean nothing; give a frame's number")
        # Times are multiples of a clock's tick, which seconds in floating point may miss by a rounding.
        return frame.pts_seconds - first_seconds >= position - 1e-6
