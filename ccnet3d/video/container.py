"""Open a source with PyAV, and convert its frames to RGB arrays.

PyAV keeps FFmpeg's messages off the terminal, a setting of the whole process that is left unchanged. Problems are
detected from errors, from flags of packets and frames, and from counts.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ccnet3d.video.types import VideoError, ffmpeg_reason

__all__ = [
    "RgbConverter",
    "claimed_frames",
    "display_matrix",
    "ffmpeg_url",
    "frame_rate",
    "import_av",
    "open_container",
    "other_streams",
    "read_packets",
    "still_suffixes",
    "unknown_matrix",
    "upright_filters",
    "video_streams",
]

_ANY_TIME_BASE = Fraction(1, 1000)  # a filter graph needs one, but the times are not used

# Matrix coefficients (ITU-T H.273, section 8.3) that FFmpeg's scaler converts, and names of others.
_KNOWN_MATRICES = (0, 1, 2, 4, 5, 6, 7, 9)
_UNKNOWN_MATRICES = {
    8: "YCgCo",
    10: "BT.2020 with constant luminance",
    11: "SMPTE ST 2085",
    12: "derived from the primaries",
    13: "derived from the primaries, constant luminance",
    14: "ICtCp",
    15: "IPT-C2",
    16: "YCgCo-Re",
    17: "YCgCo-Ro",
}


def import_av() -> Any:
    """Return the module of PyAV, which is imported when a video is opened.

    Raises:
        VideoError: PyAV is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise VideoError("videos need PyAV; run: pip install av") from error
    return av


def ffmpeg_url(path: Path) -> str:
    """Return a path as FFmpeg opens it, whatever its name; without a protocol, it would take that of ``http:a.mp4``."""
    return f"file:{path}"


@cache
def still_suffixes() -> frozenset[str]:
    """Return the extensions of still images according to FFmpeg, in lower case."""
    return frozenset(f".{extension}" for extension in import_av().ContainerFormat("image2", "w").extensions)


def open_container(source: Path | BinaryIO, name: str, index: int | None = None) -> tuple[Any, Any]:
    """Return a container and a video stream of it, whose own decoder uses several threads and conceals no damage.

    Args:
        source: a file, or a stream that can be read once.
        name: the name for messages.
        index: the stream's index in the file; None for the one that ffmpeg chooses.

    Raises:
        VideoError: the source is not a video, cannot be read, or has no such stream.
    """
    av = import_av()
    try:
        # Metadata that is not UTF-8 must not make a video unreadable.
        target = ffmpeg_url(source) if isinstance(source, Path) else source
        container = av.open(target, metadata_errors="replace")
    except (av.error.FFmpegError, OSError, ValueError, LookupError) as error:
        raise VideoError(f"{name} cannot be read as a video ({ffmpeg_reason(error)}); give a video file") from error
    try:
        stream = _choose_stream(container, source, name, index)
    except VideoError:
        container.close()
        raise
    stream.thread_type = "AUTO"
    stream.codec_context.options = {"err_detect": "explode"}
    return container, stream


def _choose_stream(container: Any, source: Path | BinaryIO, name: str, index: int | None) -> Any:
    kind = container.format.name
    # FFmpeg also opens still images, and renders plain text as a terminal. Its formats *_pipe are one image or several,
    # such as raw MJPEG.
    still = kind.endswith("_pipe") and isinstance(source, Path) and source.suffix.lower() in still_suffixes()
    if kind in ("image2", "tty") or still:
        raise VideoError(
            f"{name} is not a video but a still image or text (format {kind}); give a video file, or a folder or a "
            "quoted pattern of images"
        )
    streams = video_streams(container)
    if not streams:
        raise VideoError(f"{name} has no video stream; give a video file")
    if index is None:
        stream = max(streams, key=_preference)  # the first of equals
    elif index in [stream.index for stream in streams]:
        stream = container.streams[index]
    else:
        raise VideoError(f"{name} has no video stream {index}; choose from: {describe_streams(streams)}")
    if stream.codec_context is None:
        raise VideoError(f"{name} contains a video with an unknown codec; convert it with ffmpeg")
    return stream


def video_streams(container: Any) -> list[Any]:
    """Return the video streams of a container without cover images."""
    cover = import_av().stream.Disposition.attached_pic
    return [stream for stream in container.streams.video if not stream.disposition & cover]


def _preference(stream: Any) -> tuple[bool, int]:
    """Return a key by which the ffmpeg command chooses: the default flag, then the size; but stills come last.

    An animated AVIF contains its first frame as a still image too, which ffmpeg chooses.
    """
    default = import_av().stream.Disposition.default
    size = stream.codec_context.width * stream.codec_context.height if stream.codec_context else 0
    return stream.frames != 1, size + 5_000_000 * bool(stream.disposition & default)


def describe_streams(streams: Sequence[Any]) -> str:
    """Return the indices and sizes of video streams for a message."""
    sizes = [
        f" ({stream.codec_context.width}x{stream.codec_context.height})" if stream.codec_context else ""
        for stream in streams
    ]
    return ", ".join(f"{stream.index}{size}" for stream, size in zip(streams, sizes, strict=True))


