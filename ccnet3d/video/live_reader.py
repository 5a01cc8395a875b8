"""The reader of URLs and cameras: live sources, which do not wait, and files on web servers."""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

from ccnet3d.video.container import RgbConverter, frame_rate, import_av, video_streams
from ccnet3d.video.live_clock import Pace, StreamTimes
from ccnet3d.video.types import NoLengthError, VideoError, VideoFrame, VideoInfo, VideoReader, ffmpeg_reason
from ccnet3d.video.urls import safe_name

__all__ = ["LiveReader"]

_WAITING_FRAMES = 8
_POLL_SECONDS = 0.1
_FIRST_DELAY, _LONGEST_DELAY = 0.5, 8.0
"""Seconds between attempts to connect; doubled after each."""

_WEB = "http,https,tls,tcp,crypto"
_PROTOCOLS = {
    "http": _WEB,
    "https": _WEB,
    "rtsp": "rtsp,rtp,udp,tcp",
    "rtsps": "rtsps,rtsp,tls,tcp",
    "rtmp": "rtmp,tcp",
    "rtmps": "rtmps,tls,tcp",
    "srt": "srt",
    "tcp": "tcp",
    "udp": "udp",
}
"""What FFmpeg may open for a URL: a playlist from the network must not name local files."""

_CAMERAS = {"linux": ("v4l2", "/dev/video{}"), "darwin": ("avfoundation", "{}:none"), "win32": ("dshow", "video={}")}


