"""The size at which the model sees the frames of a video."""

from __future__ import annotations

import math
from fractions import Fraction

__all__ = ["working_size"]

_STEP = 32
"""Pixels: the coarsest features of the backbones have one cell per so many."""

_MOST_ELONGATED = 8.0
"""The longer side divided by the shorter one; attention over a strip would have nothing to look at."""


def working_size(
    frame_size: tuple[int, int], input_size: tuple[int, int], pixel_aspect: Fraction | float = 1
) -> tuple[int, int]:
    """Return the size of about the area of ``input_size`` that keeps the aspect of a frame, as (height, width).

    Each side is the one that would keep area and aspect exactly, moved to the nearest one that differs from that of
    ``input_size`` by a multiple of 32 pixels. So frames of about its own aspect are seen at ``input_size`` itself, and
    the error of the aspect is a few percent. Frames more elongated than 8:1 are seen as 8:1.

    Args:
        frame_size: height and width of the frames in pixels.
        input_size: the model's own.
        pixel_aspect: width of a frame's pixel divided by its height.

    >>> [working_size(frame_size, (608, 800)) for frame_size in [(360, 480), (1080, 1920), (1920, 1080)]]
    [(608, 800), (512, 928), (928, 512)]
    """
    height, width = input_size
    limit = max(_MOST_ELONGATED, height / width, width / height)
    aspect = min(max(frame_size[1] * float(pixel_aspect) / frame_size[0], 1 / limit), limit)
    area = height * width
    return _nearest_side(math.sqrt(area / aspect), height), _nearest_side(math.sqrt(area * aspect), width)


def _nearest_side(ideal: float, own: int) -> int:
    return max(min(own, _STEP), own + _STEP * round((ideal - own) / _STEP))
