"""Animated WebP files, which FFmpeg does not decode, read with Pillow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from ccnet3d.video.types import VideoError, VideoFrame, VideoInfo, VideoReader, check_indices, ffmpeg_reason

__all__ = ["AnimationReader", "is_animated_webp"]

_ANIMATION_FLAG = 2


def is_animated_webp(head: bytes) -> bool:
    """Return whether a file that starts with ``head`` is a WebP animation (RFC 9649, section 2.7.1)."""
    return head[:4] == b"RIFF" and head[8:16] == b"WEBPVP8X" and bool(head[20:21] and head[20] & _ANIMATION_FLAG)


class AnimationReader(VideoReader):
    """An animation that Pillow reads.

    Raises:
        VideoError: the file cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            with Image.open(path) as image:
                count = int(getattr(image, "n_frames", 1))
        except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError, struct.error and more
            raise VideoError(f"{path} cannot be read as an animation ({ffmpeg_reason(error)})") from error
        self.info = VideoInfo(path.name, path, None, count, "pillow")

    def __iter__(self) -> Iterator[VideoFrame]:
        self._check_open()
        self.info.warnings.clear()
        return self._read()

    def _read(self) -> Iterator[VideoFrame]:
        count = len(self)
        with Image.open(self._path) as image:
            for index in range(count):
                self._check_open()
                try:
                    yield _frame(image, index, self._path)
                except VideoError as error:
                    if index == 0:
                        raise
                    self.info.warnings.append(f"only {index} of the {count} frames could be decoded: {error}")
                    return

    def __len__(self) -> int:
        return self.info.expected_frames or 0

    def clip(self, indices: Sequence[int]) -> list[VideoFrame]:
        self._check_open()
        check_indices(indices, len(self), self.info.name)
        with Image.open(self._path) as image:
            frames = {index: _frame(image, index, self._path) for index in sorted(set(indices))}
        return [frames[index] for index in indices]

    def close(self) -> None:
        self._closed = True


def _frame(image: Image.Image, index: int, path: Path) -> VideoFrame:
    """Return a frame without its transparency.

    Raises:
        VideoError: it cannot be decoded.
    """
    try:
        image.seek(index)
        pixels = np.array(image.convert("RGB"))
    except MemoryError:
        raise
    except Exception as error:  # as above
        raise VideoError(f"frame {index} of {path} cannot be decoded ({ffmpeg_reason(error)})") from error
    milliseconds = image.info.get("timestamp")
    return VideoFrame(index, None if milliseconds is None else milliseconds / 1000, pixels)
