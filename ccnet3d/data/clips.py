"""Which frames make a clip: pure index arithmetic, no images."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from ccnet3d.errors import UserError

__all__ = ["Clip", "clip_around", "clip_at", "covering_clips", "split_at_gaps", "split_sequences"]


class Clip(NamedTuple):
    """T frame indices, and which of them count."""

    indices: tuple[int, ...]
    """Frame indices in time order; padding repeats the last frame of the segment."""
    counted: tuple[bool, ...]
    """False for padding and for frames counted in an earlier clip: neither in a loss nor in a metric."""


def split_at_gaps(frame_numbers: Sequence[int], max_gap_frames: int) -> list[range]:
    """Cut a sequence where consecutive labeled frames are more than ``max_gap_frames`` apart.

    >>> split_at_gaps([0, 30, 60, 600, 630], max_gap_frames=30)
    [range(0, 3), range(3, 5)]

    Args:
        frame_numbers: strictly increasing.
        max_gap_frames: largest difference of frame numbers within one segment; 0 for no limit.

    Returns:
        Segments: ranges of indices into ``frame_numbers`` that cover it.

    Raises:
        UserError: the frame numbers do not increase.
    """
    starts = [0] if frame_numbers else []
    for index in range(1, len(frame_numbers)):
        gap = frame_numbers[index] - frame_numbers[index - 1]
        if gap <= 0:
            raise UserError(f"frame numbers must increase, got {frame_numbers[index - 1]} then {frame_numbers[index]}")
        if max_gap_frames and gap > max_gap_frames:
            starts.append(index)
    return [range(a, b) for a, b in pairwise([*starts, len(frame_numbers)])]


def split_sequences(frames: Sequence[tuple[str, int]], max_gap_frames: int) -> list[range]:
    """Return the segments of several sequences, as ranges of indices.

    >>> split_sequences([("dawn", 1), ("dawn", 2), ("dusk", 3), ("dusk", 9)], max_gap_frames=1)
    [range(0, 2), range(2, 3), range(3, 4)]

    Args:
        frames: sequence and frame number of each, sorted.
        max_gap_frames: see :func:`split_at_gaps`.
    """
    segments = []
    start = 0
    for stop in range(1, len(frames) + 1):
        if stop == len(frames) or frames[stop][0] != frames[start][0]:
            numbers = [number for _, number in frames[start:stop]]
            segments += [range(start + r.start, start + r.stop) for r in split_at_gaps(numbers, max_gap_frames)]
            start = stop
    return segments


def clip_at(segment: range, start: int, length: int) -> Clip:
    """Return the clip of ``length`` frames that begins at ``start``, moved so that it stays inside its segment.

    A segment shorter than the clip is padded by repeating its last frame.

    >>> clip_at(range(10, 15), start=14, length=3).indices
    (12, 13, 14)
    """
    first = max(segment.start, min(start, segment.stop - length))
    indices = range(first, first + length)
    return Clip(
        tuple(min(index, segment.stop - 1) for index in indices),
        tuple(index < segment.stop for index in indices),
    )


def clip_around(segment: range, anchor: int, offset: int, length: int, stride: int) -> Clip:
    """Return the clip of ``length`` frames, ``stride`` apart, whose frame at ``offset`` is ``anchor``.

    Where that clip would leave the segment, the stride is reduced. If even a stride of 1 does not fit, the clip is
    moved as :func:`clip_at` does; it still contains the anchor, at another offset.

    >>> clip_around(range(10, 20), anchor=14, offset=1, length=3, stride=2).indices
    (12, 14, 16)
    """
    for step in range(stride, 0, -1):
        indices = range(anchor - offset * step, anchor + (length - offset) * step, step)
        if segment.start <= indices[0] and indices[-1] < segment.stop:
            return Clip(tuple(indices), (True,) * length)
    return clip_at(segment, anchor - offset, length)


def covering_clips(segment: range, length: int) -> list[Clip]:
    """Return clips that together count every frame of a segment exactly once.

    They follow each other without overlap, except that the last one is moved back to contain real frames rather than
    padding; frames that it repeats are not counted again.

    >>> [clip.indices for clip in covering_clips(range(0, 5), length=3)]
    [(0, 1, 2), (2, 3, 4)]
    """
    clips = []
    for start in range(segment.start, segment.stop, length):
        indices, counted = clip_at(segment, start, length)
        clips.append(Clip(indices, tuple(c and i >= start for i, c in zip(indices, counted, strict=True))))
    return clips
