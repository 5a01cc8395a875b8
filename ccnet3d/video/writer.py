"""RGB frames to an H.264 video that players and browsers open."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from ccnet3d.errors import OutputError, UserError
from ccnet3d.files import atomic_path
from ccnet3d.video.container import ffmpeg_url, import_av

__all__ = ["FrameWriter", "StreamWriter", "VideoWriter"]

_TIME_BASE = Fraction(1, 90_000)  # holds the times of all common frame rates
_DEFAULT_RATE = 25.0


class StreamWriter:
    """A file with one video stream, which appears under its name when the block ends without an error."""

    def __init__(self, path: Path, container_format: str, frames_per_second: float | None) -> None:
        self._path = path
        self._format = container_format
        self._rate = Fraction(frames_per_second or _DEFAULT_RATE).limit_denominator(1001)
        self._atomic = atomic_path(path)
        self._options = {"movflags": "+faststart"} if container_format == "mp4" else {}
        self._container: Any = None
        self._stream: Any = None
        self._count = 0

    def __enter__(self) -> Any:
        av = import_av()
        temporary = ffmpeg_url(self._atomic.__enter__())
        # Without the bit-exact flag, Matroska files carry a random identity.
        self._container = av.open(temporary, "w", format=self._format, options=self._options)
        self._container.flags |= av.container.Flags.bitexact.value
        return self

    def _encode(self, frame: Any) -> None:
        with self._os_errors():
            self._container.mux(self._stream.encode(frame))

    @contextmanager
    def _os_errors(self) -> Iterator[None]:
        """FFmpeg's errors are not OSError, a full disk among them."""
        try:
            yield
        except import_av().error.FFmpegError as error:
            raise OutputError(error.errno, error.strerror, str(self._path)) from error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None and self._stream is not None:
                self._encode(None)
            with self._os_errors():
                self._container.close()
        except OSError as failure:
            self._atomic.__exit__(type(failure), failure, failure.__traceback__)
            if error is None:
                raise
        else:
            self._atomic.__exit__(kind, error, trace)


class FrameWriter(StreamWriter):
    """A stream of frames with their times.

    The first frame is at 0 seconds. All frames get the size of the first one; odd sizes are padded by one pixel because
    yuv420p requires even sizes.
    """

    def __init__(
        self, path: Path, container_format: str, frames_per_second: float | None, pixel_aspect: Fraction
    ) -> None:
        super().__init__(path, container_format, frames_per_second)
        self._pixel_aspect = pixel_aspect
        self._first_seconds = 0.0
        self._last_pts = -1

    def _open_stream(self, codec: str, pixel_format: str, size: tuple[int, int], options: dict[str, str]) -> Any:
        """Add the stream for frames of ``size``, height and width, and return its encoder."""
        height, width = size
        self._stream = self._container.add_stream(codec, rate=self._rate, options=options)
        self._stream.width, self._stream.height = width + width % 2, height + height % 2
        self._stream.pix_fmt = pixel_format
        encoder = self._stream.codec_context
        encoder.sample_aspect_ratio = self._pixel_aspect
        encoder.time_base = _TIME_BASE
        encoder.thread_count = 1  # an encoder's output may depend on the number of threads
        return encoder

    def _fit(self, image: np.ndarray) -> np.ndarray:
        """Return an image ``[h, w, C]`` padded or cropped to the size of the stream."""
        height, width = self._stream.height, self._stream.width
        if image.shape[:2] != (height, width):
            padding = [(0, max(0, height - image.shape[0])), (0, max(0, width - image.shape[1])), (0, 0)]
            image = np.pad(image, padding, mode="edge")[:height, :width]
        return np.ascontiguousarray(image)

    def _encode_at(self, frame: Any, pts_seconds: float | None) -> None:
        """Encode a frame at its time; at its index divided by the rate if None."""
        seconds = float(self._count / self._rate) if pts_seconds is None else pts_seconds
        if self._count == 0:  # the clock of broadcasts and cameras may start at hours
            self._first_seconds = seconds
        seconds -= self._first_seconds
        # Times must increase, even if the source repeats one.
        self._last_pts = frame.pts = max(self._last_pts + 1, round(seconds / _TIME_BASE))
        frame.time_base = _TIME_BASE
        self._encode(frame)
        self._count += 1


class VideoWriter(FrameWriter):
    """Write frames with their times to an mp4 file, which appears when the block ends without an error.

    The first frame is at 0 seconds. All frames get the size of the first one; odd sizes are padded by one pixel because
    yuv420p requires even sizes.

    Args:
        path: the file, ending in .mp4.
        frames_per_second: the source's rate, for frames without a time.
        pixel_aspect: width of a pixel divided by its height.
        endless: write fragments, of which none is in memory once it is written, instead of one index of all frames at
            the front, for which memory grows.

    Raises:
        UserError: the file does not end in .mp4.
        OutputError: the file cannot be written.

    >>> from pathlib import Path
    >>> from ccnet3d.video import VideoWriter, draw_sample_frame
    >>> with VideoWriter(Path("drawn.mp4"), frames_per_second=25) as writer:
    ...     for index in range(3):
    ...         writer.write(draw_sample_frame(index, 48, 64), index / 25)
    >>> Path("drawn.mp4").exists()
    True
    """

    def __init__(
        self,
        path: Path,
        frames_per_second: float | None,
        pixel_aspect: Fraction = Fraction(1),
        *,
        endless: bool = False,
    ) -> None:
        if path.suffix.lower() != ".mp4":
            raise UserError(f"the overlay must be an .mp4 file, got {path}")
        super().__init__(path, "mp4", frames_per_second, pixel_aspect)
        if endless:
            self._options = {"movflags": "+frag_keyframe+empty_moov+default_base_moof"}

    def write(self, image: np.ndarray, pts_seconds: float | None) -> None:
        """Add a frame.

        Args:
            image: uint8 ``[H, W, 3]``, RGB.
            pts_seconds: its presentation time in seconds; frame index divided by the rate if None.
        """
        if self._stream is None:
            # Without x264's macroblock tree, which in build 165 with AVX-512 is not deterministic.
            options = {"crf": "20", "preset": "veryfast", "mbtree": "0"}
            self._open_stream("libx264", "yuv420p", (image.shape[0], image.shape[1]), options)
        frame = import_av().VideoFrame.from_ndarray(self._fit(image), format="rgb24")
        self._encode_at(frame, pts_seconds)
