"""Open any source as a video."""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

from ccnet3d.errors import UserError
from ccnet3d.video.animation_reader import AnimationReader, is_animated_webp
from ccnet3d.video.decord_reader import DecordReader
from ccnet3d.video.file_kinds import is_image
from ccnet3d.video.image_reader import ImageReader, images_by_pattern, images_in_folder
from ccnet3d.video.live_reader import LiveReader
from ccnet3d.video.pipe import is_pipe, open_pipe
from ccnet3d.video.pyav_reader import AvReader
from ccnet3d.video.torchcodec_reader import TorchCodecReader
from ccnet3d.video.types import VideoError, VideoReader, ffmpeg_reason
from ccnet3d.video.urls import is_address

__all__ = ["open_video"]

_WILDCARDS = frozenset("*?[")
_HEAD = 32
_FILES_ONLY = ("decord", "torchcodec")
"""Decoders that read each frame from a file, more than once if need be."""


def open_video(
    source: Path | str | BinaryIO,
    decoder: str = "auto",
    stream: int | None = None,
    *,
    timeout: float = 10,
    reconnect: float = 30,
) -> VideoReader:
    """Open a video.

    Args:
        source: a URL, ``camera:N``, a file with a video stream that FFmpeg can read, an image, a folder of images, a
            pattern of images (``frames/*.png``), or a binary stream such as ``sys.stdin.buffer``, which can be read
            once, as can a named pipe.
        decoder: ``av`` (PyAV, exact on every tested file), ``decord`` (an option for mp4, mov, mkv and webm files),
            ``torchcodec`` (an option for files whose frames have times) or ``auto``, which is ``av``. Images are read
            with Pillow.
        stream: the index of a video stream in the file, as ``ffprobe`` shows it; None for the one that ffmpeg chooses:
            with the default flag, then the largest, then the first.
        timeout: seconds to wait for the connection and the data of a URL.
        reconnect: seconds for which a broken connection of a live source is tried again.

    Raises:
        VideoError: the source does not exist, is empty or not a video, or the decoder is not installed or does not
            support the source.
        UserError: the decoder is unknown.

    >>> from pathlib import Path
    >>> from ccnet3d import open_video
    >>> from ccnet3d.video import write_sample_video
    >>> write_sample_video(Path("sample.mp4"), frames=3)
    >>> with open_video("sample.mp4") as reader:
    ...     [frame.image.shape for frame in reader]
    [(360, 480, 3), (360, 480, 3), (360, 480, 3)]
    """
    if decoder not in ("auto", "av", *_FILES_ONLY):
        raise UserError(f"unknown decoder {decoder!r}; choose auto, av, decord or torchcodec")
    if not isinstance(source, str | Path):
        _refuse_others(decoder, "a pipe")
        return AvReader(source, stream)
    if is_address(source):
        _refuse_others(decoder, "a URL or a camera")
        return LiveReader(str(source), stream, timeout, reconnect)
    path = Path(source)
    if stream is not None and path.is_dir():
        raise VideoError(_no_streams(path))
    if not path.exists():
        if _WILDCARDS.isdisjoint(str(source)):
            raise VideoError(f"there is no file {path}; give the path of a video or of a folder of images")
        if stream is not None:
            raise VideoError(_no_streams(source))
        return ImageReader(str(source), None, images_by_pattern(str(source)))
    if path.is_dir():
        return ImageReader(path.name or str(path), path, images_in_folder(path))
    if not os.access(path, os.R_OK):
        raise VideoError(f"{path} cannot be read: you have no permission; run: chmod u+r {path}")
    if is_pipe(path):
        _refuse_others(decoder, "a pipe")
        return _PipeReader(path, stream)
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except OSError as error:
        raise VideoError(f"{path} cannot be read ({ffmpeg_reason(error)}); give a video file") from error
    if not head:
        raise VideoError(f"{path} is empty; give a video file")
    if is_animated_webp(head):
        if stream is not None:
            raise VideoError(_no_streams(path))
        return AnimationReader(path)
    if is_image(path):
        if stream is not None:
            raise VideoError(_no_streams(path))
        return ImageReader(path.name, None, [path], still=True)
    if decoder == "decord":
        if stream is not None:
            raise VideoError(f"decord cannot choose a stream of {path}; use --decoder av")
        return DecordReader(path)
    if decoder == "torchcodec":
        return TorchCodecReader(path, stream)
    return AvReader(path, stream)


def _refuse_others(decoder: str, source: str) -> None:
    if decoder in _FILES_ONLY:
        raise VideoError(f"{decoder} cannot read from {source}; use --decoder av, or give a file")


def _no_streams(source: Path | str) -> str:
    return f"{source} consists of images, which have no streams to choose from; leave out --stream"


class _PipeReader(AvReader):
    """A named pipe, opened once: ``<(command)``, ``/dev/stdin`` and FIFOs."""

    def __init__(self, path: Path, stream: int | None) -> None:
        self._opened = open_pipe(path)
        try:
            super().__init__(self._opened, stream)
        except BaseException:
            self._opened.close()
            raise

    def close(self) -> None:
        super().close()
        self._opened.close()
