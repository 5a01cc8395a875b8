"""Videos and output folders in object stores and other places that fsspec reaches, such as ``s3://`` and ``gs://``.

A remote video is copied to a temporary folder. A remote output folder is written in a temporary folder first, where an
empty file stands for each file that is there already, so that the rules of local folders decide what may be replaced.
It is uploaded when it is complete: a journal of the names, the files, and ``summary.json`` last.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from ccnet3d.constants import VIDEO_SUFFIXES
from ccnet3d.errors import OutputError, UserError
from ccnet3d.inference.remote_folder import RemoteFolder
from ccnet3d.inference.remote_store import Store, is_remote, split_url
from ccnet3d.inference.sources import Job, plan_jobs

__all__ = ["local_job", "plan_all_jobs", "read_remote", "write_remote"]

_MOST_NAMED = 5


def plan_all_jobs(
    inputs: Sequence[str],
    output: Path | str,
    overlay: Path | str | None = None,
    shard: tuple[int, int] = (0, 1),
    *,
    alpha: Path | None = None,
    shares: Path | None = None,
    on_skip: Callable[[str], None] = lambda _: None,
) -> list[Job]:
    """Plan jobs as :func:`ccnet3d.inference.plan_jobs` does, with URLs for videos and outputs, too.

    Args:
        inputs: also URLs of videos, of folders of videos, and of patterns.
        output: folder of the masks, or its URL.
        overlay: an .mp4 file or a folder, in the same place as ``output``.
        shard: (i, n).
        alpha: as for ``plan_jobs``; for local outputs only.
        shares: the same.
        on_skip: called with a line for the user where files are left out.

    Raises:
        UserError: no such file or folder, or a place that cannot be used.

    >>> plan_all_jobs(["walk.mp4", "drive.mkv"], "s3://bucket/masks")[1].output
    's3://bucket/masks/drive'
    """
    expanded: list[str] = []
    nested = False
    for text in inputs:
        if is_remote(text):
            found, is_collection = _expand(text, on_skip)
            expanded += found
            nested = nested or is_collection
        else:
            expanded.append(text)
    places = [split_url(str(path)) if is_remote(str(path)) else ("", str(path)) for path in (output, overlay or output)]
    if places[0][0] != places[1][0]:
        raise UserError(f"the output {output} and the overlay {overlay} must be both local or in the same store")
    if places[0][0] and (alpha or shares):
        raise UserError(
            f"--alpha and --shares need a local output folder, got {output}; ccnet3d-masks makes them later"
        )
    paths = [Path(rest) for _, rest in places]
    jobs = plan_jobs(
        expanded,
        paths[0],
        paths[1] if overlay else None,
        shard,
        nested=nested,
        alpha=alpha,
        shares=shares,
        on_skip=on_skip,
    )
    return [replace(job, prefix=places[0][0]) for job in jobs]


def _expand(url: str, on_skip: Callable[[str], None]) -> tuple[list[str], bool]:
    """Return the videos that a URL stands for, and whether it is a folder or pattern."""
    store = Store(url)
    if store.is_file(url):
        return [url], False
    files = store.match(url) if any(sign in url for sign in "*?[") else store.list_folder(url)
    videos = [file for file in files if Path(file).suffix.lower() in VIDEO_SUFFIXES]
    others = [Path(file).name for file in files if file not in set(videos)]
    more = f" and {len(others) - _MOST_NAMED} more" if len(others) > _MOST_NAMED else ""
    named = ", ".join(others[:_MOST_NAMED]) + more
    if not files:
        raise UserError(f"there is no file, folder or match of {url}; check the name")
    if not videos:
        raise UserError(f"{url} contains no video (only {named}); give another folder, or the name of a file")
    if others:
        on_skip(f"{url} is read as videos; left out: {named}")
    return videos, True


@contextmanager
def local_job(job: Job, *, resume: bool = False, overwrite: bool = False) -> Iterator[Job]:
    """Yield a job with local copies of what is remote; upload its outputs when the block ends without an error.

    Args:
        job: it is yielded as it is if nothing of it is remote.
        resume: a complete remote run is left as it is, one whose upload was interrupted is replaced.
        overwrite: a remote run is replaced.

    Raises:
        UserError: a place that cannot be used, or whatever the block raises, with remote names instead of local ones.
    """
    remote_source = is_remote(str(job.source))
    if not remote_source and not job.prefix:
        yield job
        return
    with _temporary_folder() as temporary:
        source, folder, overlay = job.source, job.folder, job.overlay
        outputs = None
        try:
            if remote_source:
                (temporary / "video").mkdir()
                source = Store(str(source)).fetch(str(source), temporary / "video")
            if job.prefix:
                folder = temporary / "output" / folder
                overlay = temporary / "output" / overlay if overlay else None
                outputs = RemoteFolder(job.prefix, temporary / "output", folder, overlay)
                outputs.prepare(resume=resume, overwrite=overwrite)
            yield Job(source, folder, overlay, job.alpha, job.shares, original=job)
            if outputs:
                outputs.publish()
        except OutputError as error:
            name = _as_typed(str(error.filename), job, source, temporary)
            raise OutputError(error.errno, error.strerror, name) from error
        except UserError as error:
            raise UserError(_as_typed(str(error), job, source, temporary)) from error


def _as_typed(text: str, job: Job, source: Path | str, temporary: Path) -> str:
    return text.replace(str(source), str(job.source)).replace(f"{temporary / 'output'}/", job.prefix)


@contextmanager
def _temporary_folder() -> Iterator[Path]:
    try:
        folder = tempfile.mkdtemp(prefix="ccnet3d-")
    except OSError as error:
        raise UserError(
            f"remote files need a temporary folder ({error.strerror}); name one in the environment variable TMPDIR"
        ) from error
    try:
        yield Path(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def read_remote(url: str, most_bytes: int) -> bytes | None:
    """Return the contents of a remote file, None if there is none.

    Raises:
        UserError: it cannot be read, or is larger than ``most_bytes``.
    """
    return Store(url).read(url, most_bytes)


def write_remote(url: str, data: bytes) -> None:
    """Write a remote file.

    Raises:
        UserError: it cannot be written.
    """
    Store(url).write(url, data)
