"""Which frames of a video are segmented."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ccnet3d.errors import UserError
from ccnet3d.video import VideoFrame

__all__ = ["Moment", "Selection", "parse_moment"]

Moment = int | float
"""A frame index (int), or seconds since the first frame (float)."""

_CLOCK = re.compile(r"(?:(?:(\d+):)?(\d+):)?(\d+(?:\.\d*)?|\.\d+)")


def parse_moment(text: str) -> Moment:
    """Parse a frame index, such as ``250``, or a time: ``10s``, ``10.5``, ``1:30``, ``1:02:03.5``.

    Raises:
        UserError: anything else.

    >>> parse_moment("250"), parse_moment("1:30")
    (250, 90.0)
    """
    if text.isdecimal():
        return int(text)
    match = _CLOCK.fullmatch(text.removesuffix("s"))
    if not match:
        raise UserError(f"expected a frame index such as 250, or a time such as 10s, 10.5 or 1:02:03.5, got {text!r}")
    hours, minutes, seconds = (float(part or 0) for part in match.groups())
    return 3600 * hours + 60 * minutes + seconds


@dataclass(frozen=True)
class Selection:
    """Every ``stride``-th frame from ``start`` up to but not including ``end``.

    Raises:
        UserError: a value out of its range.

    >>> frames = [VideoFrame(index, index / 10, image=None) for index in range(100)]  # 10 per second
    >>> [frame.index for frame in Selection(start=0.5, end=12, stride=3).select(frames)]
    [5, 8, 11]
    """

    start: Moment = 0
    end: Moment | None = None
    """None for the video's end."""
    stride: int = 1
    """In frames."""

    def __post_init__(self) -> None:
        if self.stride < 1:
            raise UserError(f"the frame stride must be at least 1, got {self.stride}")
        for name, moment in (("start", self.start), ("end", self.end)):
            if moment is not None and not 0 <= moment < math.inf:
                raise UserError(f"{name} must be a frame index or a time, 0 or more, got {moment}")

    def indices(self, count: int | None) -> range:
        """Return the frame indices that may be selected from ``count`` frames, None for an unknown number.

        >>> Selection(start=5, end=9, stride=2).indices(8), Selection(end=1.5).indices(None)[-1] > 10**9
        (range(5, 8, 2), True)
        """
        ends = [moment for moment in (self.end, count) if isinstance(moment, int)]
        if isinstance(self.start, int):
            return range(self.start, min(ends, default=sys.maxsize), self.stride)
        return range(min(ends, default=sys.maxsize))

    def select(self, frames: Iterable[VideoFrame]) -> Iterator[VideoFrame]:
        """Yield the selected frames; none after ``end`` is read.

        Raises:
            UserError: a time for frames that have none, or a selection without a frame.
        """
        first_seconds: float | None = None
        first_index: int | None = None
        last = -1
        for frame in frames:
            if first_seconds is None:
                first_seconds = frame.pts_seconds
            if self.end is not None and _is_reached(self.end, frame, first_seconds):
                break
            last = frame.index
            if not _is_reached(self.start, frame, first_seconds):
                continue
            first_index = frame.index if first_index is None else first_index
            if (frame.index - first_index) % self.stride == 0:
                yield frame
        if first_index is None:
            before = f"; the last one before is {last}" if last >= 0 else ""
            where = f"from {self.start} on" if self.end is None else f"between start {self.start} and end {self.end}"
            raise UserError(f"no frame lies {where}{before}")


def _is_reached(moment: Moment, frame: VideoFrame, first_seconds: float | None) -> bool:
    if isinstance(moment, int):
        return frame.index >= moment
    if frame.pts_seconds is None or first_seconds is None:
        raise UserError(f"the video has no times, so {moment} seconds cannot be found; give a frame index")
    # Times are multiples of a clock tick, which floating-point seconds may miss by a rounding error.
    return frame.pts_seconds - first_seconds >= moment - 1e-6
