"""Aggregation of frames' counts: over all pixels, over frames or over videos, each weighted.

Axes: S samples, F frames, V videos, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

__all__ = ["Aggregation", "Samples"]

Aggregation = Literal["pixels", "frames", "videos"]
"""What a score averages over: ``pixels`` pools the counts of all frames, ``frames`` is the mean of the frames' scores,
``videos`` pools the frames of each video and is the mean of the videos' scores."""


@dataclass(frozen=True)
class Samples:
    """How often each of S samples counts each frame and each video.

    Example:
        >>> counts = torch.tensor([[1, 2], [3, 3], [0, 4]])  # right pixels of labeled pixels, for three frames
        >>> right = lambda counts: counts[..., 0].double() / counts[..., 1]
        >>> whole = Samples.whole([[0, 1], [2]])
        >>> [round(whole.aggregate(counts, right, over).item(), 3) for over in ("pixels", "frames", "videos")]
        [0.444, 0.5, 0.4]
    """

    videos: Sequence[Sequence[int]]
    """Indices of each video's frames."""
    frame_weights: Tensor
    """float64 ``[S, F]``."""
    video_weights: Tensor
    """float64 ``[S, V]``: what each video counts in means over videos."""
    exact: bool = False
    """Add values without rounding errors, so that means do not depend on the order of the frames. Too slow for many
    samples."""

    @classmethod
    def whole(cls, videos: Sequence[Sequence[int]]) -> Samples:
        """Return one sample that counts everything once."""
        frames_count = sum(len(frames) for frames in videos)
        return cls(videos, torch.ones(1, frames_count).double(), torch.ones(1, len(videos)).double(), exact=True)

    def aggregate(self, counts: Tensor, score: Callable[[Tensor], Tensor], over: Aggregation) -> Tensor:
        """Return the score of each sample.

        Args:
            counts: of each frame, integers ``[F, ...]``.
            score: from counts ``[..., *shape of a frame's counts]`` to scores ``[...]``, or ``[..., K]`` for a score
                of each class; NaN where there is nothing to score. Means leave NaN out.
            over: see :data:`Aggregation`.

        Returns:
            float64 ``[S]`` or ``[S, K]``, NaN where a sample has nothing to score.
        """
        if over == "pixels":
            return score(_pool(counts, self.frame_weights))
        if over == "frames":
            values = score(counts)
            if values.ndim == 1:
                return self._mean(values, self.frame_weights)
            return torch.stack([self._mean(column, self.frame_weights) for column in values.unbind(1)], dim=1)
        parts = [score(_pool(counts[frames], self.frame_weights[:, frames])) for frames in self.videos]
        values = torch.stack(parts, dim=1) if parts else torch.zeros_like(self.video_weights)
        return self._mean(values, self.video_weights)

    def mean_of_classes(self, values: Tensor) -> Tensor:
        """Return the mean over classes that are not NaN: ``[S, K]`` to ``[S]``."""
        return self._mean(values, torch.ones_like(values)) if self.exact else values.nanmean(-1)

    def _mean(self, values: Tensor, weights: Tensor) -> Tensor:
        """Weighted mean over the last axis of what is not NaN, NaN where all weights are 0."""
        known = torch.where(values.isnan(), 0, weights)
        products = known * values.nan_to_num(0)
        if not self.exact:
            return products.sum(-1) / known.sum(-1)
        sums = [
            (math.fsum(part), math.fsum(total)) for part, total in zip(products.tolist(), known.tolist(), strict=True)
        ]
        return torch.tensor([part / total if total else math.nan for part, total in sums], dtype=torch.double)


def _pool(counts: Tensor, weights: Tensor) -> Tensor:
    """Weighted sums of counts ``[F, ...]``: float64 ``[S, ...]``, exact below 2**53."""
    return (weights @ counts.double().flatten(1)).unflatten(1, counts.shape[1:])
