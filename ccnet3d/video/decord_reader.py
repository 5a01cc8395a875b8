"""The reader based on decord, for files in which it is exact."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ccnet3d.video.container import (
    display_matrix,
    ffmpeg_url,
    import_av,
    open_container,
    upright_filters,
    video_streams,
)
from ccnet3d.video.forks import keep_over_forks
from ccnet3d.video.integrity import broken_at, missing_bytes
from ccnet3d.video.playback import index_packets
from ccnet3d.video.pyav_reader import AvReader
from ccnet3d.video.types import VideoError, VideoFrame, VideoInfo, VideoReader, check_indices, ffmpeg_reason

__all__ = ["DecordReader"]

_SUFFIXES = (".mp4", ".mov", ".m4v", ".mkv", ".webm")
"""Containers that decord reads completely; in others it silently returns wrong frames."""

_ROTATIONS = ("clock", "cclock")

_SAME_FRAME = 12.0
"""Mean difference of RGB levels up to which two images are the same frame, converted to RGB by two decoders."""


class DecordReader(VideoReader):
    """A video file. Damaged files are refused, because decord silently repeats or conceals frames in them.

    Raises:
        VideoError: decord is not installed, or does not read the file exactly.
    """

    def __init__(self, path: Path) -> None:
        if path.suffix.lower() not in _SUFFIXES:
            raise VideoError(
                f"decord silently loses frames in {path.suffix or 'such'} files; use --decoder av for {path}"
            )
        _import_decord()
        _check_simple(path)
        self._path = path
        self._times: list[float] | list[None] = []
        with AvReader(path) as claimed:
            self._length = self._count(claimed)
            self._reader: Any = None
            self._next = 0
            self._owner = os.getpid()
            rate = claimed.info.frames_per_second
            self.info = VideoInfo(path.name, path, rate, self._length, "decord")
            seen = self._open()
            if seen != self._length:  # as with an edit list, where its frames are wrong too
                raise VideoError(f"decord finds {seen} frames in {path}, which has {self._length}; use --decoder av")
            self._color_warnings = self._compare_colors(claimed)
        self._reader = None
        self.info.warnings += self._color_warnings

    def _count(self, claimed: AvReader) -> int:
        index = index_packets(self._path, str(self._path))
        if index.packets == 0:
            raise VideoError(f"{self._path} contains no decodable frame; give a video with frames")
        missing = (claimed.info.expected_frames or 0) - index.packets
        if index.corrupt or index.read_error or missing_bytes(self._path) or missing > 0 or broken_at(self._path):
            raise VideoError(f"{self._path} is damaged or truncated, which decord would hide; use --decoder av")
        known = len(index.pts) == index.packets  # decord's own times ignore a late start
        self._times = [pts * index.seconds_per_tick for pts in index.pts] if known else [None] * index.packets
        return index.packets

    def _compare_colors(self, claimed: AvReader) -> list[str]:
        """Return a warning if the colors of the first frame differ from PyAV's."""
        first = next(iter(claimed), None)
        image = self._decode(0)
        if first is None or first.image.shape != image.shape:
            raise VideoError(f"decord decodes {self._path} at another size than PyAV; use --decoder av")
        difference = np.abs(first.image.astype(np.int16) - image)
        if difference.mean() > _SAME_FRAME:
            raise VideoError(f"decord's first frame of {self._path} is not that of PyAV; use --decoder av")
        if difference.any():
            return [
                f"decord's colors differ from PyAV's by {difference.mean():.1f} of 255 levels on average and "
                f"{difference.max()} at most in the first frame; --decoder av has the colors of ffmpeg"
            ]
        return []

    def _open(self) -> int:
        """Open the file at its first frame; return the number of frames that decord finds."""
        try:
            self._reader = _import_decord().VideoReader(ffmpeg_url(self._path))
        except Exception as error:  # decord raises its own error, RuntimeError and more
            raise VideoError(f"decord cannot read {self._path} ({_reason(error)}); try --decoder av") from error
        keep_over_forks(self._reader)
        self._next, self._owner = 0, os.getpid()
        return len(self._reader)

    def _decode(self, index: int) -> np.ndarray:
        """Return the frame at ``index`` by decoding forward, because decord's seek misses frames of open GOPs."""
        if self._reader is None or index < self._next or self._owner != os.getpid():
            self._open()
        image = np.empty(0, np.uint8)
        while self._next <= index:
            try:
                image = self._reader.next().asnumpy()
            except Exception as error:  # as above
                raise VideoError(
                    f"decord cannot decode frame {self._next} of {self._path} ({_reason(error)}); try --decoder av"
                ) from error
            self._next += 1
        return np.ascontiguousarray(image)

    def _frame(self, index: int) -> VideoFrame:
        self._check_open()
        image = self._decode(index)
        return VideoFrame(index, self._times[index], image)

    def __iter__(self) -> Iterator[VideoFrame]:
        self._check_open()
        self.info.warnings[:] = self._color_warnings
        return (self._frame(index) for index in range(self._length))

    def __len__(self) -> int:
        return self._length

    def clip(self, indices: Sequence[int]) -> list[VideoFrame]:
        self._check_open()
        check_indices(indices, self._length, self.info.name)
        frames = {index: self._frame(index) for index in sorted(set(indices))}
        return [frames[index] for index in indices]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_reader": None, "_next": 0}

    def close(self) -> None:
        self._closed = True
        self._reader = None


def _check_simple(path: Path) -> None:
    """Check that a file has one video, which is at most rotated.

    Raises:
        VideoError: it has several, or is mirrored.
    """
    container, stream = open_container(path, str(path))
    try:
        if len(streams := video_streams(container)) > 1:
            raise VideoError(
                f"{path} has {len(streams)} video streams, of which decord may take another; use --decoder av"
            )
        stream.codec_context.thread_count = 1  # threads would have to be freed before a fork
        frame = next(iter(container.decode(stream)), None)
        filters = [] if frame is None else upright_filters(display_matrix(frame))
    except import_av().error.FFmpegError:
        return  # damage, which is reported when its packets are counted
    finally:
        container.close()
    if len(filters) == 1 and filters[0][1] not in _ROTATIONS:  # two are a rotation by 180 degrees
        raise VideoError(f"{path} is mirrored or turned by an odd angle, which decord ignores; use --decoder av")


def _reason(error: BaseException) -> str:
    """Return decord's message without its prefix of time and source file."""
    return re.sub(r"\[[0-9:]+\] \S+:[0-9]+: ", "", ffmpeg_reason(error))


def _import_decord() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import decord
    except ImportError as error:
        raise VideoError("the decoder decord is not installed; run: pip install decord, or use --decoder av") from error
    return decord
