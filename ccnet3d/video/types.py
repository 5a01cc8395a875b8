"""The interface of video readers and the data they return."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Self

import numpy as np

from ccnet3d.errors import UserError
from ccnet3d.wording import count_of

__all__ = [
    "NoLengthError",
    "VideoError",
    "VideoFrame",
    "VideoInfo",
    "VideoReader",
    "check_indices",
    "ffmpeg_reason",
    "frame_ranges",
    "lost_frames",
    "size_changes",
]


class VideoError(UserError):
    """A source that cannot be read as a video."""


class NoLengthError(VideoError, TypeError):
    """An unknown length; because it is a TypeError, ``list(reader)`` works without the length."""


@dataclass(frozen=True)
class VideoFrame:
    """A decoded frame.

    >>> import numpy as np
    >>> from ccnet3d.video import VideoFrame
    >>> VideoFrame(index=3, pts_seconds=0.12, image=np.zeros((360, 480, 3), np.uint8)).damaged
    False
    """

    index: int
    """Frame index in presentation order. A lost frame leaves a gap if the file shows where it was."""
    pts_seconds: float | None
    """Presentation time in seconds, None if the source has none."""
    image: np.ndarray
    """uint8 ``[H, W, 3]``, RGB, upright, contiguous."""
    damaged: bool = False
    """Whether the decoder found damage and concealed it."""


@dataclass
class VideoInfo:
    """Properties of a video; reading it adds warnings."""

    name: str
    """For messages and the names of outputs: the name of the file or folder, the pattern, or ``stdin``."""
    path: Path | None
    """The file or folder, None for a pattern or a pipe."""
    frames_per_second: float | None
    """Average frame rate, None if unknown."""
    expected_frames: int | None
    """Number of frames according to the source, None if unknown."""
    decoder: str
    stream: int | None = None
    """Index of the video stream in the file if it was chosen by the caller, else None."""
    warnings: list[str] = field(default_factory=list)
    """Problems of the last iteration, as text for the user; complete once it has ended."""
    images: tuple[Path, ...] = ()
    """The files of a folder or pattern of images, by frame index; empty for a video."""
    still: bool = False
    """Whether the source is one image file, given by its name."""
    live: bool = False
    """Whether the source does not wait for its reader."""
    dropped_frames: int = 0
    """Frames of a live source that came faster than they were read."""
    reconnections: int = 0
    """How often a broken connection was resumed."""
    pixel_aspect: Fraction = Fraction(1)
    """Width of a pixel divided by its height, in upright frames; known once the first frame was read."""


class VideoReader(ABC):
    """A video: iterate over all frames in order, or get frames by index.

    The source is opened when the first frame is needed, separately in every process, so a reader may be created before
    a fork or pickled to a worker. :func:`ccnet3d.video.open_video` returns readers.

    >>> from pathlib import Path
    >>> from ccnet3d.video import open_video, write_sample_video
    >>> write_sample_video(Path("sample.mp4"), frames=5)
    >>> with open_video("sample.mp4") as reader:
    ...     len(reader), [frame.index for frame in reader], reader.clip([4, 0])[0].index
    (5, [0, 1, 2, 3, 4], 4)
    """

    info: VideoInfo
    _closed = False

    @abstractmethod
    def __iter__(self) -> Iterator[VideoFrame]:
        """Return an iterator over all frames; each call starts from the first frame.

        Raises:
            VideoError: no frame can be decoded, or a pipe is read for the second time.
        """

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of frames, by reading or decoding the source if its header is not reliable.

        Lost frames count if the frame indices show them, so every index is less than the length.

        Raises:
            VideoError: the source is a pipe.
        """

    @abstractmethod
    def clip(self, indices: Sequence[int]) -> list[VideoFrame]:
        """Return frames at the given indices, in any order and with repetitions; they equal those of an iteration.

        Raises:
            IndexError: an index is negative or not less than the length.
            VideoError: a frame is lost, or the source is a pipe.
        """

    @abstractmethod
    def close(self) -> None:
        """Free the open resources; afterwards the reader returns no frames."""

    def stop(self) -> None:  # noqa: B027 - most readers never wait
        """End an iteration in another thread that waits for the data of a pipe."""

    def _check_open(self) -> None:
        if self._closed:
            raise VideoError(f"{self.info.name} is closed; open it again")

    def __bool__(self) -> bool:
        return True  # without the length, which may need a pass over the file

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def frame_ranges(indices: Sequence[int], most: int = 8) -> str:
    """Return ascending frame indices as text: ``frame 7``, ``frames 3, 12-31``; after ``most`` ranges only a count."""
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


def lost_frames(indices: Sequence[int], verb: str) -> str:
    """Return a warning about frames that are not in the result: ``frame 7 could not be read and left a gap ...``."""
    gaps = "a gap" if len(indices) == 1 else "gaps"
    return f"{frame_ranges(indices)} could not be {verb} and left {gaps} in the numbering"


def size_changes(sizes: Sequence[tuple[int, int, int]]) -> str:
    """Return a warning about frame sizes: of each change the first frame's index, its width and height."""
    steps = ", ".join(f"{width}x{height} from frame {index}" for index, width, height in sizes[:4])
    more = f" and {count_of(len(sizes) - 4, 'more time')}" if len(sizes) > 4 else ""
    return f"the frame size changes: {steps}{more}"


def check_indices(indices: Sequence[int], length: int, name: str) -> None:
    """Check frame indices.

    Raises:
        IndexError: an index is negative or not less than ``length``.
    """
    for index in indices:
        if not 0 <= index < length:
            raise IndexError(f"{name} has no frame {index}; it has {count_of(length, 'frame')}, numbered from 0")


def ffmpeg_reason(error: BaseException) -> str:
    """Return the first line of an error's text, without the file name that FFmpeg adds."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return str(text).splitlines()[0]
