"""Images of kinds that Pillow does not write."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def write_png(path: Path, values: np.ndarray, bits: int) -> None:
    """Write a gray PNG of 1, 2, 4 or 8 bits, as PNG optimizers do; ``values`` are integers ``[H, W]``."""
    height, width = values.shape
    rows = np.unpackbits(values.astype(np.uint8)[..., None], axis=2)[..., 8 - bits :].reshape(height, -1)
    raw = b"".join(b"\0" + np.packbits(row).tobytes() for row in rows)
    write_png_chunks(path, width, height, bits, zlib.compress(raw))


def write_bomb(path: Path) -> None:
    """Write a PNG of a few bytes that claims 100000x100000 pixels."""
    write_png_chunks(path, 100_000, 100_000, 8, zlib.compress(bytes(1000)))


def write_png_chunks(path: Path, width: int, height: int, bits: int, data: bytes) -> None:
    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    chunks = png_chunk(b"IHDR", header) + png_chunk(b"IDAT", data) + png_chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)