def other_streams(container: Any, stream: Any) -> list[str]:
    """Return a warning if a container has more than one video; the parts of an AVIF image do not count."""
    streams = video_streams(container)
    if len(streams) == 1 or container.metadata.get("major_brand") in ("avif", "avis"):
        return []
    return [
        f"the file has {len(streams)} video streams, {describe_streams(streams)}, and stream {stream.index} is read; "
        "choose another one with --stream"
    ]


def read_packets(container: Any, stream: Any) -> Iterator[Any]:
    """Yield the packets of a stream from the current position, the last of them empty."""
    while True:
        try:
            yield from container.demux(stream)
            return
        except IndexError:  # PyAV knows the streams of the start only; FFmpeg has found another one
            continue


def frame_rate(stream: Any) -> float | None:
    """Return a stream's average frame rate in frames per second, None if unknown."""
    average, base = stream.average_rate, stream.base_rate
    if not average:
        return None
    # The base rate has a tick for every frame; raw DV has its time base as average rate, 60,000 per second.
    return float(base if base and average > 2 * base else average)


def claimed_frames(container: Any, stream: Any) -> int | None:
    """Return the number of presented frames according to the container's header, None if it does not say.

    The index of an mp4 excludes the frames that an edit list leaves out; the header's count includes them.
    """
    if not stream.frames:
        return None
    if "mp4" in container.format.name.split(","):
        entries = stream.index_entries
        shown = sum(not entry.is_discard and entry.size > 0 for entry in entries)
        return shown or stream.frames
    return stream.frames


class RgbConverter:
    """Convert frames to RGB with FFmpeg's filters, bit for bit like the ffmpeg command.

    The scaler alone (``frame.to_ndarray``) places the chroma of 10-bit and odd-sized frames differently.
    """

    def __init__(self) -> None:
        self._key: tuple[Any, ...] = ()
        self._graph: Any = None

    def __call__(self, frame: Any) -> np.ndarray:
        """Return the upright image, uint8 ``[H, W, 3]``, contiguous."""
        matrix = display_matrix(frame)
        key = (frame.width, frame.height, frame.format.name, frame.colorspace, frame.color_range, matrix)
        if key != self._key:
            self._graph, self._key = self._build(frame, upright_filters(matrix)), key
        self._graph.push(frame)
        # Copied, because the array may be a view of memory that the graph reuses for a later frame.
        return np.array(self._graph.pull().to_ndarray(), order="C")

    def _build(self, frame: Any, filters: list[tuple[str, str]]) -> Any:
        graph = import_av().filter.Graph()
        # Without threads: graphs are part of reference cycles, so a forked child may free one that the parent has
        # dropped long before, and would wait for threads that do not exist in the child.
        if hasattr(graph, "threads"):
            graph.threads = 1
        last = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=_ANY_TIME_BASE)
        for name, options in [*filters, ("format", "rgb24"), ("buffersink", "")]:
            added = graph.add(name, options or None)
            last.link_to(added)
            last = added
        graph.configure()
        return graph


def unknown_matrix(frame: Any) -> str:
    """Return the number and name of a frame's color matrix if FFmpeg has no conversion for it, else nothing."""
    number = int(frame.colorspace)
    if number in _KNOWN_MATRICES:
        return ""
    return f"{number} ({_UNKNOWN_MATRICES[number]})" if number in _UNKNOWN_MATRICES else str(number)


def display_matrix(frame: Any) -> tuple[int, ...]:
    """Return the nine numbers of a frame's display matrix, row by row; empty if it has none."""
    from av.sidedata.sidedata import SideDataContainer

    # Not frame.side_data, which the frame keeps and which keeps the frame: such a cycle, pixels included, stays in
    # memory until the garbage collector visits its oldest objects, which in a large process is almost never.
    table: Any = SideDataContainer  # PyAV's type hints leave out its argument
    data = table(frame).get("DISPLAYMATRIX")
    return () if data is None else struct.unpack("=9i", bytes(data))


def upright_filters(matrix: tuple[int, ...]) -> list[tuple[str, str]]:
    """Return the names and options of the filters that the ffmpeg command inserts for a display matrix.

    >>> from ccnet3d.video.container import upright_filters
    >>> upright_filters((-65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30))  # a mirror
    [('hflip', '')]
    """
    if not matrix or not any(matrix[:4:3]) or not any(matrix[1:5:3]):
        return []
    a, b, _, c, d = matrix[:5]
    degrees = round(math.degrees(math.atan2(b / math.hypot(b, d), a / math.hypot(a, c)))) % 360  # clockwise
    if degrees == 90:
        return [("transpose", "cclock_flip" if c > 0 else "clock")]
    if degrees == 180:
        return [(name, "") for name, entry in (("hflip", a), ("vflip", d)) if entry < 0]
    if degrees == 270:
        return [("transpose", "clock_flip" if c < 0 else "cclock")]
    if degrees:
        return [("rotate", f"{degrees}*PI/180")]
    return [("vflip", "")] if d < 0 else []
