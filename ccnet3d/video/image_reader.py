"""Folders and patterns of images, read as videos."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ccnet3d.constants import IMAGE_SUFFIXES
from ccnet3d.errors import UserError
from ccnet3d.images import read_rgb
from ccnet3d.video.file_kinds import in_natural_order, match_pattern, sort_files
from ccnet3d.video.types import (
    VideoError,
    VideoFrame,
    VideoInfo,
    VideoReader,
    check_indices,
    ffmpeg_reason,
    lost_frames,
    size_changes,
)

__all__ = ["ImageReader", "images_by_pattern", "images_in_folder"]


def images_in_folder(folder: Path) -> list[Path]:
    """Return the images of a folder in natural order, without hidden files and other file types.

    Raises:
        VideoError: the folder contains no images or several of one name, or cannot be read.

    >>> from pathlib import Path
    >>> from PIL import Image
    >>> from ccnet3d.video import images_in_folder
    >>> for name in ("10.png", "2.png"):
    ...     Image.new("RGB", (64, 48)).save(name)
    >>> [path.name for path in images_in_folder(Path())]
    ['2.png', '10.png']
    """
    try:
        return _choose(list(folder.iterdir()), f"{folder} is a folder and")
    except OSError as error:
        raise VideoError(f"the folder {folder} cannot be read ({ffmpeg_reason(error)})") from error


def images_by_pattern(pattern: str) -> list[Path]:
    """Return the images that match a shell pattern, in natural order.

    Raises:
        VideoError: no image matches, or several of one name.
    """
    matches = match_pattern(pattern)
    if not matches:
        raise VideoError(f"there is no file {pattern}: nothing matches the pattern")
    return _choose(matches, f"the pattern {pattern}")


def _choose(paths: list[Path], what: str) -> list[Path]:
    kinds = sort_files(paths)
    if kinds.images:
        _check_names(kinds.images, what)
        return in_natural_order(kinds.images)
    if kinds.videos:
        raise VideoError(f"{what} contains videos, not images; give one of them, for example {min(kinds.videos)}")
    raise VideoError(f"{what} contains no images; expected files that end in {', '.join(IMAGE_SUFFIXES)}")


def _check_names(images: list[Path], what: str) -> None:
    """Refuse two images of one name, such as a photo and its label, because only one of them is a frame.

    Raises:
        VideoError: there are such images.
    """
    by_name: dict[Path, list[Path]] = defaultdict(list)
    for path in images:
        by_name[path.with_suffix("")].append(path)
    for same in by_name.values():
        if len(same) > 1:
            first, second = sorted(same)[:2]
            raise VideoError(
                f"{what} contains {first.name} and {second.name}, two images of one frame; give a quoted pattern of "
                f"one kind, such as '{first.parent / f'*{first.suffix}'}'"
            )


def _load_rgb(path: Path) -> np.ndarray:
    try:
        return read_rgb(path)
    except UserError as error:
        raise VideoError(str(error)) from error


class ImageReader(VideoReader):
    """A video of image files, one per frame."""

    def __init__(self, name: str, path: Path | None, files: list[Path], *, still: bool = False) -> None:
        self.info = VideoInfo(name, path, None, len(files), "pillow", images=tuple(files), still=still)
        self._files = files

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
                image = _load_rgb(path)
            except VideoError as error:
                lost.append(index)
                reasons.append(str(error))
                continue
            height, width = image.shape[:2]
            if not sizes or sizes[-1][1:] != (width, height):
                sizes.append((index, width, height))
            yield VideoFrame(index, None, image)
        if len(lost) == len(self._files):
            which = f"none of the {len(lost)} images of {self.info.name} can be read: " if len(lost) > 1 else ""
            raise VideoError(f"{which}{reasons[0]}")
        if lost:
            more = f"; and {len(lost) - 5} more" if len(lost) > 5 else ""
            self.info.warnings.append(f"{lost_frames(lost, 'read')}: {'; '.join(reasons[:5])}{more}")
        if len(sizes) > 1:
            self.info.warnings.append(size_changes(sizes))

    def __len__(self) -> int:
        return len(self._files)

    def clip(self, indices: Sequence[int]) -> list[VideoFrame]:
        self._check_open()
        check_indices(indices, len(self), self.info.name)
        got: dict[int, VideoFrame] = {}
        for index in set(indices):
            try:
                got[index] = VideoFrame(index, None, _load_rgb(self._files[index]))
            except VideoError as error:
                raise VideoError(f"frame {index} of {self.info.name} is lost: {error}") from error
        return [got[index] for index in indices]

    def close(self) -> None:
        self._closed = True
