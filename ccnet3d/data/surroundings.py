"""The frames of the videos around labeled frames, which complete their clips."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from ccnet3d.data.clips import Clip, clip_around, split_sequences
from ccnet3d.data.items import LabelledFrame

__all__ = ["Surroundings", "VideoFrame"]


class VideoFrame(NamedTuple):
    """A frame of a video, labeled or not."""

    sequence: str
    number: int
    """Frame number, as the file name says."""
    image: Path
    labeled: int | None = None
    """Its index in the dataset; None without a label."""


class Surroundings:
    """The videos in which labeled frames lie: clips of consecutive frames around each.

    >>> labeled = LabelledFrame("night", 7, Path("7.png"), Path("7_L.png"))
    >>> others = [VideoFrame("night", n, Path(f"all/{n}.png")) for n in range(3, 12)]
    >>> around = Surroundings([labeled], others, max_gap_frames=1)
    >>> [frame.number for frame in around.window(0, before=3, after=1)[0]]
    [4, 5, 6, 7, 8]
    >>> [around.frames[place].number for place in around.clip(0, offset=1, length=3, stride=2).indices]
    [5, 7, 9]

    Args:
        labeled: frames of the dataset, by their index.
        others: frames of the same videos, in any order; those of other sequences, and those that are labeled, are left
            out.
        max_gap_frames: no clip contains a larger step of frame numbers; 0 for no limit.
    """

    def __init__(self, labeled: Sequence[LabelledFrame], others: Iterable[VideoFrame], max_gap_frames: int) -> None:
        sequences = {frame.sequence for frame in labeled}
        frames = {(frame.sequence, frame.number): frame for frame in others if frame.sequence in sequences}
        self.unlabeled_images = {frame.image for frame in frames.values()}
        for index, own in enumerate(labeled):
            frames[own.sequence, own.number] = VideoFrame(own.sequence, own.number, own.image, index)
        self.frames = sorted(frames.values(), key=lambda frame: (frame.sequence, frame.number))
        self._place_of = {frame.labeled: place for place, frame in enumerate(self.frames) if frame.labeled is not None}
        segments = split_sequences([(frame.sequence, frame.number) for frame in self.frames], max_gap_frames)
        self._segment_of = {place: segment for segment in segments for place in segment}

    def __len__(self) -> int:
        """Return the number of frames without a label."""
        return len(self.frames) - len(self._place_of)

    def clip(self, index: int, offset: int, length: int, stride: int) -> Clip:
        """Return the clip, of places in ``frames``, whose frame at ``offset`` is a labeled one; see clip_around."""
        place = self._place_of[index]
        return clip_around(self._segment_of[place], place, offset, length, stride)

    def window(self, index: int, before: int, after: int) -> tuple[list[VideoFrame], int]:
        """Return a labeled frame with others before and after it, and its offset among them.

        Near the ends of a video the window is moved, so that it has as many frames where the video does.
        """
        clip = self.clip(index, before, before + after + 1, 1)
        places = sorted(set(clip.indices))  # without the padding of a short video
        return [self.frames[place] for place in places], places.index(self._place_of[index])

    def fingerprint(self) -> str:
        """Return a hash of the names of all frames."""
        names = "\n".join(f"{frame.sequence} {frame.number} {frame.image.name}" for frame in self.frames)
        return hashlib.sha256(names.encode()).hexdigest()
