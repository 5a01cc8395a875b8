"""Folders and patterns of images as videos."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from ccnet3d.constants import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from ccnet3d.video.types import (
    VideoError,
    VideoFrame,
    VideoInfo,
    VideoReader,
    check_indices,
    ffmpeg_reason,
    frame_ranges,
)


def natural_key(path: Path) -> list[tuple[int, str]]:
    """Sorts ``img2`` before ``img10``."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"([0-9]+)", str(path))]


def images_in_folder(folder: Path) -> list[Path]:
    """The images of a folder in natural order, without hidden files and those of other kinds.

    Raises:
        VideoError: it holds none, or may not be read.
    """
    try:
        return _choose(list(folder.iterdir()), f"{folder} is a folder and")
    except PermissionError as error:
        raise VideoError(f"the folder {folder} cannot be read: you have no permission") from error


def images_by_pattern(pattern: str) -> list[Path]:
    """The images that match a pattern, as the shell would list them, in natural order.

    Raises:
        VideoError: there is none.
    """
    matches = [Path(match) for match in glob.glob(pattern, recursive=True)]  # noqa: PTH207 - also absolute patterns
    if not matches:
        raise VideoError(f"there is no file {pattern}: nothing matches the pattern")
    return _choose(matches, f"the pattern {pattern}")


def _choose(paths: list[Path], what: str) -> list[Path]:
    visible = sorted((path for path in paths if not path.name.startswith(".")), key=natural_key)
    images = [path for path in visible if path.suffix.lower() in IMAGE_SUFFIXES]
    if images:
        return images
    videos = [path for path in visible if path.suffix.lower() in VIDEO_SUFFIXES]
    if videos:
        raise VideoError(f"{what} holds videos, not images; give one of them, for example {videos[0]}")
    raise VideoError(f"{what} holds no images; wanted are files that end in {', '.join(IMAGE_SUFFIXES)}")


def load_rgb(path: Path) -> np.ndarray:
    """An image upright, uint8 ``[H, W, 3]``; transparency is dropped, 16 bits are scaled to 8.

    Raises:
        VideoError: it cannot be read.
    """
    try:
        with Image.open(path) as opened:
            image = ImageOps.exif_transpose(opened)
            if image.mode in ("I", "I;16", "I;16L", "I;16B"):  # 16 bits of gray; convert() would clip them
                gray = (np.asarray(image).astype(np.int64).clip(0, 65535) + 128) // 257
                return np.repeat(gray.astype(np.uint8)[..., None], 3, axis=2)
            return np.array(image.convert("RGB"))
    except Exception as error:  # Pillow's formats raise OSError, SyntaxError, ValueError, struct.error and more
        raise VideoError(f"{path} cannot be read as an image ({ffmpeg_reason(error)})") from error


class ImageReader(VideoReader):
    """Images, one a frame."""

    def __init__(self, name: str, path: Path | None, files: list[Path]) -> None:
        self.info = VideoInfo(name, path, None, len(files), "pillow")
        self._files = files
        self._closed = False

    def __iter__(self) -> Iterator[VideoFrame]:
        self._check_open()
        self.info.warnings.clear()
        return self._read()

    def _read(self) -> Iterator[VideoFrame]:
        lost: list[int] = []
        reasons: list[str] = []
        sizes: list[tuple[int, int, int]] = []
        for index, path in enumerate(self._files):
            self._check_open()
            try:
                image = load_rgb(path)
            except VideoError as error:
                lost.append(index)
                reasons.append(str(error))
                continue
            height, width = image.shape[:2]
            if not sizes or sizes[-1][1:] != (width, height):
                sizes.append((index, width, height))
            yield VideoFrame(index, None, image)
        if len(lost) == len(self._files):
            raise VideoError(f"none of the {len(lost)} images of {self.info.name} can be read: {reasons[0]}")
        if lost:
            more = f"; and {len(lost) - 5} more" if len(lost) > 5 else ""
            self.info.warnings.append(
                f"{frame_ranges(lost)} could not be read and left gaps in the numbering: {'; '.join(reasons[:5])}{more}"
            )
        if len(sizes) > 1:
            steps = ", ".join(f"{width}x{height} from frame {index}" for index, width, height in sizes[:4])
            more = f" and {len(sizes) - 4} times more" if len(sizes) > 4 else ""
            self.info.warnings.append(f"the size of the picture changes: {steps}{more}")

    def __len__(self) -> int:
        return len(self._files)

    def clip(self, indices: Sequence[int]) -> list[VideoFrame]:
        self._check_open()
        check_indices(indices, len(self), self.info.name)
        got: dict[int, VideoFrame] = {}
        for index in set(indices):
            try:
                got[index] = VideoFrame(index, None, load_rgb(self._files[index]))
            except VideoError as error:
                raise VideoError(f"frame {index} of {self.info.name} is lost: {error}") from error
        return [got[index] for index in indices]

    def _check_open(self) -> None:
        if self._closed:
            raise VideoError(f"{self.info.name} was closed; open it again")

    def close(self) -> None:
        self._closed = True