class LiveReader(VideoReader):
    """A URL or a camera, which can be read once.

    Frames of a live source are received in a thread, whether they are asked for or not. If more than a few wait, the
    oldest is dropped and leaves a gap in the frame indices. After a break the connection is restored; indices
    continue, and so does the time, by the clock. A file on a web server is read like a file: nothing is dropped.

    Args:
        source: a URL or ``camera:N``.
        stream: the index of a video stream; None for the first.
        timeout: seconds to wait for a connection and for data.
        reconnect: seconds without a connection after which a live source has ended; 0 to never connect again.

    Raises:
        VideoError: the source cannot be opened or has no such stream.
    """

    def __init__(self, source: str, stream: int | None = None, timeout: float = 10, reconnect: float = 30) -> None:
        self._source, self._name = source, safe_name(source)
        self._stream, self._timeout, self._reconnect = stream, timeout, reconnect
        self._condition = threading.Condition()
        self._waiting: deque[tuple[int, float, Any]] = deque()
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self._ended = False
        self._error: BaseException | None = None
        self._count = 0  # of the frames so far
        self._opened: tuple[Any, Any] | None = self._open()
        self.info = VideoInfo(self._name, None, frame_rate(self._opened[1]), None, "av", stream)
        self.info.live = _is_live(source, self._opened[0])
        self._times = StreamTimes(live=self.info.live)

    def _open(self) -> tuple[Any, Any]:
        av = import_av()
        target, options, file_format = _target(self._source)
        began = time.monotonic()
        try:
            container = av.open(
                target, format=file_format, options=options, timeout=self._timeout, metadata_errors="replace"
            )
        except av.error.ProtocolNotFoundError:
            raise VideoError(
                f"{self._name} cannot be opened: this build of PyAV lacks the protocol; relay the stream with ffmpeg, "
                "as in: ffmpeg -i URL -c copy -f mpegts udp://127.0.0.1:5000"
            ) from None
        except (av.error.FFmpegError, OSError, ValueError, LookupError) as error:
            reason = ffmpeg_reason(error)
            if time.monotonic() - began >= self._timeout:  # some protocols give other reasons
                reason = f"no answer in {self._timeout:g} seconds"
            # Without the cause, whose text contains the URL with its password.
            raise VideoError(f"{self._name} cannot be opened ({reason}); check the address and that it is on") from None
        streams = video_streams(container)
        chosen = [one for one in streams if self._stream in (None, one.index)]
        if not chosen or chosen[0].codec_context is None:
            container.close()
            raise VideoError(f"{self._name} has no video stream{'' if self._stream is None else f' {self._stream}'}")
        chosen[0].thread_type = "SLICE" if _is_live(self._source, container) else "AUTO"  # frame threads add delay
        return container, chosen[0]

    def __iter__(self) -> Iterator[VideoFrame]:
        self._check_open()
        if self._thread is not None:
            raise VideoError(f"{self._name} has already been read; open it again")
        self._thread = threading.Thread(target=self._work, name="ccnet3d-receive", daemon=True)
        self._thread.start()
        return self._frames()

    def _frames(self) -> Iterator[VideoFrame]:
        to_rgb = RgbConverter()
        try:
            while True:
                with self._condition:
                    while not (self._waiting or self._ended or self._stopped.is_set()):
                        self._condition.wait(_POLL_SECONDS)
                    if self._stopped.is_set() or not self._waiting:
                        break
                    index, seconds, frame = self._waiting.popleft()
                    self._condition.notify_all()
                yield VideoFrame(index, seconds, to_rgb(frame), bool(frame.is_corrupt))
        finally:
            self._stopped.set()
        if self._error:
            raise self._error
        if self.info.dropped_frames:
            self.info.warnings.append(
                f"{self.info.dropped_frames} of {self._count} frames came faster than they were segmented and were "
                "dropped, which left gaps in the numbering"
            )
        if self.info.reconnections:
            self.info.warnings.append(f"the connection broke and was resumed, {self.info.reconnections} in all")

    def _work(self) -> None:
        opened, self._opened = self._opened, None
        try:
            while opened is not None:
                problem = self._receive(*opened)
                opened = None  # frees its decoder before there is another one
                if self._stopped.is_set():
                    break
                if not self.info.live:
                    if problem:
                        self.info.warnings.append(f"reading ended early after {self._count} frames ({problem})")
                    break
                opened = self._connect_again()
        except BaseException as error:  # raised where the frames are read
            self._error = error
        finally:
            with self._condition:
                self._ended = True
                self._condition.notify_all()

    def _receive(self, container: Any, stream: Any) -> str:
        """Receive frames until the connection ends; return the problem that ended it, if any."""
        av = import_av()
        pace = Pace() if self.info.live and container.format.name.startswith("hls") else None
        self._times.connect()
        try:
            for packet in container.demux(stream):
                if self._stopped.is_set():
                    return ""
                try:
                    frames = packet.decode()
                except av.error.InvalidDataError:  # damage: what can be shown comes with the next packets
                    continue
                for frame in frames:
                    if pace and frame.time is not None:
                        self._stopped.wait(pace.delay(frame.time, time.monotonic()))
                    self._put(self._times.at(frame.time, time.monotonic()), frame)
        except (av.error.FFmpegError, OSError) as error:
            return ffmpeg_reason(error)
        finally:
            container.close()
        return ""

    def _put(self, seconds: float, frame: Any) -> None:
        with self._condition:
            while len(self._waiting) >= _WAITING_FRAMES and not self._stopped.is_set():
                if self.info.live:
                    self._waiting.popleft()
                    self.info.dropped_frames += 1
                else:
                    self._condition.wait(_POLL_SECONDS)
            self._waiting.append((self._count, seconds, frame))
            self._count += 1
            self._condition.notify_all()

    def _connect_again(self) -> tuple[Any, Any] | None:
        """Return a new connection, None if there is none in time or the source has become a finite one."""
        until, delay = time.monotonic() + self._reconnect, _FIRST_DELAY
        while time.monotonic() < until and not self._stopped.wait(min(delay, max(0.0, until - time.monotonic()))):
            delay = min(2 * delay, _LONGEST_DELAY)
            try:
                opened = self._open()
            except VideoError:
                continue
            if not _is_live(self._source, opened[0]):  # a playlist that got its end
                opened[0].close()
                return None
            self.info.reconnections += 1
            return opened
        return None

    def __len__(self) -> int:
        raise NoLengthError(f"{self._name} has no length; iterate over it, or give a file")

    def clip(self, indices: Sequence[int]) -> list[VideoFrame]:  # noqa: ARG002
        raise NoLengthError(f"{self._name} has no random access; iterate over it, or give a file")

    def __getstate__(self) -> dict[str, Any]:
        raise VideoError(f"{self._name} can be read in this process only; give a file to share it with workers")

    def stop(self) -> None:
        self._stopped.set()

    def close(self) -> None:
        self._closed = True
        self._stopped.set()
        if self._thread is not None:  # a process that exits within FFmpeg would crash
            self._thread.join(self._timeout + 1)
        elif self._opened is not None:
            self._opened[0].close()
            self._opened = None


def _target(source: str) -> tuple[str, dict[str, str], str | None]:
    """Return what FFmpeg opens for a source, its options, and the format of a camera.

    Raises:
        VideoError: a protocol that is not supported, or a camera on a system without them.
    """
    scheme, _, rest = source.partition(":")
    if scheme.lower() == "camera":
        name, pattern = _CAMERAS.get(sys.platform, ("", ""))
        if name not in import_av().formats_available:
            raise VideoError(f"{source} cannot be opened: this build of PyAV reads no cameras here")
        return pattern.format(rest), {}, name
    protocols = _PROTOCOLS.get(scheme.lower())
    if protocols is None:
        raise VideoError(f"{safe_name(source)} has an unknown protocol; choose {', '.join(_PROTOCOLS)}, or give a file")
    options = {"protocol_whitelist": protocols}
    if scheme.lower().startswith("rtsp"):
        options["rtsp_transport"] = "tcp"  # over UDP, lost packets damage frames
    return source, options, None


def _is_live(source: str, container: Any) -> bool:
    """Return whether a source does not wait for its reader: all but files on web servers, and finished playlists."""
    if not source.lower().startswith(("http:", "https:")):
        return True
    if container.format.name.startswith("hls"):
        return container.duration is None
    return bool(container.size <= 0)
