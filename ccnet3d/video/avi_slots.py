"""Times of the frames of an AVI, which has one slot per frame, in decoding order, and no times."""

from __future__ import annotations

from typing import Any

__all__ = ["AviSlots"]


class AviSlots:
    """Follow the slots of an AVI; empty ones repeat the frame before, and yield no packet.

    Args:
        reordered: whether frames leave the decoder in another order than they are stored. The times that FFmpeg gives
            them are then those of their slots, which are out of order.
    """

    def __init__(self, *, reordered: bool) -> None:
        self._reordered = reordered
        self._next: int | None = None
        self._first = 0
        self._delay: int | None = None  # slots between a frame's time and that of the packet which released it
        self._last: int | None = None

    def skip_to(self, slot: int | None) -> int:
        """Return the number of empty slots before a packet's slot, its decoding time."""
        if slot is None:
            return 0
        if self._next is None:
            self._next = self._first = slot
        empty = max(0, slot - self._next)
        self._next = slot + 1
        return empty

    def place(self, frame: Any) -> int | None:
        """Return a frame's time in slots, in the order in which frames leave the decoder."""
        if not self._reordered:
            return frame.pts
        if frame.dts is None:  # released by the end
            time = self._first if self._last is None else self._last + 1
        else:
            self._delay = frame.dts - self._first if self._delay is None else self._delay
            time = frame.dts - self._delay
        self._last = time
        return time
