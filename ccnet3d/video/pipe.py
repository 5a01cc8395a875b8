"""Binary streams that can be read once: standard input, named pipes, sockets."""

from __future__ import annotations

import io
import select
import threading
from pathlib import Path
from typing import BinaryIO

from ccnet3d.video.animation_reader import is_animated_webp
from ccnet3d.video.integrity import starts_with_media_data
from ccnet3d.video.types import VideoError, ffmpeg_reason

__all__ = ["PipeHead", "is_pipe", "open_pipe"]

_HEAD = max(8192, io.DEFAULT_BUFFER_SIZE)
"""Bytes to read first: as many as Python may have buffered, which polling the descriptor would not see."""
_POLL_MILLISECONDS = 100


def is_pipe(path: Path) -> bool:
    """Return whether a path names something that can be read once: a FIFO, a device or a socket.

    ``<(command)`` of a shell and ``/dev/stdin`` are such paths, except where a file is behind them.
    """
    return path.is_fifo() or path.is_char_device() or path.is_socket()


def open_pipe(path: Path) -> BinaryIO:
    """Open a path for reading once.

    Raises:
        VideoError: it cannot be opened.
    """
    try:
        return path.open("rb")
    except OSError as error:
        raise VideoError(f"{path} cannot be read ({ffmpeg_reason(error)}); give a video file") from error


class PipeHead(io.RawIOBase):
    """A binary stream that can be read once and whose first bytes have been checked.

    Args:
        source: the stream.
        name: the name for messages.

    Raises:
        VideoError: the stream is empty, or cannot be decoded without seeking.
    """

    def __init__(self, source: BinaryIO, name: str) -> None:
        if getattr(source, "isatty", bool)():
            raise VideoError(f"{name} is a terminal; pipe a video into it, or give a file")
        self._source, self._head = source, b""
        self._stopped = threading.Event()
        self._read_some = getattr(source, "read1", source.read)  # what has arrived, without waiting for more
        self._poll = _poll(source)
        while len(self._head) < _HEAD:
            more = self._read_some(_HEAD - len(self._head))
            if not more:
                break
            self._head += more
        if not self._head:
            raise VideoError(f"{name} is empty; pipe a video into it")
        if is_animated_webp(self._head):
            raise VideoError(f"{name} is an animated WebP, which cannot be read from a pipe; give the file itself")
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
        if head:
            return head
        while self._poll is not None and not self._stopped.is_set():
            if self._poll.poll(_POLL_MILLISECONDS):
                break
        return b"" if self._stopped.is_set() else self._read_some(size)

    def stop(self) -> None:
        """End the stream here, also for a thread that waits for data."""
        self._stopped.set()


def _poll(source: BinaryIO) -> select.poll | None:
    """Return an object that waits for data, None where the platform or the stream has none."""
    if not hasattr(select, "poll"):
        return None
    poll = select.poll()
    try:
        poll.register(source.fileno(), select.POLLIN)
    except (OSError, AttributeError, ValueError):  # io.UnsupportedOperation is an OSError
        return None
    return poll
