"""What the readers of other decoders than PyAV have in common: they decode forward, and are compared with PyAV."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ccnet3d.video.container import display_matrix, import_av, open_container, upright_filters
from ccnet3d.video.forks import keep_over_forks
from ccnet3d.video.integrity import broken_at, missing_bytes
from ccnet3d.video.packet_index import PacketIndex
from ccnet3d.video.playback import index_packets
from ccnet3d.video.pyav_reader import AvReader
from ccnet3d.video.types import VideoError, VideoFrame, VideoInfo, VideoReader, check_indices, ffmpeg_reason

__all__ = ["CheckedReader"]

_ROTATIONS = ("clock", "cclock")

_SAME_FRAME = 12.0
"""Mean difference of RGB levels up to which two images are the same frame, converted to RGB by two decoders."""


class CheckedReader(VideoReader):
    """A video file read by another decoder, which must find PyAV's frames; damaged files are refused.

    Frames are decoded forward only, because seeks of these decoders can miss frames.

    Args:
        path: the file.
        stream: the index of a video stream in the file; None for the one that ffmpeg chooses.

    Raises:
        VideoError: the decoder is not installed, or does not read the file exactly.
    """

    decoder: ClassVar[str]
    """The decoder's name."""

    def __init__(self, path: Path, stream: int | None = None) -> None:
        self._path = path
        self._stream_index = _check_upright(path, stream, self.decoder)
        self._reader: Any = None
        self._next = 0
        self._owner = os.getpid()
        with AvReader(path, stream) as claimed:
            self._packets = self._index(claimed)
            self._length = self._packets.packets
            rate = claimed.info.frames_per_second
            self.info = VideoInfo(path.name, path, rate, self._length, self.decoder, stream)
            seen = self._restart()
            if seen != self._length:  # as with an edit list, where decord's frames are wrong too
                raise VideoError(
                    f"{self.decoder} finds {seen} frames in {path}, which has {self._length}; use --decoder av"
                )
            colors = self._compare_colors(claimed)
            self._warnings = claimed.info.warnings + colors
            self.info.pixel_aspect = claimed.info.pixel_aspect
        self._reader = None
        self.info.warnings += self._warnings

    @abstractmethod
    def _open(self) -> Any:
        """Return the decoder's own reader of the file at its first frame; its ``len`` is the number of frames.

        Any exception means that the decoder cannot read the file.
        """

    @abstractmethod
    def _decode(self, index: int) -> tuple[float | None, np.ndarray]:
        """Return the time in seconds and the RGB image of the next frame, whose index is ``index``.

        Any exception means that the decoder cannot decode the frame.
        """

    def _reason(self, error: BaseException) -> str:
        """Return what the decoder's error says, in one line."""
        return ffmpeg_reason(error)

    def _index(self, claimed: AvReader) -> PacketIndex:
        index = index_packets(self._path, str(self._path), self._stream_index)
        if index.packets == 0:
            raise VideoError(f"{self._path} contains no decodable frame; give a video with frames")
        missing = (claimed.info.expected_frames or 0) - index.packets
        broken = missing_bytes(self._path) or broken_at(self._path) is not None
        if index.corrupt or index.read_error or missing > 0 or broken:
            raise VideoError(
                f"{self._path} is damaged or lacks frames that it claims, which {self.decoder} would hide; "
                "use --decoder av"
            )
        return index

    def _compare_colors(self, claimed: AvReader) -> list[str]:
        """Return a warning if the colors of the first frame differ from PyAV's."""
        first = next(iter(claimed), None)
        image = self._advance(0).image
        if first is None or first.image.shape != image.shape:
            raise VideoError(f"{self.decoder} decodes {self._path} at another size than PyAV; use --decoder av")
        difference = np.abs(first.image.astype(np.int16) - image)
        if difference.mean() > _SAME_FRAME:
            raise VideoError(f"{self.decoder}'s first frame of {self._path} is not that of PyAV; use --decoder av")
        if difference.any():
            return [
                f"{self.decoder}'s colors differ from PyAV's by {difference.mean():.1f} of 255 levels on average and "
                f"{difference.max()} at most in the first frame; --decoder av has the colors of ffmpeg"
            ]
        return []

    def _restart(self) -> int:
        """Open the file at its first frame; return the number of frames that the decoder finds."""
        try:
            self._reader = self._open()
        except VideoError:
            raise
        except Exception as error:  # decoders raise errors of their own, RuntimeError and more
            raise VideoError(
                f"{self.decoder} cannot read {self._path} ({self._reason(error)}); try --decoder av"
            ) from error
        keep_over_forks(self._reader)
        self._next, self._owner = 0, os.getpid()
        return len(self._reader)

    def _advance(self, index: int) -> VideoFrame:
        """Return the frame at ``index``, and decode all frames before it."""
        if self._reader is None or index < self._next or self._owner != os.getpid():
            self._restart()
        seconds, image = None, np.empty(0, np.uint8)
        while self._next <= index:
            try:
                seconds, image = self._decode(self._next)
            except VideoError:
                raise
            except Exception as error:  # as above
                raise VideoError(
                    f"{self.decoder} cannot decode frame {self._next} of {self._path} ({self._reason(error)}); "
                    "try --decoder av"
                ) from error
            self._next += 1
        return VideoFrame(index, seconds, np.ascontiguousarray(image))

    def __iter__(self) -> Iterator[VideoFrame]:
        self._check_open()
        self.info.warnings[:] = self._warnings
        return (self._frame(index) for index in range(self._length))

    def _frame(self, index: int) -> VideoFrame:
        self._check_open()
        return self._advance(index)

    def __len__(self) -> int:
        return self._length

    def clip(self, indices: Sequence[int]) -> list[VideoFrame]:
        self._check_open()
        check_indices(indices, self._length, self.info.name)
        frames = {index: self._advance(index) for index in sorted(set(indices))}
        return [frames[index] for index in indices]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_reader": None, "_next": 0}

    def close(self) -> None:
        self._closed = True
        self._reader = None


def _check_upright(path: Path, index: int | None, decoder: str) -> int:
    """Return the index of a file's video stream, which is at most rotated.

    Raises:
        VideoError: it is mirrored.
    """
    container, stream = open_container(path, str(path), index)
    chosen: int = stream.index
    try:
        stream.codec_context.thread_count = 1  # threads would have to be freed before a fork
        frame = next(iter(container.decode(stream)), None)
        filters = [] if frame is None else upright_filters(display_matrix(frame))
    except import_av().error.FFmpegError:
        return chosen  # damage, which is reported when its packets are counted
    finally:
        container.close()
    if len(filters) == 1 and filters[0][1] not in _ROTATIONS:  # two are a rotation by 180 degrees
        raise VideoError(f"{path} is mirrored or turned by an odd angle, which {decoder} ignores; use --decoder av")
    return chosen
