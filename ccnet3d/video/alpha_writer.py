"""RGB frames with transparency to a video that editors open: VP9 in WebM, or ProRes 4444 in QuickTime."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from ccnet3d.errors import UserError
from ccnet3d.video.container import import_av
from ccnet3d.video.writer import FrameWriter

__all__ = ["AlphaVideoWriter"]

_BT709, _LIMITED_RANGE = 1, 1
"""Of color primaries, transfer and matrix, and of the range, as FFmpeg and the files number them."""

_BLOCK = 64
"""Pixels; what FFmpeg converts at once is 32 or fewer."""


@dataclass(frozen=True)
class _Codec:
    container: str
    name: str
    pixel_format: str
    options: dict[str, str]


_CODECS = {
    # Alternate reference frames, which are not shown, have no alpha.
    ".webm": _Codec("webm", "libvpx-vp9", "yuva420p", {"crf": "20", "b": "0", "cpu-used": "4", "auto-alt-ref": "0"}),
    ".mov": _Codec("mov", "prores_ks", "yuva444p10le", {"profile": "4444", "vendor": "apl0", "alpha_bits": "16"}),
}


class AlphaVideoWriter(FrameWriter):
    """Write frames whose pixels are visible or transparent; the file appears when the block ends without an error.

    Alpha is straight: the colors of transparent pixels are kept, so that an editor can soften the edges. Times and
    sizes are those of :class:`VideoWriter`; the colors are marked as BT.709.

    Args:
        path: the file, ending in .webm (VP9) or .mov (ProRes 4444).
        frames_per_second: the source's rate, for frames without a time.
        pixel_aspect: width of a pixel divided by its height.

    Raises:
        UserError: the file ends otherwise, or is a .webm file for pixels that are not square.
        OutputError: the file cannot be written.

    >>> from ccnet3d.video import draw_sample_frame
    >>> with AlphaVideoWriter(Path("cut.mov"), frames_per_second=25) as writer:
    ...     image = draw_sample_frame(0, 48, 64)
    ...     writer.write(image, image[..., 0] > 100, 0.0)
    >>> Path("cut.mov").exists()
    True
    """

    def __init__(self, path: Path, frames_per_second: float | None, pixel_aspect: Fraction = Fraction(1)) -> None:
        if path.suffix.lower() not in _CODECS:
            raise UserError(f"the video with alpha must be a .webm (VP9) or .mov (ProRes 4444) file, got {path}")
        if path.suffix.lower() == ".webm" and pixel_aspect != 1:  # PyAV cannot set what the container needs
            raise UserError(
                f"the pixels of the video are not square ({pixel_aspect}), which is not written to WebM; give a .mov "
                f"file instead of {path}"
            )
        self._codec = _CODECS[path.suffix.lower()]
        super().__init__(path, self._codec.container, frames_per_second, pixel_aspect)

    def write(self, image: np.ndarray, visible: np.ndarray, pts_seconds: float | None) -> None:
        """Add a frame.

        Args:
            image: uint8 ``[H, W, 3]``, RGB.
            visible: bool ``[H, W]``.
            pts_seconds: its presentation time in seconds; frame index divided by the rate if None.
        """
        if self._stream is None:
            size = image.shape[0], image.shape[1]
            encoder = self._open_stream(self._codec.name, self._codec.pixel_format, size, self._codec.options)
            encoder.color_primaries = encoder.color_trc = encoder.colorspace = _BT709
            encoder.color_range = _LIMITED_RANGE
        frame = _with_alpha(self._fit(image), self._fit(visible[..., None])[..., 0], self._codec.pixel_format)
        self._encode_at(frame, pts_seconds)


def _with_alpha(image: np.ndarray, visible: np.ndarray, pixel_format: str) -> Any:
    """Return a frame of RGB ``[H, W, 3]`` and visible pixels ``[H, W]``.

    FFmpeg converts to 10 bits with bytes of other memory in the first columns, unless the width is a multiple of its
    block; so the image is padded, and alpha, for which that does not help, is not converted.
    """
    av, (height, width) = import_av(), visible.shape
    padded = np.pad(image, [(0, 0), (0, -width % _BLOCK), (0, 0)], mode="edge")
    opaque = av.VideoFrame.from_ndarray(padded, format="rgb24").reformat(
        format=pixel_format.replace("yuva", "yuv"), dst_colorspace="ITU709", dst_color_range="MPEG"
    )
    frame = av.VideoFrame(width, height, pixel_format)
    dtype, most = (np.uint16, 1023) if "10" in pixel_format else (np.uint8, 255)
    *colors, alpha = frame.planes
    for target, source in zip(colors, opaque.planes, strict=True):
        _rows(target, dtype)[:] = 0
        _rows(target, dtype)[:, : target.width] = _rows(source, dtype)[:, : target.width]
    _rows(alpha, dtype)[:] = 0
    _rows(alpha, dtype)[:, :width] = visible * dtype(most)
    return frame


def _rows(plane: Any, dtype: type[np.unsignedinteger[Any]]) -> np.ndarray:
    """Return the memory of a plane, ``[H, W or more]``."""
    return np.frombuffer(plane, dtype).reshape(plane.height, -1)
