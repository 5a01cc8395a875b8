"""Which packets of H.264 contain the second field of a frame, whose first field is in a packet of its own (PAFF)."""

from __future__ import annotations

from collections.abc import Iterator

__all__ = ["SecondFields"]

_HIGH_PROFILES = (100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135)
_IDR, _SPS = 5, 7
_SLICES = (1, _IDR)
_HEAD = 64  # bytes of a slice that contain its header up to the fields


class SecondFields:
    """Find second fields; packets must be passed in decoding order.

    Args:
        extradata: the stream's parameter sets, as in avcC or with start codes.
    """

    def __init__(self, extradata: bytes) -> None:
        self._length_size = (extradata[4] & 3) + 1 if extradata[:1] == b"\1" and len(extradata) > 6 else 0
        self._number_bits = 0  # of frame_num; 0 if there are no fields
        self._separate_planes = False
        self._first: tuple[int, int] | None = None  # frame_num and parity of a field without its second one
        units = [extradata[8:]] if self._length_size else _split(extradata)
        for unit in units:
            if unit and unit[0] & 31 == _SPS:
                self._read_sps(_Bits(unit[1:]))
                break

    def is_second(self, packet: bytes | memoryview) -> bool:
        """Return whether a packet contains a second field only."""
        if not self._number_bits:
            return False
        field = next((self._field(unit) for unit in self._units(packet) if unit[0] & 31 in _SLICES), None)
        if field is None:
            self._first = None
            return False
        frame_number, parity, idr = field
        second = self._first == (frame_number, 1 - parity) and not idr
        self._first = None if second or parity < 0 else (frame_number, parity)
        return second

    def _units(self, packet: bytes | memoryview) -> Iterator[bytes]:
        if not self._length_size:
            yield from (unit for unit in _split(bytes(packet)) if unit)
            return
        position, size = 0, self._length_size
        while position + size < len(packet):
            length = int.from_bytes(packet[position : position + size], "big")
            yield bytes(packet[position + size : position + size + max(1, min(length, _HEAD))])
            position += size + length

    def _field(self, unit: bytes) -> tuple[int, int, bool]:
        """Return a slice's frame_num, its parity (1 for a bottom field, -1 for a frame), and whether it is an IDR."""
        bits = _Bits(unit[1:_HEAD])
        for _ in range(3):  # first macroblock, type, picture parameter set
            bits.ue()
        if self._separate_planes:
            bits.u(2)
        frame_number = bits.u(self._number_bits)
        parity = bits.u(1) if bits.u(1) else -1
        return frame_number, parity, unit[0] & 31 == _IDR

    def _read_sps(self, bits: _Bits) -> None:
        """Read a sequence parameter set up to frame_mbs_only_flag (ITU-T H.264, section 7.3.2.1.1)."""
        profile = bits.u(24) >> 16
        bits.ue()
        if profile in _HIGH_PROFILES:
            chroma = bits.ue()
            self._separate_planes = chroma == 3 and bool(bits.u(1))
            bits.ue()
            bits.ue()
            bits.u(1)
            if bits.u(1):
                for number in range(12 if chroma == 3 else 8):
                    if bits.u(1):
                        bits.skip_scaling_list(16 if number < 6 else 64)
        number_bits = bits.ue() + 4
        order = bits.ue()
        if order == 0:
            bits.ue()
        elif order == 1:
            bits.u(1)
            bits.ue()
            bits.ue()
            for _ in range(min(bits.ue(), 255)):
                bits.ue()
        bits.ue()
        bits.u(1)
        bits.ue()
        bits.ue()
        frames_only = bits.u(1)
        self._number_bits = 0 if frames_only else number_bits


class _Bits:
    """Bits of a NAL unit; those after its end are 1, so that every code ends."""

    def __init__(self, payload: bytes) -> None:
        payload = payload.replace(b"\0\0\3", b"\0\0")
        self._value, self._left = int.from_bytes(payload, "big"), 8 * len(payload)

    def u(self, width: int) -> int:
        self._left -= width
        value = self._value >> self._left if self._left >= 0 else -1
        return value & ((1 << width) - 1)

    def ue(self) -> int:
        """Return an unsigned Exp-Golomb code (section 9.1)."""
        zeros = 0
        while not self.u(1):
            zeros += 1
        return (1 << zeros) - 1 + self.u(zeros)

    def skip_scaling_list(self, size: int) -> None:
        """Skip a scaling list (section 7.3.2.1.1.1)."""
        last = following = 8
        for _ in range(size):
            if following:
                code = self.ue()
                following = (last + ((code + 1) // 2 if code % 2 else -(code // 2))) % 256
            last = following or last


def _split(data: bytes) -> list[bytes]:
    """Return NAL units between start codes."""
    return data.split(b"\0\0\1")[1:]
