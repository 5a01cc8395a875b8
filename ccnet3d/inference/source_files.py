"""The files of a video, as a run must know them: apart from its outputs, and the same when it is resumed."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ccnet3d.errors import UserError
from ccnet3d.masks import FORMATS
from ccnet3d.video import VideoInfo

__all__ = ["check_apart", "fingerprint_files", "image_names"]

_BLOCK_BYTES = 1 << 16
_VIDEO_BLOCKS, _SAMPLED_IMAGES = 4, 32


def check_apart(folder: Path, info: VideoInfo) -> None:
    """Check that the output folder of a run has no place in common with the files of its video.

    Raises:
        UserError: the folder is, contains or lies in a folder of images, or the video is an output of a run there.
    """
    out = folder.absolute()
    if not info.images:
        outputs = [one.file_name for one in FORMATS.values() if one.file_name]
        if info.path and info.path.name in outputs and _same(info.path.absolute().parent, out):
            raise UserError(f"the video {info.path} has the name of an output in {folder}; give another output folder")
        return
    if info.still:  # its folder is not read; other files in it are safe from a run anyway
        return
    for source in {path.absolute().parent for path in info.images}:
        if _contains(source, out) or _contains(out, source):
            relation = "is" if _same(source, out) else "lies in" if _contains(source, out) else "contains"
            raise UserError(
                f"the output folder {folder} {relation} the folder of the images, {source}; give a folder apart from it"
            )


def _contains(folder: Path, other: Path) -> bool:
    other = other.resolve()
    return any(_same(folder, path) for path in (other, *other.parents))


def _same(one: Path, other: Path) -> bool:
    """Compare as the file system does, which may ignore case; a folder that is missing equals none."""
    try:
        return one.samefile(other)
    except OSError:
        return False


def fingerprint_files(info: VideoInfo) -> dict[str, Any] | None:
    """Return what tells the files of a video from others without reading them whole; None for a pipe.

    It does not depend on where the files are or when they were copied: the size and some blocks of a video; the names
    and sizes of all images, and blocks of some.

    Raises:
        UserError: a file cannot be read.
    """
    try:
        if info.images:
            named = [(name, path.stat().st_size) for name, path in zip(image_names(info), info.images, strict=True)]
            digest = hashlib.sha256(json.dumps(named).encode())
            for path in _spread(info.images, _SAMPLED_IMAGES):
                digest.update(_blocks(path, 2))
            return {"images": len(named), "sha256": digest.hexdigest()}
        if info.path and info.path.is_file():
            digest = hashlib.sha256(_blocks(info.path, _VIDEO_BLOCKS))
            return {"bytes": info.path.stat().st_size, "sha256": digest.hexdigest()}
    except OSError as error:
        raise UserError(f"cannot read {error.filename or info.name}: {error.strerror}") from error
    return None


def image_names(info: VideoInfo) -> list[str]:
    """Return the name of each image, relative to the folder that all of them have in common."""
    if not info.images:
        return []
    root = info.path or Path(os.path.commonpath([path.absolute().parent for path in info.images]))
    return [Path(os.path.relpath(path, root)).as_posix() for path in info.images]


def _spread(items: Sequence[Path], count: int) -> list[Path]:
    """Return evenly spread items, the first and the last among them."""
    if len(items) <= count:
        return list(items)
    return [items[i * (len(items) - 1) // (count - 1)] for i in range(count)]


def _blocks(path: Path, count: int) -> bytes:
    """Return evenly spread blocks of a file, the first and the last among them; all of a small file."""
    size = path.stat().st_size
    with path.open("rb") as file:
        if size <= count * _BLOCK_BYTES:
            return file.read(count * _BLOCK_BYTES)
        found = []
        for i in range(count):
            file.seek(i * (size - _BLOCK_BYTES) // (count - 1))
            found.append(file.read(_BLOCK_BYTES))
        return b"".join(found)
