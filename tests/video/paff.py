"""An H.264 stream with two field pictures per frame (PAFF), which x264 cannot write: uncompressed macroblocks."""

from __future__ import annotations

import numpy as np

__all__ = ["paff_stream"]


class _Bits:
    def __init__(self) -> None:
        self._bits = ""

    def put(self, value: int, width: int) -> None:
        self._bits += f"{value:0{width}b}"

    def ue(self, *values: int) -> None:
        """Append Exp-Golomb codes (ITU-T H.264, section 9.1)."""
        for value in values:
            self.put(value + 1, 2 * (value + 1).bit_length() - 1)

    def align(self, bit: int = 0) -> None:
        self._bits += str(bit) + "0" * (-(len(self._bits) + 1) % 8) if bit else "0" * (-len(self._bits) % 8)

    def data(self) -> bytes:
        return int(self._bits, 2).to_bytes(len(self._bits) // 8, "big")


def _unit(head: int, payload: bytes) -> bytes:
    """Return a NAL unit with start code and emulation prevention (section 7.4.1)."""
    out, zeros = bytearray(), 0
    for byte in payload:
        if zeros >= 2 and byte <= 3:
            out.append(3)
            zeros = 0
        out.append(byte)
        zeros = zeros + 1 if byte == 0 else 0
    return b"\0\0\0\1" + bytes([head]) + bytes(out)


def paff_stream(images: list[np.ndarray], rate: int) -> bytes:
    """Encode gray images, uint8 ``[32, 16]``: every field is one macroblock of type I_PCM."""
    sps = _Bits()
    sps.put(77, 8)  # Main profile
    sps.put(0, 8)
    sps.put(30, 8)  # level 3
    sps.ue(0, 0, 2, 1)  # id, 4 bits of frame_num, order of pictures as decoded, 1 reference frame
    sps.put(0, 1)
    sps.ue(0, 0)  # 1 macroblock wide, 1 map unit (2 macroblocks of a frame) high
    sps.put(0, 1)  # fields are allowed
    sps.put(0, 1)  # no adaptive macroblocks
    sps.put(1, 1)
    sps.put(0, 1)
    sps.put(1, 1)  # VUI: nothing but the rate of fields
    sps.put(0, 4)
    sps.put(1, 1)
    sps.put(1, 32)
    sps.put(2 * rate, 32)
    sps.put(1, 1)
    sps.put(0, 4)
    sps.align(1)
    pps = _Bits()
    pps.ue(0, 0)
    pps.put(0, 2)
    pps.ue(0, 0, 0)
    pps.put(0, 3)
    pps.ue(0, 0, 0)
    pps.put(0, 3)
    pps.align(1)
    stream = b""
    for image in images:
        stream += _unit(9, b"\xf0") + _unit(0x67, sps.data()) + _unit(0x68, pps.data())
        stream += _unit(0x65, _field(image[0::2], 0)) + _unit(9, b"\xf0") + _unit(0x61, _field(image[1::2], 1))
    return stream


def _field(pixels: np.ndarray, bottom: int) -> bytes:
    bits = _Bits()
    bits.ue(0, 7, 0)  # first macroblock, only I slices, PPS
    bits.put(0, 4)
    bits.put(1, 1)
    bits.put(bottom, 1)
    if not bottom:
        bits.ue(0)  # id of an IDR picture
        bits.put(0, 2)
    else:
        bits.put(0, 1)
    bits.ue(0)  # se(0): no change of the quantizer
    bits.ue(25)  # I_PCM
    bits.align()
    head = bits.data()
    tail = b"\x80"
    return head + pixels.tobytes() + bytes([128]) * 128 + tail
