"""Damage that FFmpeg does not report: lost bytes, broken container structure, wrong FFV1 checksums.

FFmpeg skips to the next sound part of a container, and replaces damaged FFV1 slices with those of other frames; it
reports both only in its log.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import BinaryIO

__all__ = ["Ffv1Check", "broken_at", "missing_bytes", "starts_with_media_data"]

_HEAD = 64
_CLUSTER = bytes.fromhex("1f43b675")
# RFC 9559, section 5: the elements of a segment and of a cluster; EBML's Void and CRC-32 may be anywhere.
_SEGMENT_PARTS = frozenset(
    map(
        bytes.fromhex,
        ("114d9b74", "1549a966", "1654ae6b", "1c53bb6b", "1043a770", "1254c367", "1941a469", "1f43b675", "ec", "bf"),
    )
)
_CLUSTER_PARTS = frozenset(map(bytes.fromhex, ("e7", "a3", "a0", "a7", "ab", "5854", "af", "ec", "bf")))
_TS_PACKET = 188
_FLV_TAGS = (8, 9, 18)  # audio, video, data
# RFC 9043, section 4.9: 3 bytes of size, 1 of error status, 4 of checksum.
_FFV1_FOOTER = 8
_FFV1_CRC_STARTS = (0, 0x79408C7A)  # of version 3, and of FFmpeg's version 4
_REVERSED_BITS = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def missing_bytes(path: Path) -> int:
    """Return the number of missing bytes according to the headers (MP4 boxes, Matroska segment, RIFF)."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(_HEAD)
        if head[4:8] == b"ftyp":
            return max(0, _end_of_boxes(file, size) - size)
        if head[:4] == b"RIFF":
            return max(0, 8 + int.from_bytes(head[4:8], "little") - size)
        if head[:4] == b"\x1aE\xdf\xa3":
            return max(0, _end_of_segment(head) - size)
    return 0


def broken_at(path: Path) -> int | None:
    """Return the offset in bytes where the structure of a Matroska, MPEG-TS or FLV file breaks.

    Returns:
        None if the structure is sound, or for other formats.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(4 * _TS_PACKET)
        if head[:4] == b"\x1aE\xdf\xa3":
            return _broken_matroska(file, head, size)
        if head[:3] == b"FLV":
            return _broken_flv(file, size)
        if len(head) == 4 * _TS_PACKET and set(head[::_TS_PACKET]) == {0x47}:
            return _broken_ts(file, size)
    return None


def _broken_matroska(file: BinaryIO, head: bytes, size: int) -> int | None:
    length, start = _ebml_size(head, 4)
    _, position = _ebml_size(head, start + length + 4)
    cluster_end = size
    while position < size:
        file.seek(position)
        head = file.read(12)
        identity = head[: 9 - head[0].bit_length()]
        length, start = _ebml_size(head, len(identity))
        end = position + start + length
        in_cluster = identity in _CLUSTER_PARTS
        if identity not in _SEGMENT_PARTS and not in_cluster:
            return position
        if identity == _CLUSTER:
            cluster_end = end if length else size
            position += start
        elif end > size or (in_cluster and end > cluster_end):
            return position
        else:
            position = end
    return None


def _broken_flv(file: BinaryIO, size: int) -> int | None:
    position = 13
    while position < size:
        file.seek(position)
        tag = file.read(4)
        length = 11 + int.from_bytes(tag[1:], "big")
        file.seek(position + length)
        if tag[0] & 31 not in _FLV_TAGS or int.from_bytes(file.read(4), "big") != length:
            return position
        position += length + 4
    return None


def _broken_ts(file: BinaryIO, size: int) -> int | None:
    file.seek(0)
    position = 0
    while chunk := file.read(_TS_PACKET << 13):
        marks = chunk[::_TS_PACKET]
        if marks.count(0x47) < len(marks):
            return position + _TS_PACKET * next(n for n, mark in enumerate(marks) if mark != 0x47)
        position += len(chunk)
    return size - size % _TS_PACKET if size % _TS_PACKET else None


def starts_with_media_data(head: bytes) -> bool:
    """Return whether an MP4 file has its index after the media data, so that it cannot be read from a pipe."""
    position = 0
    while head[4:8] == b"ftyp" and position + 8 <= len(head):
        kind = head[position + 4 : position + 8]
        if kind in (b"mdat", b"moov"):
            return kind == b"mdat"
        position += max(8, int.from_bytes(head[position : position + 4], "big"))
    return False


def _end_of_boxes(file: BinaryIO, size: int) -> int:
    """Return the end of the last top-level box that starts in the file (ISO/IEC 14496-12, section 4.2)."""
    position = 0
    while position + 8 <= size:
        file.seek(position)
        head = file.read(16)
        length = int.from_bytes(head[:4], "big")
        if not head[4:8].isalnum():
            break  # not a box; FFmpeg stops here too
        if length == 1:
            length = int.from_bytes(head[8:], "big")
        if length < 8:  # 0: to the end of the file
            break
        position += length
    return position


def _end_of_segment(head: bytes) -> int:
    """Return the end of the segment after the EBML header (RFC 8794), 0 if its size is unknown, as when live."""
    length, start = _ebml_size(head, 4)
    start += length
    if head[start : start + 4] != b"\x18S\x80g":
        return 0
    length, start = _ebml_size(head, start + 4)
    return 0 if length == 0 else start + length


def _ebml_size(head: bytes, position: int) -> tuple[int, int]:
    """Return a variable-length size, 0 if unknown, and its end."""
    if position >= len(head) or head[position] == 0:
        return 0, position
    width = 9 - head[position].bit_length()
    value = int.from_bytes(head[position : position + width], "big") & ((1 << 7 * width) - 1)
    return (0 if value == (1 << 7 * width) - 1 else value), position + width


class Ffv1Check:
    """Find the packets of a stream that cannot be decoded correctly, by the checksums of FFV1.

    Args:
        codec: the stream's codec; packets of other codecs than ``ffv1`` are never bad.
    """

    def __init__(self, codec: str) -> None:
        self._active = codec == "ffv1"
        self._has_checksums = self._broken = False

    def is_bad(self, data: bytes | memoryview, is_keyframe: bool) -> bool:
        """Return whether a packet is damaged, or follows a damaged one before the next keyframe."""
        if not self._active:
            return False
        sound = _ffv1_slices_are_sound(bytes(data))
        self._has_checksums |= sound is not None
        if self._has_checksums and not sound:
            self._broken = True
        elif is_keyframe:
            self._broken = False
        return self._broken


def _ffv1_slices_are_sound(packet: bytes) -> bool | None:
    """Return whether every slice of a packet has the right checksum, None if it seems to have none."""
    end, slices = len(packet), []
    while end > 0:
        start = end - _FFV1_FOOTER - int.from_bytes(packet[max(0, end - 8) : max(0, end - 5)], "big")
        if start < 0:
            return None
        slices.append(packet[start:end])
        end = start
    return bool(slices) and all(any(_ffv1_crc(part, start) == start for start in _FFV1_CRC_STARTS) for part in slices)


def _ffv1_crc(data: bytes, start: int) -> int:
    """Return the CRC-32 with the most significant bit first: zlib's on reversed bits, without its inversions."""
    reversed_start = int(f"{start:032b}"[::-1], 2)
    crc = zlib.crc32(data.translate(_REVERSED_BITS), reversed_start ^ 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{crc:032b}"[::-1], 2)
