"""RGB frames to an H.264 video that players and browsers open."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from ccnet3d.files import atomic_path
from ccnet3d.video.reader import import_av

_TIME_BASE = Fraction(1, 90_000)  # holds the times of all common frame rates


class VideoWriter:
    """Write frames with their times to an mp4 file, which appears when the block ends without an error.

    The first frame is at 0 seconds. All take the size of the first one; odd sizes are padded by one pixel, as yuv420p
    needs it.

    Args:
        path: the file, ending in .mp4.
        frames_per_second: of the source; used where frames have no time.

    Raises:
        ValueError: another ending than .mp4.
    """

    def __init__(self, path: Path, frames_per_second: float | None) -> None:
        if path.suffix.lower() != ".mp4":
            raise ValueError(f"the overlay must be an .mp4 file, got {path}")
        self._rate = Fraction(frames_per_second or 25.0).limit_denominator(1001)
        self._atomic = atomic_path(path)
        self._container: Any = None
        self._stream: Any = None
        self._first_seconds = 0.0
        self._last_pts = -1
        self._count = 0

    def __enter__(self) -> VideoWriter:
        av = import_av()
        self._container = av.open(str(self._atomic.__enter__()), "w", options={"movflags": "+faststart"})
        return self

    def write(self, image: np.ndarray, pts_seconds: float | None) -> None:
        """Add a frame.

        Args:
            image: uint8 ``[H, W, 3]``, RGB.
            pts_seconds: its time, from the same start as the first one's; frame number over rate where None.
        """
        av = import_av()
        if self._stream is None:
            height, width = image.shape[:2]
            self._stream = self._container.add_stream(
                "libx264", rate=self._rate, options={"crf": "20", "preset": "veryfast"}
            )
            self._stream.width, self._stream.height = width + width % 2, height + height % 2
            self._stream.pix_fmt = "yuv420p"
            self._stream.codec_context.time_base = _TIME_BASE
        wanted = (self._stream.height, self._stream.width)
        padding = [(0, max(0, w - have)) for w, have in zip(wanted, image.shape[:2], strict=True)]
        image = np.pad(image, [*padding, (0, 0)], mode="edge")[: wanted[0], : wanted[1]]
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
        seconds = float(self._count / self._rate) if pts_seconds is None else pts_seconds
        if self._count == 0:  # broadcasts and cameras may start hours into their clock
            self._first_seconds = seconds
        seconds -= self._first_seconds
        # Times must grow, also where the source repeats one.
        self._last_pts = frame.pts = max(self._last_pts + 1, round(seconds / _TIME_BASE))
        frame.time_base = _TIME_BASE
        self._container.mux(self._stream.encode(frame))
        self._count += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None and self._stream is not None:
            self._container.mux(self._stream.encode(None))
        self._container.close()
        self._atomic.__exit__(kind, error, trace)
