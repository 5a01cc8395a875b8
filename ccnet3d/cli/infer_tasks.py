"""What ``ccnet3d-infer`` does with each video, in this process or in those of Ray, and how the videos ended."""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ccnet3d.cli.command_parser import refuse_unused
from ccnet3d.cli.infer_options import build_parser
from ccnet3d.cli.manifest import Manifest, Outcome
from ccnet3d.cli.options import print_user_error
from ccnet3d.errors import UserError
from ccnet3d.wording import count_of

if TYPE_CHECKING:
    from ccnet3d.inference import Job, Piece, RunOptions, StreamingSegmenter, TestTimeAugmentation

    Segmenter = StreamingSegmenter | TestTimeAugmentation

__all__ = ["Task", "Work", "check_job_options", "finish_jobs", "is_complete", "perform", "segment_in_turn"]


@dataclass(frozen=True)
class Work:
    """What all videos of a command share."""

    load: Callable[[argparse.Namespace], Segmenter]
    segment: Callable[..., dict[str, Any]]
    """Segment one video; see :func:`ccnet3d.cli.infer.segment_job`."""
    options: RunOptions
    arguments: argparse.Namespace


@dataclass(frozen=True)
class Task:
    """A step of the work on one video, which one process does."""

    job: Job
    step: str = "whole"
    """``whole``: the video; ``split``: find its pieces; ``piece``; ``join``: all pieces become one run."""
    pieces: tuple[Piece, ...] = ()
    """The piece, or all that are joined."""
    tries: int = 0
    """How often a process died over it."""


def check_job_options(arguments: argparse.Namespace) -> None:
    """Check what can be checked before a model is loaded.

    Raises:
        UserError: options that exclude each other, or a manifest that cannot be written.
    """
    if arguments.piece_frames and "://" in str(arguments.output):
        raise UserError("--piece-frames needs a local output folder, which all processes share, not a URL")
    if not (arguments.overlay or arguments.sample):
        refuse_unused(build_parser(), arguments, ("opacity",), "is for the video of --overlay; add --overlay FILE.mp4")
    for name in ("actors", "retries"):
        if arguments.engine != "ray" and getattr(arguments, name) is not None:
            raise UserError(f"--{name} is an option of --engine ray; give --engine ray, too")
    if arguments.manifest:
        if arguments.shares and Path(str(arguments.manifest)).absolute() == arguments.shares.absolute():
            raise UserError(f"--manifest and --shares are both {arguments.shares}; give them different names")
        Manifest(arguments.manifest).check()


def perform(
    task: Task, work: Work, segmenter: Segmenter, on_progress: Callable[[], None] = lambda: None
) -> dict[str, Any] | tuple[Piece, ...]:
    """Do a task, and return the summary of its run, or the pieces of a split.

    Raises:
        UserError: this video fails.
    """
    from ccnet3d.inference import local_job

    options = _options_of(task, work.options)
    with local_job(task.job, resume=options.resume, overwrite=options.overwrite) as job:
        if task.step == "split":
            return _split(job, work)
        if task.step == "piece":
            return _segment_piece(job, task.pieces[0], work, options, segmenter, on_progress)
        if task.step == "join":
            return _join(job, task.pieces, work, options, segmenter)
        pieces = _split(job, work) if work.arguments.piece_frames and task.tries == 0 else ()
        if len(pieces) < 2:
            return work.segment(job, segmenter, options, work.arguments, on_progress)
        for piece in pieces:
            _segment_piece(job, piece, work, options, segmenter, on_progress)
        return _join(job, pieces, work, options, segmenter)


def _options_of(task: Task, options: RunOptions) -> RunOptions:
    """Return the options of a try: after a process died, what it has done is kept."""
    if not task.tries or task.job.prefix:
        return options
    from ccnet3d.inference import piece_folder
    from ccnet3d.masks import RunFolder

    folder = piece_folder(task.job.folder, task.pieces[0]) if task.step == "piece" else task.job.folder
    begun = not options.overwrite or RunFolder(folder).is_interrupted()
    return replace(options, resume=True, overwrite=False) if begun else options


