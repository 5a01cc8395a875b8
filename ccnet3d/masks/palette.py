"""Masks with the colors of their classes: palette PNGs, and masks painted over their frame."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from ccnet3d.images import read_ids
from ccnet3d.masks.mask_format import OTHER, Palette

__all__ = ["color_table", "decode_mask", "encode_mask", "encode_png", "paint"]


def color_table(palette: Palette) -> np.ndarray:
    """Return the RGB of every possible id, uint8 ``[256, 3]``; ids without a class are black."""
    table = np.zeros((256, 3), np.uint8)
    table[: len(palette)] = palette
    return table


def encode_png(image: Image.Image) -> bytes:
    """Return an image as the bytes of a PNG, compressed for speed."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=2)
    return buffer.getvalue()


def encode_mask(mask: np.ndarray, palette: Palette) -> bytes:
    """Return a mask as a palette PNG whose pixel values are the class ids.

    Args:
        mask: uint8 ``[H, W]``.
        palette: RGB of each class; ids without a class are black.
    """
    image = Image.fromarray(mask)
    image.putpalette(color_table(palette).tobytes())
    return encode_png(image)


def decode_mask(path: Path) -> np.ndarray:
    """Read a file of :func:`encode_mask`: the mask, uint8 ``[H, W]``.

    Raises:
        UserError: the file is something else, or damaged.
    """
    return read_ids(path, kind="mask", palette_only=True)


def paint(image: np.ndarray, mask: np.ndarray, palette: Palette, opacity: float = 0.5) -> np.ndarray:
    """Paint the classes over a frame; pixels of the id OTHER stay as they are.

    Args:
        image: uint8 ``[H, W, 3]``, RGB.
        mask: uint8 ``[H, W]``.
        palette: RGB of each class.
        opacity: share of the class color, in [0, 1].

    Returns:
        uint8 ``[H, W, 3]``.

    >>> frame = np.full((1, 2, 3), 100, np.uint8)
    >>> paint(frame, np.array([[0, 255]], np.uint8), [(200, 0, 0)]).tolist()
    [[[150, 50, 50], [100, 100, 100]]]
    """
    share = round(256 * opacity)  # in 256ths, so that products fit into 16-bit integers
    colors = color_table(palette).astype(np.uint16) * share + 128
    keep = np.full(256, 256 - share, np.uint16)
    colors[OTHER], keep[OTHER] = 0, 256
    # take() is several times as fast as indexing with an array
    mixed = image * keep.take(mask)[..., None]
    mixed += colors.take(mask, axis=0)
    return (mixed >> 8).astype(np.uint8)
