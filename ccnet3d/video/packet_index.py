"""Frame indices from the packets of a file, without a decoder."""

from __future__ import annotations

import heapq
from bisect import bisect_right
from dataclasses import dataclass

from ccnet3d.video.h264_fields import SecondFields

__all__ = ["ONE_TO_ONE_CODECS", "FrameIndexer", "HiddenPackets", "PacketIndex", "is_ranked"]

_TIMED_CONTAINERS = frozenset({"mov", "mp4", "matroska", "webm"})
"""Containers, by FFmpeg's names, whose packets have exact presentation times."""

ONE_TO_ONE_CODECS = frozenset(
    {"h264", "hevc", "vvc", "vp8", "vp9", "av1", "mjpeg", "prores", "ffv1", "dnxhd", "png", "rawvideo", "huffyuv"}
)
"""Codecs with one shown frame per packet. MPEG-4 may put two frames into a packet, MPEG-2 may split one into two."""


def is_ranked(container: str, codec: str) -> bool:
    """Return whether a frame's index is the rank of its time among the packets' times."""
    return codec in ONE_TO_ONE_CODECS and not _TIMED_CONTAINERS.isdisjoint(container.split(","))


class HiddenPackets:
    """Find the packets of a stream that yield no frame of their own; packets must be passed in decoding order.

    Args:
        codec: the stream's codec.
        extradata: its parameter sets.
    """

    def __init__(self, codec: str, extradata: bytes | None) -> None:
        self._codec = codec
        self._fields = SecondFields(extradata or b"") if codec == "h264" else None

    def is_hidden(self, packet: bytes | memoryview) -> bool:
        """Return whether a packet contains only frames that are not shown, a second field, or nothing."""
        if not packet:
            return True
        if self._fields:
            return self._fields.is_second(packet)
        if self._codec == "vp8":  # RFC 6386, section 9.1: the fifth bit is show_frame
            return not packet[0] >> 4 & 1
        if self._codec == "vp9":
            return not any(_vp9_shows(packet[start]) for start in _vp9_frames(packet))
        return False  # a packet of AV1 always shows a frame


def _vp9_frames(packet: bytes | memoryview) -> list[int]:
    """Return where the frames of a packet start: several in a superframe (VP9 bitstream specification, annex B)."""
    last = packet[-1]
    count, width = (last & 7) + 1, (last >> 3 & 3) + 1
    index = len(packet) - 2 - count * width
    if last & 0xE0 != 0xC0 or index < 0 or packet[index] != last:
        return [0]
    starts = [0]
    for number in range(count - 1):
        at = index + 1 + number * width
        starts.append(starts[-1] + int.from_bytes(packet[at : at + width], "little"))
    return [start for start in starts if start < index]


def _vp9_shows(head: int) -> bool:
    """Return whether a frame with this first byte is shown (section 6.2; profile 3 has one more bit)."""
    bits = head << 1 if head & 0x30 == 0x30 else head
    return bool(bits & 0x08 or bits & 0x02)  # show_existing_frame, show_frame


class FrameIndexer:
    """Assign indices to frames while packets enter a decoder and frames leave it.

    If ranked, a frame's index is the rank of its time among the times of all packets: once a frame is decoded, waiting
    packets with earlier times have yielded no frame, and their indices are lost. Otherwise frames are counted.
    """

    def __init__(self, ranked: bool) -> None:
        self.ranked = ranked
        self.sent = 0
        """Packets that should yield a frame."""
        self.shown = 0
        self.misplaced = 0
        """Frames out of order, which have no index."""
        self.lost: list[int] = []
        self._next = 0
        self._last: int | None = None
        self._waiting: list[int] = []
        self._waiting_set: set[int] = set()

    def send(self, pts: int | None) -> None:
        """Register a packet before it is decoded."""
        self.sent += 1
        if not self.ranked:
            return
        if pts is None or pts in self._waiting_set:
            self.ranked = False  # the times of this file are unreliable: count from here on
        elif self._last is not None and pts <= self._last:
            self._lose()  # earlier than a frame that is already decoded
        else:
            heapq.heappush(self._waiting, pts)
            self._waiting_set.add(pts)

    def show(self, pts: int | None) -> int | None:
        """Return the index of a decoded frame, None if it is out of order and must be dropped."""
        if self.ranked and self._last is None and pts not in self._waiting_set:
            self.ranked = False  # this decoder does not pass on the packets' times
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
        """Count the waiting packets as lost, once the decoder is empty."""
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
    """The packets of a video stream, from reading the whole file without decoding it."""

    pts: tuple[int, ...]
    """Times of the packets to present that have one, ascending, in units of the stream's time base."""
    keyframes: tuple[int, ...]
    """Times of the keyframes, ascending."""
    ranked: bool
    """Whether all times exist and are unique, so that their ranks are the frame indices."""
    seconds_per_tick: float
    """The stream's time base."""
    packets: int
    """Packets that should yield a frame."""
    corrupt: int
    """Packets that the container marks as damaged, or whose checksums are wrong."""
    read_error: str
    """Why reading stopped before the end, empty if it did not."""

    def keyframe_before(self, pts: int, skip: int = 0) -> int | None:
        """Return the last keyframe at or before ``pts``, after skipping ``skip`` of them; None if there is none."""
        position = bisect_right(self.keyframes, pts) - 1 - skip
        return self.keyframes[position] if position >= 0 else None
