"""The checksums of FFV1: FFmpeg fills damaged slices from other frames and tells only its log."""

from __future__ import annotations

import zlib

_FOOTER = 8  # RFC 9043, section 4.9: 3 bytes of size, 1 of error status, 4 of checksum
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
_STARTS = (0, 0x79408C7A)  # of version 3, and of FFmpeg's version 4


def slices_are_sound(data: bytes) -> bool | None:
    """Whether every slice of a packet has the right checksum, None if the packet seems to have none."""
    end, slices = len(data), []
    while end > 0:
        start = end - _FOOTER - int.from_bytes(data[max(0, end - 8) : max(0, end - 5)], "big")
        if start < 0:
            return None
        slices.append(data[start:end])
        end = start
    return bool(slices) and all(any(_crc(part, start) == start for start in _STARTS) for part in slices)


def _crc(data: bytes, start: int) -> int:
    """CRC-32 with the most significant bit first: zlib's on bytes turned around, without its inversions."""
    turned = int(f"{start:032b}"[::-1], 2)
    crc = zlib.crc32(data.translate(_REVERSED), turned ^ 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{crc:032b}"[::-1], 2)


class Ffv1Check:
    """Finds the packets of a stream that cannot give the right picture.

    Args:
        codec: of the stream; those of other codecs pass.
    """

    def __init__(self, codec: str) -> None:
        self._active = codec == "ffv1"
        self._protected = self._broken = False

    def is_bad(self, data: bytes | memoryview, is_keyframe: bool) -> bool:
        """Whether a packet is damaged, or follows a damaged one before the next keyframe."""
        if not self._active:
            return False
        sound = slices_are_sound(bytes(data))
        self._protected |= sound is not None
        if self._protected and not sound:
            self._broken = True
        elif is_keyframe:
            self._broken = False
        return self._broken
