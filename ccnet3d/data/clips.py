"""Which frames make a clip: pure index arithmetic, no images."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from ccnet3d.errors import UserError


class Clip(NamedTuple):
    """T positions in a list of frames, and which of them count."""

    indices: tuple[int, ...]
    """Positions, in time order; a padded place repeats its neighbour."""
    counted: tuple[bool, ...]
    """False where a place is padding or was already counted in another clip: never in a loss or a metric."""


def split_at_gaps(frame_numbers: Sequence[int], max_gap_frames: int) -> list[range]:
    """Cut a sequence where consecutive labelled frames are more than ``max_gap_frames`` apart.

    Args:
        frame_numbers: strictly increasing.
        max_gap_frames: largest difference of numbers within one segment; 0 for no limit.

    Returns:
        Ranges of positions that cover the sequence.

    Raises:
        ValueError: the numbers do not increase.
    """
    starts = [0] if frame_numbers else []
    for position in range(1, len(frame_numbers)):
        gap = frame_numbers[position] - frame_numbers[position - 1]
        if gap <= 0:
            raise UserError(
                f"frame numbers must increase, got {frame_numbers[position - 1]} then {frame_numbers[position]}"
            )
        if max_gap_frames and gap > max_gap_frames:
            starts.append(position)
    return [range(a, b) for a, b in pairwise([*starts, len(frame_numbers)])]


def clip_at(segment: range, start: int, length: int) -> Clip:
    """The clip of ``length`` frames that begins at ``start``, moved so that it stays inside its segment.

    A segment shorter than the clip is padded by repeating its last frame.
    """
    first = max(segment.start, min(start, segment.stop - length))
    places = range(first, first + length)
    return Clip(
        tuple(min(place, segment.stop - 1) for place in places),
        tuple(place < segment.stop for place in places),
    )


def clip_around(segment: range, anchor: int, offset: int, length: int, stride: int) -> Clip:
    """The clip of ``length`` frames, ``stride`` apart, whose frame number ``offset`` is ``anchor``.

    Where that would leave the segment, the frames lie nearer to each other, and at last the clip is moved as
    :func:`clip_at` does; it holds the anchor all the same.
    """
    for step in range(stride, 0, -1):
        places = range(anchor - offset * step, anchor + (length - offset) * step, step)
        if segment.start <= places[0] and places[-1] < segment.stop:
            return Clip(tuple(places), (True,) * length)
    return clip_at(segment, anchor - offset, length)


def covering_clips(segment: range, length: int) -> list[Clip]:
    """Clips that count every frame of a segment exactly once.

    They stand end to end; the last one reaches back for real frames, which then do not count again.
    """
    clips = []
    for start in range(segment.start, segment.stop, length):
        indices, counted = clip_at(segment, start, length)
        clips.append(Clip(indices, tuple(c and i >= start for i, c in zip(indices, counted, strict=True))))
    return clips
