"""Statistics of a sequence of masks: shares of the classes, changes between masks, flicker."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ccnet3d.metrics import flicker_mask

__all__ = ["MaskStatistics"]


class MaskStatistics:
    """Statistics of masks that arrive one by one; at most two masks are held.

    Args:
        class_ids: the classes whose shares are computed, each in 0 to 254.

    Example:
        >>> statistics = MaskStatistics([0, 1])
        >>> for row in ([0, 0, 1, 1], [0, 1, 1, 1], [0, 0, 1, 1]):
        ...     statistics.add(np.array([row], np.uint8))
        >>> statistics.change, statistics.flicker, statistics.shares[1]
        ([None, 0.25, 0.25], [None, 0.25, None], [0.25, 0.75])
    """

    def __init__(self, class_ids: Sequence[int]) -> None:
        self._ids = list(class_ids)
        self._previous: np.ndarray | None = None
        self._before: np.ndarray | None = None  # the mask before the previous one
        self.shares: list[list[float]] = []
        """For each mask, the share of pixels of each class."""
        self.change: list[float | None] = []
        """For each mask, the share of pixels whose class differs from the previous mask; None for the first."""
        self.flicker: list[float | None] = []
        """For each mask, the share of pixels that differ from both neighbors, which agree; None at both ends."""

    def add(self, mask: np.ndarray) -> None:
        """Add the next mask, uint8 ``[H, W]``; where the size changes, change and flicker are None."""
        counts = np.bincount(mask.ravel(), minlength=256)[self._ids]
        self.shares.append((counts / mask.size).tolist())
        self.flicker.append(None)
        previous, before = self._previous, self._before
        if previous is None or previous.shape != mask.shape:
            self.change.append(None)
            self._before = None
        else:
            self.change.append(float((mask != previous).mean()))
            if before is not None:
                self.flicker[-2] = float(flicker_mask(before, previous, mask).mean())
            self._before = previous
        self._previous = mask

    def mean_shares(self) -> list[float]:
        """Return the share of each class, averaged over the masks."""
        return [sum(column) / len(column) for column in zip(*self.shares, strict=True)]
