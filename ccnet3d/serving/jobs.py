"""Requests as jobs of one model: one at a time, in a thread, with limits, and gone when their client is."""

from __future__ import annotations

import asyncio
import base64
import io
import time
import traceback
import zipfile
from collections.abc import Callable
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event
from typing import Any

from PIL import Image

from ccnet3d.errors import UserError
from ccnet3d.files import timeless_entry
from ccnet3d.inference import RunOptions, StreamingSegmenter, segment_video
from ccnet3d.serving.uploads import BoundedReader, LimitError, open_upload
from ccnet3d.video import VideoFrame

__all__ = ["MASKS_NAME", "OVERLAY_NAME", "Job", "JobOptions", "ServerEndsError", "ServerLimits"]

MASKS_NAME, OVERLAY_NAME = "masks.zip", "overlay.mp4"

_WAITING_LINES = 4
_POLL_SECONDS = 0.1
_PICTURE_WIDTH, _PICTURE_QUALITY = 960, 80


@dataclass(frozen=True)
class ServerLimits:
    """What one request may cost, and how many may wait.

    Raises:
        UserError: a limit below 1, or a negative number of waiting requests.

    >>> ServerLimits(max_frames=0)
    Traceback (most recent call last):
        ...
    ccnet3d.errors.UserError: the limits of a request must be at least 1, got 200 MB, 600 seconds, 0 frames
    """

    max_megabytes: int = 200
    """Of the uploaded file, in 10^6 bytes."""
    max_seconds: int = 600
    """Of the upload, and again of the work."""
    max_frames: int = 10_000
    max_waiting: int = 4
    """Requests that may wait for the one in progress."""

    def __post_init__(self) -> None:
        if min(self.max_megabytes, self.max_seconds, self.max_frames) < 1:
            raise UserError(
                f"the limits of a request must be at least 1, got {self.max_megabytes} MB, {self.max_seconds} seconds, "
                f"{self.max_frames} frames"
            )
        if self.max_waiting < 0:
            raise UserError(f"the number of waiting requests must be 0 or more, got {self.max_waiting}")

    @property
    def max_bytes(self) -> int:
        return self.max_megabytes * 1_000_000


@dataclass(frozen=True)
class JobOptions:
    """What a request asks for."""

    class_names: tuple[str, ...]
    """Empty for all."""
    smoothing: int | None
    overlay: bool
    archive: bool
    pictures: bool
    """Send each frame as a JPEG with its mask."""
    opacity: float


class ServerEndsError(UserError):
    """The server is told to end."""


class _StoppedError(Exception):
    """The client is gone."""


_STATUS = ((LimitError, 413), (ServerEndsError, 503))


