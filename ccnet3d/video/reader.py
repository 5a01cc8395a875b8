"""Videos as a stream of RGB frames, in presentation order, each decoded frame once."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

DECORD_SUFFIXES = (".mp4", ".mov", ".m4v", ".mkv", ".webm")
"""Containers that decord reads without losing frames; in others it returns wrong ones without a word."""


class VideoError(ValueError):
    """A file that cannot be read as a video."""


@dataclass(frozen=True)
class VideoFrame:
    index: int
    """Number of the frame in the stream of decoded frames, from 0."""
    pts_seconds: float | None
    """Presentation time in seconds, None where the file has none."""
    image: np.ndarray
    """uint8 ``[H, W, 3]``, RGB, upright."""


@dataclass
class VideoInfo:
    """What is known of a video; the warnings grow while it is read."""

    path: Path
    frames_per_second: float | None
    """Average rate, None where the file does not say."""
    expected_frames: int | None
    """Frames that the file claims to hold, None where it does not say."""
    decoder: str
    warnings: list[str] = field(default_factory=list)
    """What was wrong with the file, in words for the user; complete once the video was read to its end."""


class VideoReader(Protocol):
    """A video that is open: iterate to get its frames once, close it when done."""

    info: VideoInfo

    def __iter__(self) -> Iterator[VideoFrame]: ...

    def close(self) -> None: ...


def open_video(path: Path, decoder: str = "auto") -> VideoReader:
    """Open a video file.

    Args:
        path: any file with a video stream that FFmpeg knows.
        decoder: ``av`` (PyAV; right on everything measured), ``decord`` (an option for mp4, mov, mkv and webm)
            or ``auto``, which is ``av``.

    Raises:
        VideoError: missing, empty, no video in it, or a decoder that is not installed or not fit for the file.
        ValueError: an unknown decoder.
    """
    if not path.exists():
        raise VideoError(f"there is no file {path}")
    if path.is_dir():
        raise VideoError(f"{path} is a folder; give a video file")
    if path.stat().st_size == 0:
        raise VideoError(f"{path} is empty; give a video file")
    if decoder in ("auto", "av"):
        return _AvReader(path)
    if decoder == "decord":
        return _DecordReader(path)
    raise ValueError(f"unknown decoder {decoder!r}; choose auto, av or decord")


def import_av() -> Any:
    """PyAV, imported when a video is opened.

    Raises:
        VideoError: it is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise VideoError("videos need PyAV; run: pip install av") from error
    return av


class _AvReader:
    """Sequential decoding with PyAV."""

    def __init__(self, path: Path) -> None:
        av = import_av()
        self._error: type[Exception] = av.error.FFmpegError
        try:
            # Metadata in another encoding than UTF-8 is no reason to refuse a video.
            self._container: Any = av.open(str(path), metadata_errors="replace")
        except (av.error.FFmpegError, OSError) as error:
            raise VideoError(f"{path} cannot be read as a video ({_reason(error)}); give a video file") from error
        name = self._container.format.name
        # FFmpeg also opens still images, and renders plain text as a terminal.
        if name in ("image2", "tty") or (name.endswith("_pipe") and name != "webp_pipe"):
            self._container.close()
            raise VideoError(f"{path} is not a video but a still image or text (format {name}); give a video file")
        cover = av.stream.Disposition.attached_pic
        moving = [stream for stream in self._container.streams.video if not stream.disposition & cover]
        if not moving:
            self._container.close()
            raise VideoError(f"{path} has no video stream; give a file with moving pictures")
        self._stream = moving[0]
        self._stream.thread_type = "AUTO"
        rate = self._stream.average_rate
        self.info = VideoInfo(path, float(rate) if rate else None, self._stream.frames or None, "av")

    def __iter__(self) -> Iterator[VideoFrame]:
        count = corrupt = discarded = failed = 0
        reason = ""
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets, None)
                frames = [] if packet is None else packet.decode()
            except self._error as error:
                failed, reason = failed + 1, _reason(error)
                continue  # the next packet may be sound; after an error of the container there is none
            if packet is None:
                break
            discarded += packet.is_discard  # an edit list leaves it out of the presentation
            for frame in frames:
                image = frame.to_ndarray(format="rgb24")
                if frame.rotation:  # display rotation, in degrees counter-clockwise
                    image = np.ascontiguousarray(np.rot90(image, frame.rotation // 90))
                corrupt += bool(frame.is_corrupt)
                yield VideoFrame(count, frame.time, image)
                count += 1
        if failed:
            if count == 0:
                raise VideoError(f"no frame of {self.info.path} can be decoded ({reason}); the file is damaged")
            self.info.warnings.append(f"{failed} packets could not be decoded and their frames are lost: {reason}")
        if count == 0:
            raise VideoError(f"{self.info.path} holds no decodable frame; give a video with pictures")
        if corrupt:
            self.info.warnings.append(
                f"{corrupt} of {count} frames are damaged in the file and were concealed by the decoder"
            )
        # A cut file can end early without an error: compare with what it claims.
        expected = (self.info.expected_frames or 0) - discarded
        if count < expected:
            self.info.warnings.append(
                f"only {count} of the {expected} frames that the file claims could be decoded; it may be cut"
            )

    def count_frames(self) -> int:
        """Frames to present, from the packets alone; the reader is at its end then."""
        return sum(packet.size > 0 and not packet.is_discard for packet in self._container.demux(self._stream))

    def close(self) -> None:
        self._container.close()


class _DecordReader:
    """Sequential decoding with decord, for the containers in which that is right."""

    def __init__(self, path: Path) -> None:
        if path.suffix.lower() not in DECORD_SUFFIXES:
            raise VideoError(
                f"decord loses frames in {path.suffix or 'such'} files without saying so; use --decoder av for {path}"
            )
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                import decord
        except ImportError as error:
            raise VideoError(
                "the decoder decord is not installed; run: pip install decord, or use --decoder av"
            ) from error
        claimed = _AvReader(path)
        expected = claimed.count_frames()
        claimed.close()
        if expected == 0:
            raise VideoError(f"{path} holds no decodable frame; give a video with pictures")
        try:
            self._reader: Any = decord.VideoReader(str(path))
        except Exception as error:  # decord raises its own error, RuntimeError and more
            raise VideoError(f"decord cannot read {path} ({_reason(error)}); try --decoder av") from error
        if len(self._reader) != expected:  # as with an edit list, where its frames are wrong too
            raise VideoError(
                f"decord sees {len(self._reader)} frames in {path}, which has {expected}; use --decoder av"
            )
        self.info = VideoInfo(path, claimed.info.frames_per_second, expected, "decord")

    def __iter__(self) -> Iterator[VideoFrame]:
        for index in range(len(self._reader)):
            try:
                image = self._reader[index].asnumpy()
            except Exception as error:  # see above
                raise VideoError(
                    f"decord cannot decode frame {index} of {self.info.path} ({_reason(error)}); try --decoder av"
                ) from error
            yield VideoFrame(index, float(self._reader.get_frame_timestamp(index)[0]), image)

    def close(self) -> None:
        del self._reader


def _reason(error: Exception) -> str:
    """The first line of an error's text, without the file name that FFmpeg adds."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return str(text).splitlines()[0]