def _split(job: Job, work: Work) -> tuple[Piece, ...]:
    """Return the pieces of a video; none if it is short, a pipe, or not to be segmented now."""
    from ccnet3d.inference import STDIN, remove_pieces, split_into_pieces
    from ccnet3d.masks import RunFolder
    from ccnet3d.video import open_video

    arguments, options = work.arguments, work.options
    run = RunFolder(job.folder)
    if job.source == STDIN or (run.is_interrupted() and not (options.resume or options.overwrite)):
        return ()
    if run.read_summary() is not None and not options.overwrite:
        if options.resume:
            remove_pieces(job.folder)  # of a run that was killed while it removed them
        return ()
    with open_video(job.source, arguments.decoder, arguments.stream) as reader:
        is_file = reader.info.images or (reader.info.path and reader.info.path.is_file())
        expected = reader.info.expected_frames or (len(reader) if is_file else None)
    pieces = split_into_pieces(options.selection, expected, arguments.piece_frames) if is_file and expected else ()
    return tuple(pieces) if len(pieces) > 1 else ()


def _segment_piece(
    job: Job,
    piece: Piece,
    work: Work,
    options: RunOptions,
    segmenter: Segmenter,
    on_progress: Callable[[], None],
) -> dict[str, Any]:
    from ccnet3d.inference import piece_folder

    folder = piece_folder(job.folder, piece)
    part = replace(job, folder=folder, overlay=None, alpha=None, shares=None, original=job.original or job)
    quiet = argparse.Namespace(**{**vars(work.arguments), "quiet": True, "json": False})
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):  # joining says it all again
        return work.segment(part, segmenter, replace(options, piece=piece), quiet, on_progress)


def _join(job: Job, pieces: Sequence[Piece], work: Work, options: RunOptions, segmenter: Segmenter) -> dict[str, Any]:
    from ccnet3d.inference import piece_folder, remove_pieces

    folders = [piece_folder(job.folder, piece) for piece in pieces]
    summary = work.segment(job, segmenter, replace(options, joined=folders), work.arguments)
    remove_pieces(job.folder)
    return summary


def is_complete(task: Task, work: Work) -> bool:
    """Return whether ``--resume`` will find a complete run and skip the video."""
    from ccnet3d.inference import read_remote
    from ccnet3d.masks import SUMMARY_NAME

    if not work.options.resume or task.tries or task.step in ("piece", "join"):
        return False
    if task.job.prefix:
        return read_remote(f"{task.job.output}/{SUMMARY_NAME}", 1 << 28) is not None
    return (task.job.folder / SUMMARY_NAME).is_file()


def segment_in_turn(jobs: Sequence[Job], work: Work, segmenter: Segmenter) -> Iterator[Outcome]:
    """Segment videos one after the other in this process; a bug ends all, an invalid video only itself."""
    for job in jobs:
        task, begun = Task(job), time.monotonic()
        skipped = False
        try:
            skipped = is_complete(task, work)
            summary = perform(task, work, segmenter)
        except UserError as error:
            yield Outcome.failed(job, time.monotonic() - begun, error)
        else:
            assert isinstance(summary, dict)
            yield Outcome.done(job, time.monotonic() - begun, summary["frames"], skipped=skipped)


def finish_jobs(outcomes: Iterable[Outcome], count: int, arguments: argparse.Namespace, program: str) -> None:
    """Report the videos that fail, and write the manifest, also if the command is stopped.

    Raises:
        UserError: videos failed.
    """
    finished: list[Outcome] = []
    try:
        for outcome in outcomes:
            finished.append(outcome)
            if outcome.status == "failed" and count > 1:
                error = outcome.cause or UserError(outcome.error)
                print_user_error(program, error, debug=arguments.debug and bool(outcome.cause), source=outcome.video)
    finally:
        if arguments.manifest:
            Manifest(arguments.manifest).write(finished)
    failed = [outcome for outcome in finished if outcome.status == "failed"]
    if failed and count == 1:
        raise failed[0].cause or UserError(failed[0].error)
    if failed:
        raise UserError(f"{len(failed)} of {count_of(count, 'video')} failed; their errors are above")
