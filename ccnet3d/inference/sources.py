"""From what a user names to videos and their outputs: several, folders, patterns, shards."""

from __future__ import annotations

import glob
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ccnet3d.constants import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from ccnet3d.errors import UserError

STDIN = "-"


@dataclass(frozen=True)
class Job:
    """One video and where its output goes."""

    source: Path | str
    """As :func:`ccnet3d.video.open_video` takes it, or STDIN."""
    folder: Path
    overlay: Path | None

    @property
    def name(self) -> str:
        return "standard input" if self.source == STDIN else str(self.source)


def plan_jobs(
    inputs: Sequence[str], output: Path, overlay: Path | None = None, shard: tuple[int, int] = (0, 1)
) -> list[Job]:
    """Find the videos, name their outputs, and take a shard's part of them.

    One video writes into ``output`` itself; several, or the videos of a folder, into a folder of it for each, named as
    the video, and overlays into the folder ``overlay``. Names and the order of a folder's videos do not depend on the
    shard: shard i of n takes every n-th video from the i-th on.

    Args:
        inputs: video files, folders of videos or of images, patterns of either, or ``-``.
        output: folder of the masks.
        overlay: an .mp4 file, or a folder where there are several videos.
        shard: (i, n), i from 0 to n - 1.

    Raises:
        ValueError: a folder or pattern without videos or images, one video twice, or an impossible shard.
    """
    index, count = shard
    if not 0 <= index < count:
        raise UserError(f"the shards of {count} are 0/{count} to {count - 1}/{count}, got {index}/{count}")
    sources: list[Path | str] = []
    several = len(inputs) > 1
    for text in inputs:
        found = _find(text)
        several = (
            several or len(found) > 1 or found != [Path(text) if text != STDIN and not _is_pattern(text) else text]
        )
        sources += found
    repeated = [source for source, times in Counter(map(str, sources)).items() if times > 1]
    if repeated:
        raise UserError(f"{repeated[0]} is given {Counter(map(str, sources))[repeated[0]]} times; give it once")
    if not several:
        return [Job(sources[0], output, overlay)][index::count]
    if overlay and overlay.suffix.lower() == ".mp4":
        raise UserError(f"with several videos --overlay names a folder, got the file {overlay}")
    names = _names(sources)
    return [
        Job(source, output / name, overlay / f"{name}.mp4" if overlay else None)
        for source, name in zip(sources, names, strict=True)
    ][index::count]


def _is_pattern(text: str) -> bool:
    return text != STDIN and any(sign in text for sign in "*?[") and not Path(text).exists()


def _find(text: str) -> list[Path | str]:
    """Sources that an input stands for.

    Raises:
        ValueError: a folder or a pattern without any.
    """
    if text == STDIN:
        return [text]
    path = Path(text)
    if not _is_pattern(text) and not path.is_dir():
        return [path]
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if not p.name.startswith("."))
        whole: Path | str = path
    else:
        files = sorted(Path(match) for match in glob.glob(text, recursive=True))  # noqa: PTH207 - it may be absolute
        whole = text
        if not files:
            raise UserError(f"no file matches the pattern {text}")
    videos = [file for file in files if file.suffix.lower() in VIDEO_SUFFIXES]
    if videos:
        return list(videos)
    if any(file.suffix.lower() in IMAGE_SUFFIXES for file in files):
        return [whole]  # one video whose frames these are
    what = "pattern" if whole == text else "folder"
    raise UserError(f"no video and no image is in the {what} {text}; give another, or the file by its name")


def _fixed_part(pattern: Path) -> Path:
    while _is_pattern(str(pattern)):
        pattern = pattern.parent
    return pattern


def _names(sources: Sequence[Path | str]) -> list[str]:
    """A name for each source's outputs: without extension, or more of it where that is not enough.

    Raises:
        ValueError: two sources that no name tells apart.
    """
    paths = [Path("stdin") if source == STDIN else Path(source) for source in sources]
    # The folder of a pattern, without its own wildcards; resolved, so that . and .. have their names.
    paths = [_fixed_part(path) if _is_pattern(str(path)) else path for path in paths]
    paths = [path.resolve() if path.is_dir() else path for path in paths]
    names = [path.name if path.is_dir() else path.stem for path in paths]
    for longer in (lambda p: p.name, lambda p: f"{p.absolute().parent.name}_{p.name}"):
        # Two names that differ in case only are one on some file systems.
        times = Counter(name.lower() for name in names)
        names = [name if times[name.lower()] == 1 else longer(path) for name, path in zip(names, paths, strict=True)]
    times = Counter(name.lower() for name in names)
    if clash := [path for name, path in zip(names, paths, strict=True) if times[name.lower()] > 1]:
        raise UserError(f"{clash[0]} and {clash[1]} would share one output folder; run them one by one")
    return names
