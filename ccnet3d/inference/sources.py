"""From the names that a user gives to videos and their outputs: several videos, folders, patterns, shards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ccnet3d.errors import UserError
from ccnet3d.inference.remote_store import is_remote
from ccnet3d.video import is_address, is_image, match_pattern, safe_name, short_name, sort_files

__all__ = ["STDIN", "Job", "plan_jobs"]

STDIN = "-"

_MOST_NAMED = 5
_ENDINGS = {"overlay": (".mp4",), "alpha": (".webm", ".mov"), "shares": (".csv", ".parquet")}
"""Of the files beside the masks; with several videos the first is used."""


@dataclass(frozen=True)
class Job:
    """One video and where its output goes."""

    source: Path | str
    """As :func:`ccnet3d.video.open_video` accepts it, or STDIN."""
    folder: Path
    overlay: Path | None
    alpha: Path | None = None
    shares: Path | None = None
    prefix: str = ""
    """Start of a URL, such as ``s3://``, before ``folder`` and ``overlay``; empty for local outputs."""
    original: Job | None = None
    """The job that the user gave, if this one has local copies of what is remote."""

    @property
    def name(self) -> str:
        """The source as messages name it."""
        source = (self.original or self).source
        return "standard input" if source == STDIN else safe_name(str(source))

    @property
    def output(self) -> str:
        """The output folder as messages name it."""
        job = self.original or self
        return f"{job.prefix}{job.folder.as_posix()}" if job.prefix else str(job.folder)


def plan_jobs(
    inputs: Sequence[str],
    output: Path,
    overlay: Path | None = None,
    shard: tuple[int, int] = (0, 1),
    *,
    nested: bool = False,
    alpha: Path | None = None,
    shares: Path | None = None,
    on_skip: Callable[[str], None] = lambda _: None,
) -> list[Job]:
    """Find the videos, name their outputs, and return a shard of them.

    One video is written to ``output`` itself. Several videos, or the videos of a folder, are each written to a folder
    in it that is named after the video, and their overlays to the folder ``overlay``, and so on. Names and the order of
    a folder's videos do not depend on the shard: shard i of n is every n-th video from the i-th on.

    Args:
        inputs: video files, folders of videos or of images, patterns of either, or ``-``.
        output: folder of the masks.
        overlay: an .mp4 file, or a folder where there are several videos.
        shard: (i, n), i from 0 to n - 1.
        nested: give a single video a folder in ``output``, too.
        alpha: a .webm or .mov file, or a folder for .webm files where there are several videos.
        shares: a .csv or .parquet file, or a folder for .csv files where there are several videos.
        on_skip: called with a line for the user where files of a folder or pattern are left out.

    Raises:
        UserError: a folder or pattern without videos or images, several single images, one video twice, or an
            impossible shard.

    >>> [str(job.folder) for job in plan_jobs(["walk.mp4", "drive.mkv"], Path("masks"))]
    ['masks/walk', 'masks/drive']
    """
    index, count = shard
    if count < 1:
        raise UserError(f"the number of shards must be at least 1, got {index}/{count}")
    if not 0 <= index < count:
        raise UserError(f"the shards of {count} are 0/{count} to {count - 1}/{count}, got {index}/{count}")
    _refuse_single_images(inputs)
    sources: list[Path | str] = []
    several = nested or len(inputs) > 1
    for text in inputs:
        found, is_collection = _find(text, on_skip)
        several = several or is_collection
        sources += found
    for name, times in Counter(map(str, sources)).items():
        if times > 1:
            raise UserError(f"{safe_name(name)} is given {times} times; give it once")
    if not several:
        return [Job(sources[0], output, overlay, alpha, shares)][index::count]
    beside = {"overlay": overlay, "alpha": alpha, "shares": shares}
    for option, path in beside.items():
        if path and path.suffix.lower() in _ENDINGS[option]:
            raise UserError(f"with several videos --{option} names a folder, got the file {path}")

    def named(option: str, name: str) -> Path | None:
        path = beside[option]
        return path / f"{name}{_ENDINGS[option][0]}" if path else None

    jobs = [
        Job(source, output / name, named("overlay", name), named("alpha", name), named("shares", name))
        for source, name in zip(sources, _output_names(sources), strict=True)
    ]
    return jobs[index::count]


