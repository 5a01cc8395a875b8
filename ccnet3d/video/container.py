"""Open a source with PyAV, and convert its frames to RGB arrays.

PyAV keeps FFmpeg's messages off the terminal, a setting of the whole process that is left unchanged. Problems are
detected from errors, from flags of packets and frames, and from counts.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ccnet3d.video.integrity import starts_with_media_data
from ccnet3d.video.types import VideoError, ffmpeg_reason

__all__ = ["PipeHead", "RgbConverter", "claimed_frames", "import_av", "open_container", "read_packets"]

_ANY_TIME_BASE = Fraction(1, 1000)  # a filter graph needs one, but the times are not used


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


class PipeHead(io.RawIOBase):
    """A binary stream that can be read once and whose first bytes have been checked.

    Raises:
        VideoError: the stream is empty, or cannot be decoded without seeking.
    """

    def __init__(self, source: BinaryIO, name: str) -> None:
        self._source, self._head = source, b""
        while len(self._head) < 4096:
            more = source.read(4096 - len(self._head))
            if not more:
                break
            self._head += more
        if not self._head:
            raise VideoError(f"{name} is empty; pipe a video into it")
        if starts_with_media_data(self._head):
            raise VideoError(
                f"{name} is an mp4 with its index at the end, which cannot be read from a pipe; "
                "give the file itself, or rewrite it: ffmpeg -i in.mp4 -c copy -movflags +faststart out.mp4"
            )

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        head, self._head = self._head, b""
        if 0 <= size < len(head):
            head, self._head = head[:size], head[size:]
        return head or self._source.read(size)


def open_container(source: Path | BinaryIO, name: str) -> tuple[Any, Any]:
    """Return a container and its first video stream that is not a cover image; decoding uses several threads.

    Raises:
        VideoError: the source is not a video or cannot be read.
    """
    av = import_av()
    try:
        # Metadata that is not UTF-8 must not make a video unreadable.
        target = str(source) if isinstance(source, Path) else source
        container = av.open(target, metadata_errors="replace")
    except (av.error.FFmpegError, OSError, ValueError, LookupError) as error:
        raise VideoError(f"{name} cannot be read as a video ({ffmpeg_reason(error)}); give a video file") from error
    kind = container.format.name
    # FFmpeg also opens still images, and renders plain text as a terminal.
    if kind in ("image2", "tty") or (kind.endswith("_pipe") and kind != "webp_pipe"):
        container.close()
        raise VideoError(f"{name} is not a video but a still image or text (format {kind}); give a video file")
    cover = av.stream.Disposition.attached_pic
    moving = [stream for stream in container.streams.video if not stream.disposition & cover]
    if not moving:
        container.close()
        raise VideoError(f"{name} has no video stream; give a video file")
    if moving[0].codec_context is None:
        container.close()
        raise VideoError(f"{name} contains a video with an unknown codec; convert it with ffmpeg")
    moving[0].thread_type = "AUTO"
    moving[0].codec_context.options = {"err_detect": "explode"}
    return container, moving[0]


def read_packets(container: Any, stream: Any) -> Iterator[Any]:
    """Yield the packets of a stream from the current position, the last of them empty."""
    while True:
        try:
            yield from container.demux(stream)
            return
        except IndexError:  # PyAV knows the streams of the start only; FFmpeg has found another one
            continue


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
    """Convert frames to RGB with FFmpeg's ``format`` filter, bit for bit like the ffmpeg command.

    The scaler alone (``frame.to_ndarray``) places the chroma of 10-bit and odd-sized frames differently.
    """

    def __init__(self) -> None:
        self._key: tuple[Any, ...] = ()
        self._graph: Any = None

    def __call__(self, frame: Any) -> np.ndarray:
        """Return the upright image, uint8 ``[H, W, 3]``, contiguous."""
        key = (frame.width, frame.height, frame.format.name, frame.colorspace, frame.color_range)
        if key != self._key:
            self._graph, self._key = self._build(frame), key
        self._graph.push(frame)
        image = self._graph.pull().to_ndarray()
        # The display rotation is in degrees counterclockwise.
        # Copied, because the array may be a view of memory that the graph reuses for a later frame.
        return np.array(np.rot90(image, frame.rotation // 90), order="C")

    def _build(self, frame: Any) -> Any:
        graph = import_av().filter.Graph()
        # Without threads: graphs are part of reference cycles, so a forked child may free one that the parent has
        # dropped long before, and would wait for threads that do not exist in the child.
        if hasattr(graph, "threads"):
            graph.threads = 1
        source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=_ANY_TIME_BASE)
        rgb, sink = graph.add("format", "rgb24"), graph.add("buffersink")
        source.link_to(rgb)
        rgb.link_to(sink)
        graph.configure()
        return graph
