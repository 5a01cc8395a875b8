"""Numbers of a sequence of masks: shares of the classes, change from mask to mask, flicker."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


class MaskStatistics:
    """Take masks one after the other; at most two of them are held.

    Args:
        class_ids: the classes whose shares are wanted, each in 0 to 254.
    """

    def __init__(self, class_ids: Sequence[int]) -> None:
        self._ids = list(class_ids)
        self._previous: np.ndarray | None = None
        self._before: np.ndarray | None = None  # the one before the previous
        self.shares: list[list[float]] = []
        """Of each mask, the share of pixels of each class."""
        self.change: list[float | None] = []
        """Of each mask, the share of pixels whose class differs from the previous mask's; None for the first."""
        self.flicker: list[float | None] = []
        """Of each mask, the share of pixels that differ from both neighbours, which agree; None at both ends."""

    def add(self, mask: np.ndarray) -> None:
        """Take the next mask, uint8 ``[H, W]``; where its size is another, change and flicker are None."""
        counts = np.bincount(mask.ravel(), minlength=256)[self._ids]
        self.shares.append((counts / mask.size).tolist())
        self.flicker.append(None)
        previous, before = self._previous, self._before
        if previous is None or previous.shape != mask.shape:
            self.change.append(None)
            self._before = None
        else:
            changed = mask != previous
            self.change.append(float(changed.mean()))
            if before is not None:
                self.flicker[-2] = float((changed & (mask == before)).mean())
            self._before = previous
        self._previous = mask

    def mean_shares(self) -> list[float]:
        """The share of each class, averaged over the masks."""
        return [sum(column) / len(column) for column in zip(*self.shares, strict=True)]
