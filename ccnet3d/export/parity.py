"""How far the predictions of two segmenters are apart."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import tee
from typing import NamedTuple

import numpy as np

from ccnet3d.inference import StreamingSegmenter

__all__ = ["Parity", "compare_segmenters"]


class Parity(NamedTuple):
    """Differences over all frames."""

    frames: int
    equal_pixels: float
    """Share of pixels of the same class."""
    least_equal: float
    """The same, of the frame where it is smallest."""
    largest_difference: float
    """Of the logits."""


def compare_segmenters(
    expected: StreamingSegmenter, other: StreamingSegmenter, frames: Iterable[np.ndarray], working_size: tuple[int, int]
) -> Parity:
    """Compare the predictions of two segmenters frame by frame.

    Args:
        expected: for example PyTorch's.
        other: what it is compared with.
        frames: uint8 ``[H, W, 3]``, RGB.
        working_size: of both.
    """
    shares: list[float] = []
    largest = 0.0
    streams = [
        segmenter.predict(some, working_size=working_size)
        for segmenter, some in zip((expected, other), tee(frames), strict=True)
    ]
    for a, b in zip(*streams, strict=True):
        largest = max(largest, float((a.logits - b.logits).abs().max()))
        shares.append(float(np.mean(a.mask() == b.mask())))
    return Parity(len(shares), float(np.mean(shares)), min(shares, default=0.0), largest)
