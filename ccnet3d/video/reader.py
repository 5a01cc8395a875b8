"""Open any source as a video."""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

from ccnet3d.errors import UserError
from ccnet3d.video.decord_reader import DecordReader
from ccnet3d.video.image_reader import ImageReader, images_by_pattern, images_in_folder
from ccnet3d.video.pyav_reader import AvReader
from ccnet3d.video.types import VideoError, VideoReader

__all__ = ["open_video"]

_WILDCARDS = frozenset("*?[")


def open_video(source: Path | str | BinaryIO, decoder: str = "auto", stream: int | None = None) -> VideoReader:
    """Open a video.

    Args:
        source: a file with a video stream that FFmpeg can read, a folder of images, a pattern of images
            (``frames/*.png``), or a binary stream such as ``sys.stdin.buffer``, which can be read once.
        decoder: ``av`` (PyAV, exact on every tested file), ``decord`` (an option for mp4, mov, mkv and webm files)
            or ``auto``, which is ``av``. Images are read with Pillow.
        stream: the index of a video stream in the file, as ``ffprobe`` shows it; None for the one that ffmpeg chooses:
            with the default flag, then the largest, then the first.

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
    if decoder not in ("auto", "av", "decord"):
        raise UserError(f"unknown decoder {decoder!r}; choose auto, av or decord")
    if not isinstance(source, str | Path):
        if decoder == "decord":
            raise VideoError("decord cannot read from a pipe; use --decoder av, or give a file")
        return AvReader(source, stream)
    path = Path(source)
    if stream is not None and path.is_dir():
        raise VideoError(f"{path} is a folder of images, which has no streams to choose from; leave out --stream")
    if not path.exists():
        if _WILDCARDS.isdisjoint(str(source)):
            if "://" in str(source):
                raise VideoError(
                    f"{source} is a URL; give a file, or pipe it: ffmpeg -i URL -f matroska - | ccnet3d-infer - -o out/"
                )
            raise VideoError(f"there is no file {path}; give the path of a video or of a folder of images")
        return ImageReader(str(source), None, images_by_pattern(str(source)))
    if path.is_dir():
        return ImageReader(path.name or str(path), path, images_in_folder(path))
    if not os.access(path, os.R_OK):
        raise VideoError(f"{path} cannot be read: you have no permission; run: chmod u+r {path}")
    if path.is_file() and path.stat().st_size == 0:
        raise VideoError(f"{path} is empty; give a video file")
    if decoder == "decord":
        if stream is not None:
            raise VideoError(f"decord cannot choose a stream of {path}; use --decoder av")
        return DecordReader(path)
    return AvReader(path, stream)
