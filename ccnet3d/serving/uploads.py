"""What a client sends: received within bounds into a private file, and opened as a video or a photo."""

from __future__ import annotations

import warnings
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path

from PIL import Image

from ccnet3d.errors import UserError
from ccnet3d.video import VideoFrame, VideoReader, open_video

__all__ = ["BoundedReader", "LimitError", "UploadError", "check_bytes", "open_upload", "receive"]

_MOST_PIXELS = 1 << 26
"""Of a frame; 8K video has half as many."""

_PHOTO_SUFFIXES = {
    "JPEG": ".jpg",
    "PNG": ".png",
    "WEBP": ".webp",
    "BMP": ".bmp",
    "TIFF": ".tif",
    "PPM": ".ppm",
}
"""Pillow's names of still images, and a file extension for each. Documents, which run other programs, are not among."""

_HEAD = 1 << 16
_LISTS_START = (b"#extm3u", b"ffconcat", b"v=0", b"[playlist]")
_LISTS_CONTAIN = (b"<mpd", b"<compositionplaylist", b"<assetmap")


class LimitError(UserError):
    """A request that is larger or takes longer than the server allows."""


class UploadError(UserError):
    """A body that is not what it claims to be, or did not arrive."""


async def receive(chunks: AsyncIterator[bytes], path: Path, most_bytes: int) -> None:
    """Write the body of a request to a file.

    Raises:
        LimitError: it is larger than ``most_bytes``.
        UploadError: it is empty.
    """
    size = 0
    with path.open("xb") as file:
        async for chunk in chunks:
            size += len(chunk)
            check_bytes(size, most_bytes)
            file.write(chunk)
    if not size:
        raise UploadError("the request has no body; send the bytes of a video or a photo")


def check_bytes(size: int, most_bytes: int) -> None:
    """Raise LimitError if a body is larger than ``most_bytes``."""
    if size > most_bytes:
        raise LimitError(f"the file is larger than {most_bytes / 1e6:g} MB, the most that this server accepts")


def open_upload(path: Path) -> VideoReader:
    """Open a received file by its content: a photo is a video of one frame.

    Raises:
        UserError: it is neither.
        LimitError: a photo with too many pixels.
    """
    with path.open("rb") as file:
        head = file.read(_HEAD).lower().lstrip(b"\xef\xbb\xbf \t\r\n")
    # FFmpeg would open the files and addresses that a playlist names.
    if head.startswith(_LISTS_START) or any(mark in head for mark in _LISTS_CONTAIN):
        raise UploadError("the file is a list of other files, not a video; send a video or a photo")
    suffix = _photo_suffix(path)
    if suffix is None:
        return open_video(path)
    folder = path.parent / "photo"  # read like a folder of frames, which also turns it upright
    folder.mkdir()
    path.rename(folder / f"{path.name}{suffix}")
    return open_video(folder)


def _photo_suffix(path: Path) -> str | None:
    """Return the file extension of a still image, None for anything else."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the size is checked here
            with Image.open(path, formats=list(_PHOTO_SUFFIXES)) as image:
                kind = "JPEG" if image.format == "MPO" else str(image.format)  # a JPEG with a preview
                animated = kind != "JPEG" and getattr(image, "is_animated", False)
                size = image.size
    except Image.DecompressionBombError as error:
        raise LimitError(f"the photo has more than {_MOST_PIXELS} pixels") from error
    except Exception:  # whatever Pillow raises: FFmpeg will say whether it is a video
        return None
    if animated:
        return None
    _check_pixels(*size)
    return _PHOTO_SUFFIXES[kind]


def _check_pixels(width: int, height: int) -> None:
    if width * height > _MOST_PIXELS:
        raise LimitError(f"a frame has {width}x{height} pixels, more than the {_MOST_PIXELS} that are allowed")


class BoundedReader(VideoReader):
    """A reader that ends with an error after too many frames, and hands on each frame that it reads.

    Args:
        reader: of the upload.
        most_frames: how many frames are read.
        on_frame: called with each frame before it is segmented.
    """

    def __init__(
        self, reader: VideoReader, most_frames: int, on_frame: Callable[[VideoFrame], None] = lambda _: None
    ) -> None:
        self.info = reader.info
        self._reader = reader
        self._most_frames = most_frames
        self._on_frame = on_frame
        expected = reader.info.expected_frames
        if expected is not None:
            self._check_count(expected)

    def _check_count(self, count: int) -> None:
        if count > self._most_frames:
            raise LimitError(
                f"the video has more than {self._most_frames} frames, the most that this server segments per request"
            )

    def __iter__(self) -> Iterator[VideoFrame]:
        for count, frame in enumerate(self._reader, 1):
            self._check_count(count)
            height, width = frame.image.shape[:2]
            _check_pixels(width, height)
            self._on_frame(frame)
            yield frame

    def __len__(self) -> int:
        return len(self._reader)

    def clip(self, indices: Sequence[int]) -> list[VideoFrame]:
        return self._reader.clip(indices)

    def stop(self) -> None:
        self._reader.stop()

    def close(self) -> None:
        self._reader.close()