def _is_pattern(text: str) -> bool:
    return text != STDIN and "://" not in text and any(sign in text for sign in "*?[") and not Path(text).exists()


def _refuse_single_images(inputs: Sequence[str]) -> None:
    """Refuse the images of a pattern that the shell has expanded: each would be a video of its own.

    Raises:
        UserError: there are several inputs, and images among them.
    """
    images = [Path(text) for text in inputs if is_image(Path(text)) and Path(text).is_file()]
    if images and len(inputs) > 1:
        pattern = images[0].parent / f"*{images[0].suffix}"
        raise UserError(
            f"{len(images)} of the {len(inputs)} inputs are images, the first is {images[0]}; to read images as the "
            f"frames of one video, quote the pattern, as in '{pattern}', or give their folder"
        )


def _find(text: str, on_skip: Callable[[str], None]) -> tuple[list[Path | str], bool]:
    """Return the sources that an input stands for, and whether it is a collection of videos, be it of one.

    Raises:
        UserError: a folder or a pattern without any source, or one that cannot be read.
    """
    path = Path(text)
    try:
        if text == STDIN or is_address(text):  # a Path would lose a slash of a URL
            return [text], False
        if _is_pattern(text):
            kind = "pattern"
            files = match_pattern(text)
        elif path.is_dir():
            kind = "folder"
            files = list(path.iterdir())
        else:
            return [path], False
        if kind == "pattern" and not files:
            raise UserError(f"no file matches the pattern {text}")
        kinds = sort_files(sorted(files))
    except OSError as error:
        raise UserError(f"cannot read {text}: {error.strerror}") from error
    if kinds.videos:
        _report(f"{kind} {text}", "videos", [*kinds.images, *kinds.others], on_skip)
        return [*kinds.videos], True
    if kinds.images:
        _report(f"{kind} {text}", "images", kinds.others, on_skip)
        return [path if kind == "folder" else text], False  # one video whose frames these are
    contents = f" (only {_some(kinds.others)})" if kinds.others else ""
    raise UserError(
        f"the {kind} {text} contains no video and no image{contents}; give another one, or the name of a file"
    )


def _report(where: str, kind: str, skipped: Sequence[Path], on_skip: Callable[[str], None]) -> None:
    if skipped:
        on_skip(f"the {where} is read as {kind}; left out: {_some(skipped)}")


def _some(paths: Sequence[Path]) -> str:
    """Return the names of the first of some files; folders end in a slash."""
    names = [f"{path.name}/" if path.is_dir() else path.name for path in sorted(paths)]
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(names[:_MOST_NAMED]) + more


def _fixed_part(pattern: Path) -> Path:
    while _is_pattern(str(pattern)):
        pattern = pattern.parent
    return pattern


def _output_names(sources: Sequence[Path | str]) -> list[str]:
    """Return a name for the outputs of each source: the video's without extension, or more of it where names clash.

    Raises:
        UserError: two sources with the same name and folder name.
    """
    paths = [Path("stdin") if source == STDIN else _path(source) for source in sources]
    # A pattern is named after its folder, up to the first wildcard; resolved, so that . and .. have names.
    paths = [
        _fixed_part(path) if _is_pattern(str(source)) else path for source, path in zip(sources, paths, strict=True)
    ]
    paths = [path.resolve() if path.is_dir() else path for path in paths]
    names = [path.name if path.is_dir() else path.stem for path in paths]
    for longer in (lambda path: path.name, lambda path: f"{path.absolute().parent.name}_{path.name}"):
        clashing = _clashing(names)
        names = [longer(path) if clash else name for name, path, clash in zip(names, paths, clashing, strict=True)]
    clashes = [path for path, clash in zip(paths, _clashing(names), strict=True) if clash]
    if clashes:
        raise UserError(f"{clashes[0]} and {clashes[1]} would share one output folder; run them one by one")
    return names


def _path(source: Path | str) -> Path:
    """Return a path whose name the outputs of a source get."""
    stream = is_address(source) and not is_remote(str(source))
    return Path(short_name(str(source))) if stream else Path(source)


def _clashing(names: Sequence[str]) -> list[bool]:
    """Return which names equal another one; some file systems ignore case."""
    times = Counter(name.lower() for name in names)
    return [times[name.lower()] > 1 for name in names]
