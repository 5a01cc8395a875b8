"""The reader based on decord, for files in which it is exact."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from ccnet3d.video.checked_reader import CheckedReader
from ccnet3d.video.container import ffmpeg_url, open_container, video_streams
from ccnet3d.video.types import VideoError, ffmpeg_reason

__all__ = ["DecordReader"]

_SUFFIXES = (".mp4", ".mov", ".m4v", ".mkv", ".webm")
"""Containers that decord reads completely; in others it silently returns wrong frames."""


class DecordReader(CheckedReader):
    """A video file. Damaged files are refused, because decord silently repeats or conceals frames in them.

    Raises:
        VideoError: decord is not installed, or does not read the file exactly.
    """

    decoder = "decord"

    def __init__(self, path: Path) -> None:
        if path.suffix.lower() not in _SUFFIXES:
            raise VideoError(
                f"decord silently loses frames in {path.suffix or 'such'} files; use --decoder av for {path}"
            )
        _import_decord()
        _check_single(path)
        super().__init__(path)

    def _open(self) -> Any:
        return _import_decord().VideoReader(ffmpeg_url(self._path))

    def _decode(self, index: int) -> tuple[float | None, np.ndarray]:
        packets = self._packets
        known = len(packets.pts) == packets.packets  # decord's own times ignore a late start
        return packets.pts[index] * packets.seconds_per_tick if known else None, self._reader.next().asnumpy()

    def _reason(self, error: BaseException) -> str:
        """Return decord's message without its prefix of time and source file."""
        return re.sub(r"\[[0-9:]+\] \S+:[0-9]+: ", "", ffmpeg_reason(error))


def _check_single(path: Path) -> None:
    """Check that a file has one video stream.

    Raises:
        VideoError: it has several.
    """
    container, _ = open_container(path, str(path))
    try:
        count = len(video_streams(container))
    finally:
        container.close()
    if count > 1:
        raise VideoError(f"{path} has {count} video streams, of which decord may take another; use --decoder av")


def _import_decord() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import decord
    except ImportError as error:
        raise VideoError("the decoder decord is not installed; run: pip install decord, or use --decoder av") from error
    return decord
