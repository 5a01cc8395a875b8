"""Overlapping clips over a stream: which frames meet, when a frame's answer is final, and how answers are blended."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, TypeVar

from torch import Tensor

Frame = TypeVar("Frame")

AnswerClip = Callable[[Sequence[Frame], Sequence[int]], Sequence[Tensor]]
"""From the T frames of a clip and the places in it that count, the logits of those places."""


def blend_weights(clip_length: int) -> list[float]:
    """Weight of each place in a clip: 1 at its ends, growing by 1 to its middle, where context is fullest."""
    return [float(min(place + 1, clip_length - place)) for place in range(clip_length)]


class ClipStream(Generic[Frame]):
    """Frames in, one blended answer for each, as soon as no clip to come can contain it.

    Clips of T frames begin at every multiple of the stride S <= T, counted from frame 0 of the video. A frame's answer
    is the mean of its clips' answers, weighted by :func:`blend_weights`. At the end, frames that no clip has covered to
    the last get one more clip, the video's last T frames, which changes no frame that is final already. A video shorter
    than a clip repeats its last frame. Causal streams instead answer every frame from the clip that ends with it, whose
    places before the video's start repeat its first frame.

    Args:
        answer: gives the logits of a clip.
        clip_length: T.
        clip_stride: S.
        causal: answer each frame from itself and those before it; S does not matter then.
        first: number of the first frame that will be pushed. From ``first + T - 1`` on, answers are those of a stream
            that began with frame 0; those before are missing or may differ.
    """

    def __init__(
        self, answer: AnswerClip[Frame], clip_length: int, clip_stride: int, *, causal: bool = False, first: int = 0
    ) -> None:
        self._answer = answer
        self._length, self._stride, self._causal = clip_length, clip_stride, causal
        self._weights = blend_weights(clip_length)
        self._recent: deque[Frame] = deque(maxlen=clip_length)
        self._count = first  # number of the next frame
        self._start = -(-first // clip_stride) * clip_stride  # of the next clip
        self._next = self._start  # the frame that is answered next
        self._sums: dict[int, Tensor] = {}  # of the frames that a clip has covered and that are not final
        self._totals: dict[int, float] = {}

    def push(self, frame: Frame) -> Iterator[tuple[int, Tensor]]:
        """Take a frame; yield number and logits of the frames that are final now, in order."""
        self._recent.append(frame)
        self._count += 1
        if self._causal:
            missing = self._length - len(self._recent)
            yield self._count - 1, self._answer([self._recent[0]] * missing + [*self._recent], [self._length - 1])[0]
        elif self._count == self._start + self._length:
            self._add(range(self._start, self._count))
            self._start += self._stride
            yield from self._take(self._start)

    def finish(self) -> Iterator[tuple[int, Tensor]]:
        """Yield the frames that are left, after the last one was pushed."""
        if self._causal:
            return
        if max(self._sums, default=self._next - 1) + 1 < self._count:
            self._add(range(self._next, self._count))
        yield from self._take(self._count)

    def _add(self, numbers: range) -> None:
        """Add what the clip of the frames at hand says of ``numbers``, the last ones in it."""
        first = self._count - len(self._recent)
        padding = [self._recent[-1]] * (self._length - len(self._recent))
        places = [number - first for number in numbers]
        for number, place, logits in zip(numbers, places, self._answer([*self._recent, *padding], places), strict=True):
            weighted = logits * self._weights[place]
            self._sums[number] = self._sums[number] + weighted if number in self._sums else weighted
            self._totals[number] = self._totals.get(number, 0.0) + self._weights[place]

    def _take(self, stop: int) -> Iterator[tuple[int, Tensor]]:
        for number in range(self._next, stop):
            yield number, self._sums.pop(number) / self._totals.pop(number)
        self._next = stop
