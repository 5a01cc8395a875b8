"""Which files of a folder are videos, which are images, and their order: what the libraries can open, not a list."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from ccnet3d.constants import VIDEO_SUFFIXES
from ccnet3d.images import is_image_name, is_system_name
from ccnet3d.video.container import import_av, open_container, still_suffixes
from ccnet3d.video.types import VideoError

__all__ = ["FileKinds", "in_natural_order", "is_image", "match_pattern", "sort_files"]

_MAY_BE_ANIMATED = (".apng", ".avif", ".avifs", ".gif", ".webp")
"""Extensions of formats that are used for still images and for animations."""

_TIME = re.compile(r"(?:(\d{1,2})[hH:._-])?([0-5]?\d)[mM:._-]([0-5]\d)s?(?:[.,](\d+))?")
"""A time of a video from minutes on, as players name snapshots: 59:58, 1-00-02, 1h00m02s."""


class FileKinds(NamedTuple):
    """Files by kind, each in the order of the argument of :func:`sort_files`."""

    videos: list[Path]
    """Videos and animations."""
    images: list[Path]
    others: list[Path]
    """Files of other types, and folders."""


def sort_files(paths: Iterable[Path]) -> FileKinds:
    """Sort files by kind.

    Files with the usual extensions are taken at their word, others that FFmpeg or Pillow may open are opened. Hidden
    files and those of systems are left out.

    >>> from pathlib import Path
    >>> from ccnet3d.video import sort_files
    >>> [path.name for path in sort_files([Path("walk.mp4"), Path("1.png"), Path("notes.txt")]).others]
    ['notes.txt']
    """
    kinds = FileKinds([], [], [])
    for path in paths:
        if is_system_name(path.name):
            continue
        if is_image(path):
            kinds.images.append(path)
        elif path.is_dir():
            kinds.others.append(path)
        elif _is_video(path):
            kinds.videos.append(path)
        else:
            kinds.others.append(path)
    return kinds


def is_image(path: Path) -> bool:
    """Return whether a file is a still image that Pillow opens, by its extension; of GIF and WebP, by its content."""
    if path.suffix.lower() in _MAY_BE_ANIMATED:
        return not _is_animated(path)
    if path.suffix.lower() in VIDEO_SUFFIXES:  # without asking Pillow, which would import all its formats
        return False
    return is_image_name(path.name)


def _is_animated(path: Path) -> bool:
    try:
        with Image.open(path) as image:
            return bool(getattr(image, "is_animated", False))
    except Exception:  # whatever Pillow raises for a damaged file: the reader will name it
        return False


def _is_video(path: Path) -> bool:
    suffix = path.suffix.lower()
    if suffix in VIDEO_SUFFIXES or suffix in _MAY_BE_ANIMATED:
        return True
    try:
        if suffix not in _ffmpeg_suffixes() or not path.is_file():
            return False
        container, _ = open_container(path, str(path))
    except VideoError:  # sound, subtitles, text; or PyAV is not installed
        return False
    container.close()
    return True


@cache
def _ffmpeg_suffixes() -> frozenset[str]:
    """Return the extensions that FFmpeg knows, except those of still images.

    FFmpeg lists most of them with the writers of a format, many only with its readers.
    """
    av = import_av()
    extensions: set[str] = set()
    for name in av.formats_available:
        for mode in "rw":
            try:
                extensions |= av.ContainerFormat(name, mode).extensions
            except ValueError:  # only the other direction
                continue
    return frozenset(f".{extension.strip().lower()}" for extension in extensions) - still_suffixes()


def match_pattern(pattern: str) -> list[Path]:
    """Return the paths that match a shell pattern, in no particular order.

    A folder whose name contains wildcards is taken literally where it exists: ``take[1]/*.png``.
    """
    fixed, rest = Path(), Path(pattern).parts
    while rest and (fixed / rest[0]).exists():
        fixed, rest = fixed / rest[0], rest[1:]
    if not rest:
        return [fixed]
    matches = glob.glob(str(Path(glob.escape(str(fixed)), *rest)), recursive=True)  # noqa: PTH207 - absolute patterns
    return [Path(match) for match in matches]


def in_natural_order(paths: Sequence[Path]) -> list[Path]:
    """Return paths with ``img2`` before ``img10`` and, where all are named by time, ``59:58`` before ``1:00:02``.

    >>> from ccnet3d.video.file_kinds import in_natural_order
    >>> [path.name for path in in_natural_order([Path("img10.png"), Path("img2.png")])]
    ['img2.png', 'img10.png']
    """
    times = _times(paths)
    if times is not None:
        return sorted(paths, key=lambda path: (times[path], str(path)))
    return sorted(paths, key=_natural_key)


def _natural_key(path: Path) -> tuple[list[tuple[int, str]], str]:
    parts = re.split(r"([0-9]+)", str(path))
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts], str(path)


def _times(paths: Sequence[Path]) -> dict[Path, float] | None:
    """Return the times in seconds by which files of one folder are named, None unless some have hours and some not."""
    if len({path.parent for path in paths}) != 1:
        return None
    stems = [path.stem for path in paths]
    start = len(_common_prefix(stems))
    matches = [_TIME.fullmatch(stem[start:]) for stem in stems]
    if not all(matches) or len({match is not None and match[1] is None for match in matches}) != 2:
        return None
    return {path: _seconds(match) for path, match in zip(paths, matches, strict=True) if match}


def _common_prefix(names: Sequence[str]) -> str:
    """Return what all names start with, up to its last character that is not part of a number."""
    first, last = min(names), max(names)
    length = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    return first[:length].rstrip("0123456789")


def _seconds(match: re.Match[str]) -> float:
    hours, minutes, seconds, fraction = match.groups()
    return int(hours or 0) * 3600 + int(minutes) * 60 + float(f"{seconds}.{fraction or 0}")
