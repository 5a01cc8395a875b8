"""Times of a live source: when its frames are due, and when they were taken."""

from __future__ import annotations

import math

__all__ = ["Pace", "StreamTimes"]

_LONGEST_WAIT = 1.0
"""Seconds that a frame waits for its time; if it would be more, the times have jumped."""
_LONGEST_STEP = 10.0
"""Seconds by which the times of a stream may be ahead of the clock from one frame to the next; more is a jump."""


class Pace:
    """When the frames of a live playlist are due: it delivers seconds of video at once, faster than any model.

    >>> pace = Pace()
    >>> pace.delay(0.0, now=50.0), pace.delay(0.25, now=50.0), pace.delay(0.5, now=50.25)
    (0.0, 0.25, 0.25)
    """

    def __init__(self) -> None:
        self._offset = -math.inf  # of the clock to the times of the frames

    def delay(self, frame_seconds: float, now: float) -> float:
        """Return for how many seconds a frame must wait; those after a late one are later by as much."""
        early = self._offset + frame_seconds - now
        if not 0 <= early <= _LONGEST_WAIT:
            self._offset = now - frame_seconds
            return 0.0
        return early


class StreamTimes:
    """Seconds since the first frame: by the stream's own times, and by the clock wherever these break off or jump.

    A sender that is started again begins at 0, and the times of broadcasts wrap around after 26.5 hours.

    Args:
        live: whether times may jump; the times of a file are taken as they are.

    >>> times = StreamTimes(live=True)
    >>> times.at(7.0, now=50.0), times.at(7.25, now=50.5), times.at(0.0, now=53.0), times.at(0.25, now=53.0)
    (0.0, 0.25, 3.0, 3.25)
    """

    def __init__(self, *, live: bool) -> None:
        self._live = live
        self._seconds = 0.0  # of the last frame
        self._began: float | None = None  # when the first frame came, by the clock
        self._offset: float | None = None  # to the stream's times
        self._last = (0.0, 0.0)  # the stream's time of a frame, and when it came

    def connect(self) -> None:
        """Say that the next frame is the first one of a new connection."""
        self._offset = None

    def at(self, frame_seconds: float | None, now: float) -> float:
        """Return the time of a frame; it is never less than that of the frame before.

        Args:
            frame_seconds: its time in the stream, if it has one.
            now: the clock's time in seconds.
        """
        self._began = now if self._began is None else self._began
        seconds = now - self._began
        if frame_seconds is not None:
            if self._offset is None or self._jumped(frame_seconds, now):
                self._offset = max(self._seconds, seconds) - frame_seconds
            seconds = frame_seconds + self._offset
            self._last = frame_seconds, now
        self._seconds = max(seconds, self._seconds)
        return self._seconds

    def _jumped(self, frame_seconds: float, now: float) -> bool:
        step = frame_seconds - self._last[0]
        return self._live and not 0 <= step <= now - self._last[1] + _LONGEST_STEP
