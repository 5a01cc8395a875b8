"""Overlapping-clip scheduling and blending: which frames form a clip, and when a frame's prediction is final."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, TypeVar

from torch import Tensor

__all__ = ["ClipStream", "PredictClip", "blend_weights"]

Frame = TypeVar("Frame")

PredictClip = Callable[[Sequence[Frame], Sequence[int]], Sequence[Tensor]]
"""From the T frames of a clip and the offsets that are needed, the logits at those offsets."""


def blend_weights(clip_length: int) -> list[float]:
    """Return the weight of each offset in a clip: 1 at its ends, rising by 1 to its middle, where context is fullest.

    >>> blend_weights(5)
    [1.0, 2.0, 3.0, 2.0, 1.0]
    """
    return [float(min(offset + 1, clip_length - offset)) for offset in range(clip_length)]


class ClipStream(Generic[Frame]):
    """One blended prediction per frame, emitted once no later clip can include the frame.

    Clips of T frames begin at every multiple of the stride S <= T, counted from frame 0 of the video. A frame's logits
    are the mean of those of its clips, weighted by :func:`blend_weights`. At the end, frames that no clip covers yet
    get one more clip, the video's last T frames, which does not change frames that are final already. A video shorter
    than a clip repeats its last frame. A causal stream instead predicts every frame from the clip that ends with it;
    offsets before the video's start repeat its first frame.

    Args:
        predict_clip: returns the logits of a clip.
        clip_length: T.
        clip_stride: S.
        causal: predict each frame from itself and those before it; S does not matter then.
        first_index: frame index of the first frame that will be pushed. From ``first_index + T - 1`` on, predictions
            equal those of a stream that starts at frame 0; earlier ones are missing or may differ.
    """

    def __init__(
        self,
        predict_clip: PredictClip[Frame],
        clip_length: int,
        clip_stride: int,
        *,
        causal: bool = False,
        first_index: int = 0,
    ) -> None:
        self._predict_clip = predict_clip
        self._length, self._stride, self._causal = clip_length, clip_stride, causal
        self._weights = blend_weights(clip_length)
        self._recent: deque[Frame] = deque(maxlen=clip_length)
        self._count = first_index  # frame index of the next frame
        self._start = -(-first_index // clip_stride) * clip_stride  # of the next clip
        self._next = self._start  # the frame that is emitted next
        self._sums: dict[int, Tensor] = {}  # weighted logits of the frames that a clip covers and that are not final
        self._totals: dict[int, float] = {}  # and the sums of their weights

    def push(self, frame: Frame) -> Iterator[tuple[int, Tensor]]:
        """Add a frame; yield frame index and logits of the frames that are final now, in order."""
        self._recent.append(frame)
        self._count += 1
        if self._causal:
            padding = [self._recent[0]] * (self._length - len(self._recent))
            yield self._count - 1, self._predict_clip([*padding, *self._recent], [self._length - 1])[0]
        elif self._count == self._start + self._length:
            self._add_clip(range(self._start, self._count))
            self._start += self._stride
            yield from self._emit(self._start)

    def finish(self) -> Iterator[tuple[int, Tensor]]:
        """Yield the remaining frames, after the last one was pushed."""
        if self._causal:
            return
        if max(self._sums, default=self._next - 1) + 1 < self._count:
            self._add_clip(range(self._next, self._count))
        yield from self._emit(self._count)

    def _add_clip(self, indices: range) -> None:
        """Add the logits that the clip of the most recent frames has for ``indices``, the last ones in it."""
        first = self._count - len(self._recent)
        padding = [self._recent[-1]] * (self._length - len(self._recent))
        offsets = [index - first for index in indices]
        clip_logits = self._predict_clip([*self._recent, *padding], offsets)
        for index, offset, logits in zip(indices, offsets, clip_logits, strict=True):
            weighted = logits * self._weights[offset]
            self._sums[index] = self._sums[index] + weighted if index in self._sums else weighted
            self._totals[index] = self._totals.get(index, 0.0) + self._weights[offset]

    def _emit(self, stop: int) -> Iterator[tuple[int, Tensor]]:
        for index in range(self._next, stop):
            yield index, self._sums.pop(index) / self._totals.pop(index)
        self._next = stop
