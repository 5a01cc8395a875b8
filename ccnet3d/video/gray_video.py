"""Planes of bytes, such as class ids, as lossless gray FFV1 video in Matroska."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ccnet3d.video.container import ffmpeg_url, import_av
from ccnet3d.video.types import VideoError, ffmpeg_reason
from ccnet3d.video.writer import StreamWriter

__all__ = ["GrayVideoWriter", "read_gray_video"]


class GrayVideoWriter(StreamWriter):
    """Write planes of bytes, lossless, at a constant rate; :func:`read_gray_video` reads them back.

    Args:
        path: the file.
        frames_per_second: 25 when None.

    Raises:
        OutputError: the file cannot be written.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder) / "planes.mkv"
    ...     with GrayVideoWriter(path, frames_per_second=10) as writer:
    ...         writer.write(np.array([[0, 7, 255]], np.uint8))
    ...     [plane.tolist() for plane in read_gray_video(path)]
    [[[0, 7, 255]]]
    """

    def __init__(self, path: Path, frames_per_second: float | None) -> None:
        super().__init__(path, "matroska", frames_per_second)

    def write(self, plane: np.ndarray) -> None:
        """Add a plane, uint8 ``[H, W]``, of the size of the first."""
        av = import_av()
        if self._stream is None:
            self._stream = self._container.add_stream("ffv1", rate=self._rate)
            self._stream.height, self._stream.width = plane.shape
            self._stream.pix_fmt = "gray"
        frame = av.VideoFrame.from_ndarray(plane, format="gray")
        frame.pts, frame.time_base = self._count, 1 / self._rate
        self._encode(frame)
        self._count += 1


def read_gray_video(path: Path) -> Iterator[np.ndarray]:
    """Yield the planes, uint8 ``[H, W]``, of a gray video, in order.

    Raises:
        VideoError: the file cannot be read, or its pixels are not gray bytes.
    """
    av = import_av()
    try:
        # Names in another encoding than UTF-8 are the least of a damaged file's problems.
        with av.open(ffmpeg_url(path), metadata_errors="replace") as container:
            for frame in container.decode(video=0):
                if frame.format.name != "gray":  # any conversion could change a value
                    raise VideoError(f"{path} has pixels of the format {frame.format.name}, expected gray")
                yield frame.to_ndarray()
    except VideoError:
        raise
    except (av.error.FFmpegError, OSError, ValueError, LookupError) as error:
        reason = "no video stream" if isinstance(error, IndexError) else ffmpeg_reason(error)
        raise VideoError(f"{path} is damaged or not a gray video ({reason})") from error
