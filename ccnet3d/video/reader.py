"""Opening a video, whatever it comes from."""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

from ccnet3d.errors import UserError
from ccnet3d.video.container import import_av
from ccnet3d.video.types import VideoError, VideoFrame, VideoInfo, VideoReader

__all__ = ["VideoError", "VideoFrame", "VideoInfo", "VideoReader", "import_av", "open_video"]

_WILDCARDS = frozenset("*?[")


def open_video(source: Path | str | BinaryIO, decoder: str = "auto") -> VideoReader:
    """Open a video.

    Args:
        source: a file with a video stream that FFmpeg knows, a folder of images, a pattern of images
            (``frames/*.png``), or a binary stream such as ``sys.stdin.buffer``, which can be read once.
        decoder: ``av`` (PyAV; right on everything measured), ``decord`` (an option for mp4, mov, mkv and webm)
            or ``auto``, which is ``av``. Images are read with Pillow.

    Raises:
        VideoError: missing, empty, no video in it, or a decoder that is not installed or not fit for the source.
        ValueError: an unknown decoder.
    """
    # Imported here as they need each other's types, and to stay cheap.
    from ccnet3d.video.decord_reader import DecordReader
    from ccnet3d.video.image_reader import ImageReader, images_by_pattern, images_in_folder
    from ccnet3d.video.pyav_reader import AvReader

    if decoder not in ("auto", "av", "decord"):
        raise UserError(f"unknown decoder {decoder!r}; choose auto, av or decord")
    if not isinstance(source, str | Path):
        if decoder == "decord":
            raise VideoError("decord cannot read from a pipe; use --decoder av, or give a file")
        return AvReader(source)
    path = Path(source)
    if not path.exists():
        if _WILDCARDS.isdisjoint(str(source)):
            raise VideoError(f"there is no file {path}")
        return ImageReader(str(source), None, images_by_pattern(str(source)))
    if path.is_dir():
        return ImageReader(path.name or str(path), path, images_in_folder(path))
    if not os.access(path, os.R_OK):
        raise VideoError(f"{path} cannot be read: you have no permission; run: chmod u+r {path}")
    if path.is_file() and path.stat().st_size == 0:
        raise VideoError(f"{path} is empty; give a video file")
    return DecordReader(path) if decoder == "decord" else AvReader(path)
