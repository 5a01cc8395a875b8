"""How long a file says it is: the only sign of a lost tail or middle where the packets before it are sound."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

_HEAD = 64
_CLUSTER = bytes.fromhex("1f43b675")
# RFC 9559, section 5: what a segment and a cluster hold; EBML's Void and CRC-32 may be anywhere.
_SEGMENT_PARTS = frozenset(
    map(
        bytes.fromhex,
        ("114d9b74", "1549a966", "1654ae6b", "1c53bb6b", "1043a770", "1254c367", "1941a469", "1f43b675", "ec", "bf"),
    )
)
_CLUSTER_PARTS = frozenset(map(bytes.fromhex, ("e7", "a3", "a0", "a7", "ab", "5854", "af", "ec", "bf")))
_TS_PACKET = 188
_FLV_TAGS = (8, 9, 18)  # sound, picture, data


def missing_bytes(path: Path) -> int:
    """Bytes that the file lacks by its own headers (MP4 boxes, a Matroska segment, RIFF); 0 where they do not say."""
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
    """The byte where the parts of a Matroska, MPEG-TS or FLV file stop fitting together, None if they do.

    FFmpeg looks for the next sound place and goes on there, which it tells only its log. Other formats give None.
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
    """Whether an MP4 file keeps its index behind the pictures, so that it cannot be read from a pipe."""
    position = 0
    while head[4:8] == b"ftyp" and position + 8 <= len(head):
        kind = head[position + 4 : position + 8]
        if kind in (b"mdat", b"moov"):
            return kind == b"mdat"
        position += max(8, int.from_bytes(head[position : position + 4], "big"))
    return False


def _end_of_boxes(file: BinaryIO, size: int) -> int:
    """ISO/IEC 14496-12, section 4.2: where the last top-level box that starts in the file ends."""
    position = 0
    while position + 8 <= size:
        file.seek(position)
        head = file.read(16)
        length = int.from_bytes(head[:4], "big")
        if not head[4:8].isalnum():
            break  # not a box; FFmpeg stops looking here too
        if length == 1:
            length = int.from_bytes(head[8:], "big")
        if length < 8:  # 0: to the end of the file
            break
        position += length
    return position


def _end_of_segment(head: bytes) -> int:
    """RFC 8794: where the segment behind the EBML header ends, 0 if its size is unknown (a live recording)."""
    length, start = _ebml_size(head, 4)
    start += length
    if head[start : start + 4] != b"\x18S\x80g":
        return 0
    length, start = _ebml_size(head, start + 4)
    return 0 if length == 0 else start + length


def _ebml_size(head: bytes, position: int) -> tuple[int, int]:
    """A variable-length size, 0 if unknown, and where it ends."""
    if position >= len(head) or head[position] == 0:
        return 0, position
    width = 9 - head[position].bit_length()
    value = int.from_bytes(head[position : position + width], "big") & ((1 << 7 * width) - 1)
    return (0 if value == (1 << 7 * width) - 1 else value), position + width
