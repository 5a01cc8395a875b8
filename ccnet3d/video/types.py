"""What a video reader is and what it gives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import numpy as np

from ccnet3d.errors import UserError


class VideoError(UserError):
    """A source that cannot be read as a video."""


class NoLengthError(VideoError, TypeError):
    """A length that cannot be known; as a TypeError, ``list(reader)`` goes on without."""


@dataclass(frozen=True)
class VideoFrame:
    index: int
    """Number of the frame in presentation order, from 0. A lost frame leaves a gap where the file tells its place."""
    pts_seconds: float | None
    """Presentation time in seconds, None where the source has none."""
    image: np.ndarray
    """uint8 ``[H, W, 3]``, RGB, upright, contiguous."""
    damaged: bool = False
    """The decoder found the frame damaged and filled in what was missing."""


@dataclass
class VideoInfo:
    """What is known of a video; the warnings grow while it is read."""

    name: str
    """For messages and the names of outputs: the file's or folder's name, the pattern, or ``stdin``."""
    path: Path | None
    """The file or folder, None for a pattern or a pipe."""
    frames_per_second: float | None
    """Average rate, None where the source does not say."""
    expected_frames: int | None
    """Frames that the source claims to hold, None where it does not say."""
    decoder: str
    warnings: list[str] = field(default_factory=list)
    """What was wrong in the last iteration, in words for the user; complete once that came to its end."""


class VideoReader(ABC):
    """A video: iterate to get all frames in order, or ask for some by number.

    Nothing is open until the first frame is asked for, and every process opens the source for itself: a reader may be
    made before a fork, or pickled to a worker.
    """

    info: VideoInfo

    @abstractmethod
    def __iter__(self) -> Iterator[VideoFrame]:
        """All frames from the first one, anew with each call.

        Raises:
            VideoError: no frame can be decoded, or a pipe is read for the second time.
        """

    @abstractmethod
    def __len__(self) -> int:
        """Number of frames, by reading or decoding the source where its header is no proof.

        Where numbers show lost frames, those count too: every index is below the length.

        Raises:
            VideoError: the source is a pipe.
        """

    @abstractmethod
    def clip(self, indices: Sequence[int]) -> list[VideoFrame]:
        """The frames with these numbers, in any order and also repeated: the very ones that iterating gives.

        Raises:
            IndexError: a number that is negative or not below the length.
            VideoError: a frame that is lost, or a source that is a pipe.
        """

    @abstractmethod
    def close(self) -> None:
        """Free what is open; the reader gives no frame afterwards."""

    def __bool__(self) -> bool:
        return True  # not by its length, which may take a pass over the file

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def frame_ranges(indices: Sequence[int], most: int = 8) -> str:
    """Ascending frame numbers as text: ``frame 7``, ``frames 3, 12-31``; past ``most`` ranges only their count."""
    ranges: list[list[int]] = []
    for index in indices:
        if ranges and index == ranges[-1][1] + 1:
            ranges[-1][1] = index
        else:
            ranges.append([index, index])
    parts = [str(first) if first == last else f"{first}-{last}" for first, last in ranges]
    text = ", ".join(parts[:most])
    if len(parts) > most:
        text += f" and {sum(last - first + 1 for first, last in ranges[most:])} more"
    return ("frame " if len(indices) == 1 else "frames ") + text


def check_indices(indices: Sequence[int], length: int, name: str) -> None:
    """Refuse numbers that no frame has.

    Raises:
        IndexError: one is negative or not below ``length``.
    """
    for index in indices:
        if not 0 <= index < length:
            raise IndexError(f"{name} has no frame {index}; it has {length} frames, numbered from 0")


def ffmpeg_reason(error: BaseException) -> str:
    """The first line of an error's text, without the file name that FFmpeg adds."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return str(text).splitlines()[0]
