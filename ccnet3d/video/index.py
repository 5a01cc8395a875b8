"""Which number a decoded frame has, worked out from the packets of the file; no decoder in here."""

from __future__ import annotations

import heapq
from bisect import bisect_right
from dataclasses import dataclass

TIMED_CONTAINERS = frozenset({"mov", "mp4", "matroska", "webm"})
"""Containers (as FFmpeg calls them) whose packets carry exact presentation times."""

ONE_TO_ONE_CODECS = frozenset(
    {"h264", "hevc", "vvc", "vp8", "vp9", "av1", "mjpeg", "prores", "ffv1", "dnxhd", "png", "rawvideo", "huffyuv"}
)
"""Codecs of which a packet holds one shown frame. MPEG-4 may pack two frames into one, MPEG-2 may split one in two."""


def is_ranked(container: str, codec: str) -> bool:
    """Whether a frame's number can be the rank of its time among the packets' times."""
    return codec in ONE_TO_ONE_CODECS and not TIMED_CONTAINERS.isdisjoint(container.split(","))


def is_hidden(codec: str, head: bytes) -> bool:
    """Whether a packet that starts with ``head`` holds only a frame that is not shown (an alternate reference)."""
    if not head:
        return True
    if codec == "vp8":  # RFC 6386, section 9.1: the fifth bit is show_frame
        return not head[0] >> 4 & 1
    return False  # muxers join hidden frames of VP9 and AV1 with the shown one


class Numbering:
    """Numbers frames while packets go into a decoder and frames come out.

    Ranked, the number is the rank of the frame's time among the times of all packets: when a frame comes out, packets
    with earlier times that still wait gave none, so their numbers are lost. Otherwise frames are counted.
    """

    def __init__(self, ranked: bool) -> None:
        self.ranked = ranked
        self.sent = 0
        """Packets that should give a frame."""
        self.shown = 0
        self.misplaced = 0
        """Frames out of order, which have no number."""
        self.lost: list[int] = []
        self._next = 0
        self._last: int | None = None
        self._waiting: list[int] = []
        self._waiting_set: set[int] = set()

    def send(self, pts: int | None) -> None:
        """Note a packet before it is decoded."""
        self.sent += 1
        if not self.ranked:
            return
        if pts is None or pts in self._waiting_set:
            self.ranked = False  # times are no proof in this file: count on from here
        elif self._last is not None and pts <= self._last:
            self._lose()  # behind frames that are out already
        else:
            heapq.heappush(self._waiting, pts)
            self._waiting_set.add(pts)

    def show(self, pts: int | None) -> int | None:
        """The number of a frame that came out; None if it is out of its place and must be dropped."""
        if self.ranked and self._last is None and pts not in self._waiting_set:
            self.ranked = False  # this decoder does not hand the packets' times on
        if self.ranked:
            if pts is None or pts not in self._waiting_set:
                self.misplaced += 1
                return None
            while self._waiting[0] < pts:
                self._pop()
                self._lose()
            self._pop()
            self._last = pts
        self.shown += 1
        self._next += 1
        return self._next - 1

    def finish(self) -> None:
        """The decoder is empty: what waits is lost."""
        if self.ranked:
            for _ in range(len(self._waiting)):
                self._lose()
            self._waiting.clear()

    def _pop(self) -> None:
        self._waiting_set.remove(heapq.heappop(self._waiting))

    def _lose(self) -> None:
        self.lost.append(self._next)
        self._next += 1


@dataclass(frozen=True)
class PacketIndex:
    """The packets of a video stream after reading the whole file without decoding it."""

    pts: tuple[int, ...]
    """Times of the packets to present, ascending, in units of the stream's time base; those that have one."""
    keyframes: tuple[int, ...]
    """Times of the keyframes, ascending."""
    ranked: bool
    """Whether the times are present and unique, so that they number the frames."""
    seconds_per_tick: float
    """The stream's time base."""
    packets: int
    """Packets that should give a frame."""
    corrupt: int
    """Packets that the container marks as damaged."""
    read_error: str
    """Why reading stopped before the end, empty if it did not."""

    def keyframe_before(self, pts: int, skip: int = 0) -> int | None:
        """The last keyframe at or before ``pts``, or an earlier one past ``skip`` others; None if there is none."""
        position = bisect_right(self.keyframes, pts) - 1 - skip
        return self.keyframes[position] if position >= 0 else None