class Job:
    """One upload and what is made of it, in a private folder until :meth:`remove`.

    The work runs in a thread of the caller's choice and passes on one event per frame, at most a few ahead of the
    client. Events are tables with the key ``event``: ``frame``, then ``done`` or ``error``.

    Args:
        limits: of the work.
    """

    def __init__(self, limits: ServerLimits) -> None:
        self._limits = limits
        self._folder = TemporaryDirectory(prefix="ccnet3d-serve-", ignore_cleanup_errors=True)  # mode 0700
        self._path = Path(self._folder.name)
        self.upload = self._path / "upload"
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[dict[str, Any]] = asyncio.Queue(_WAITING_LINES)
        self._stopped = Event()
        self._ending = Event()

    def file(self, name: str) -> Path:
        """Return the path of MASKS_NAME or OVERLAY_NAME."""
        return self._path / name if name == MASKS_NAME else self._path / "masks" / name

    async def next_event(self) -> dict[str, Any]:
        return await self._events.get()

    def stop(self) -> None:
        """Tell the work to end at its next frame."""
        self._stopped.set()

    def end(self) -> None:
        """Let the work fail at its next frame, because the server ends; safe in signal handlers."""
        self._ending.set()

    def remove(self) -> None:
        """Delete everything of the job; its work must have ended."""
        self._folder.cleanup()

    def work(self, make_segmenter: Callable[[], StreamingSegmenter], smoothing_for: Any, options: JobOptions) -> None:
        """Segment the upload; every outcome is an event."""
        try:
            self._check_stopped()
            self._send(self._segment(make_segmenter(), smoothing_for, options))
        except _StoppedError:
            pass
        except UserError as error:
            status = next((code for kind, code in _STATUS if isinstance(error, kind)), 422)
            self._send_error(status, " ".join(self._without_paths(str(error)).split()))
        except Exception:
            traceback.print_exc()
            self._send_error(500, "the server failed; its terminal shows the reason")

    def _segment(self, segmenter: StreamingSegmenter, smoothing_for: Any, options: JobOptions) -> dict[str, Any]:
        began, pictures = time.monotonic(), dict[int, str]()
        masks = self._path / "masks"

        def keep_picture(frame: VideoFrame) -> None:
            if options.pictures:
                pictures[frame.index] = _jpeg(frame)

        def on_frame(event: dict[str, Any]) -> None:
            self._check_stopped()
            if time.monotonic() - began > self._limits.max_seconds:
                raise LimitError(f"the work took longer than {self._limits.max_seconds} seconds, the most per request")
            index = event["frame"]
            pixels = event["class_pixels"]
            png = (masks / f"{index:06d}.png").read_bytes()
            width, height = _png_size(png)
            line = {
                "event": "frame",
                "frame": index,
                "expected_frames": opened.info.expected_frames,
                "pts_seconds": event["pts_seconds"],
                "width": width,
                "height": height,
                "shares": {name: count / (width * height) for name, count in pixels.items()},
                "mask": base64.b64encode(png).decode(),
            }
            if options.pictures:
                line["picture"] = pictures.pop(index)
            self._send(line)

        with open_upload(self.upload) as opened:
            reader = BoundedReader(
                opened, self._limits.max_frames, keep_picture if options.pictures else lambda _: None
            )
            smoothing = options.smoothing
            run = RunOptions(
                class_names=options.class_names,
                smoothing=smoothing_for(opened.info.frames_per_second) if smoothing is None else smoothing,
                overlay=self.file(OVERLAY_NAME) if options.overlay else None,
                opacity=options.opacity,
            )
            summary = segment_video(reader, segmenter, masks, run, on_frame=on_frame)
        if options.archive:
            _write_archive(self.file(MASKS_NAME), masks)
        summary["warnings"] = [self._without_paths(text) for text in summary["warnings"]]
        return {"event": "done", "frames": summary["frames"], "summary": summary}

    def _without_paths(self, text: str) -> str:
        for path in (*self._path.glob("photo/*"), self._path / "photo", self.upload):
            text = text.replace(str(path), "the upload")
        return text.replace(str(self._path), "")

    def _check_stopped(self) -> None:
        if self._stopped.is_set():
            raise _StoppedError
        if self._ending.is_set():
            raise ServerEndsError("the server ends")

    def _send(self, event: dict[str, Any]) -> None:
        """Pass on an event; wait for the client to take earlier ones."""
        put = asyncio.run_coroutine_threadsafe(self._events.put(event), self._loop)
        while True:
            try:
                return put.result(_POLL_SECONDS)
            except FutureTimeoutError:
                if self._stopped.is_set():
                    put.cancel()
                    raise _StoppedError from None

    def _send_error(self, status: int, detail: str) -> None:
        with suppress(_StoppedError):
            self._send({"event": "error", "status": status, "detail": detail})


def _png_size(png: bytes) -> tuple[int, int]:
    """Return width and height, from the header."""
    return int.from_bytes(png[16:20]), int.from_bytes(png[20:24])


def _jpeg(frame: VideoFrame) -> str:
    """Return a frame in Base64, scaled down for a page."""
    image = Image.fromarray(frame.image)
    if image.width > _PICTURE_WIDTH:
        image = image.resize((_PICTURE_WIDTH, max(1, round(image.height * _PICTURE_WIDTH / image.width))))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_PICTURE_QUALITY)
    return base64.b64encode(buffer.getvalue()).decode()


def _write_archive(path: Path, masks: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted([*masks.glob("*.png"), *masks.glob("summary.json")]):
            archive.writestr(timeless_entry(file.name), file.read_bytes())
