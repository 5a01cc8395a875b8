"""Flicker: pixels whose prediction changes and changes back. Needs no labels."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from ccnet3d.metrics.meter import Meter

__all__ = ["Flicker", "flicker_mask"]

Ids = TypeVar("Ids", np.ndarray, Tensor)


def flicker_mask(before: Ids, last: Ids, now: Ids) -> Ids:
    """Return where a class differs from the frame before and the frame after, which agree.

    Args:
        before: class ids of three consecutive frames, integers ``[H, W]``.
        last: the frame in the middle.
        now: the frame after it.

    Returns:
        bool ``[H, W]``, of the frame in the middle.

    Example:
        >>> flicker_mask(np.array([[0, 0, 0]]), np.array([[0, 1, 1]]), np.array([[0, 0, 1]])).tolist()
        [[False, True, False]]
    """
    return (last != before) & (now == before)


class Flicker(Meter):
    """Counts the pixels that are A in one frame, B in the next and A again in the one after it, with A other than B.

    The score is their share of all pixels of all frames with a frame before and after them; lower is better. What
    moves through a pixel changes it once; an undecided prediction changes it and changes it back.

    Example:
        >>> meter = Flicker()
        >>> [meter.update(torch.tensor([ids])).tolist() for ids in ([0, 0], [0, 1], [0, 0])]
        [[0, 0], [0, 0], [1, 2]]
    """

    def __init__(self) -> None:
        self.start_segment()

    def start_segment(self) -> None:
        self._before: Tensor | None = None
        self._last: Tensor | None = None

    def update(self, prediction: Tensor, labels: Tensor | None = None, image: Tensor | None = None) -> Tensor:
        """Count the next frame; the labels do not matter.

        Returns:
            int64 ``[2]``: pixels that changed in the frame before and change back in this one, of how many; 0 of 0 for
            the first two frames of a segment.

        Raises:
            ValueError: the size differs from the frame before.
        """
        if self._last is not None and prediction.shape != self._last.shape:
            raise ValueError(
                f"the frames of a segment must have one size, got {tuple(self._last.shape)} and "
                f"{tuple(prediction.shape)}; call start_segment() between segments"
            )
        counts = torch.zeros(2, dtype=torch.long)
        if self._before is not None and self._last is not None:
            flickers = flicker_mask(self._before, self._last, prediction)
            counts = torch.tensor([int(flickers.sum()), flickers.numel()])
        self._before, self._last = self._last, prediction
        return counts
