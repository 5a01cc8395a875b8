"""``ccnet3d-infer``: videos in, one mask per frame out."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from ccnet3d.cli.infer_options import PROGRAM, SMOOTHING_FRAMES, SMOOTHING_SECONDS, build_parser
from ccnet3d.cli.live import run_together
from ccnet3d.cli.options import load_segmenter, print_now, print_user_error, run_command
from ccnet3d.cli.paths import expand_home
from ccnet3d.cli.streams import print_message
from ccnet3d.cli.views import add_views, check_views
from ccnet3d.errors import UserError
from ccnet3d.wording import count_of

if TYPE_CHECKING:
    from ccnet3d.inference import Job, RunOptions, TestTimeAugmentation, VideoSegmenter
    from ccnet3d.video import VideoReader


def parse_shard(text: str) -> tuple[int, int]:
    """Parse ``I/N``.

    Raises:
        UserError: anything else.
    """
    index, _, count = text.partition("/")
    if not (index.isdecimal() and count.isdecimal()):
        raise UserError(f"expected a shard as I/N, such as 0/4, got {text!r}")
    return int(index), int(count)


def run_options(arguments: argparse.Namespace) -> RunOptions:
    """Return the options that all videos share; smoothing and overlay depend on the video."""
    from ccnet3d.inference import RunOptions, Selection, parse_moment

    class_names = [name.strip() for name in (arguments.classes or "").split(",") if name.strip()]
    if arguments.classes is not None and not class_names:
        raise UserError(f"--classes must be names of classes, such as Car,Pedestrian, got {arguments.classes!r}")
    return RunOptions(
        selection=Selection(
            parse_moment(arguments.start),
            None if arguments.end is None else parse_moment(arguments.end),
            arguments.frame_stride,
        ),
        format=arguments.format,
        class_names=class_names,
        save_probabilities=arguments.save_probabilities,
        min_confidence=arguments.min_confidence,
        opacity=arguments.opacity,
        resume=arguments.resume,
        overwrite=arguments.overwrite,
    )


@contextmanager
def chosen_inputs(arguments: argparse.Namespace) -> Iterator[list[str]]:
    """Yield the videos that the user names, or the synthetic clip in a temporary folder."""
    if bool(arguments.videos) == arguments.sample:
        raise UserError("give a video file, or --sample for a synthetic clip (and not both)")
    if not arguments.sample:
        yield [expand_home(text) for text in arguments.videos]
        return
    from ccnet3d.video import write_sample_video

    try:
        folder = tempfile.TemporaryDirectory()
    except OSError as error:
        raise UserError(f"--sample needs a temporary folder ({error.strerror}); name one in TMPDIR") from error
    with folder as name:
        path = Path(name) / "synthetic_sample.mp4"
        write_sample_video(path)
        yield [str(path)]


def chosen_smoothing(arguments: argparse.Namespace, frames_per_second: float | None) -> int:
    """Return the frames on each side: as requested, or where docs/inference.md shows that it helps."""
    if arguments.smooth is not None:
        return int(arguments.smooth)
    close = frames_per_second and arguments.frame_stride / frames_per_second <= SMOOTHING_SECONDS
    return SMOOTHING_FRAMES if close else 0


def _standard_input() -> BinaryIO:
    if sys.stdin is None:
        raise UserError("standard input is closed; pipe a video into it, or give a file")
    return sys.stdin.buffer


def segment_job(
    job: Job,
    segmenter: VideoSegmenter | TestTimeAugmentation,
    options: RunOptions,
    arguments: argparse.Namespace,
    on_open: Callable[[VideoReader], None] = lambda _: None,
) -> None:
    """Segment one video, with a progress bar on a terminal."""
    from tqdm import tqdm

    from ccnet3d.inference import STDIN, segment_video
    from ccnet3d.video import open_video

    source = _standard_input() if job.source == STDIN else job.source
    hidden = True if arguments.quiet or arguments.json else None  # None: on a terminal only
    with (
        open_video(
            source, arguments.decoder, arguments.stream, timeout=arguments.timeout, reconnect=arguments.reconnect
        ) as reader,
        tqdm(total=reader.info.expected_frames, unit="frame", disable=hidden, desc=reader.info.name) as bar,
    ):
        on_open(reader)
        live = reader.info.live

        def on_frame(event: dict[str, Any]) -> None:
            bar.update()
            dropped = {"dropped_frames": reader.info.dropped_frames} if live else {}
            if arguments.json:
                print_now(json.dumps({"event": "frame", "video": job.name, **event, **dropped}))

        smoothing = chosen_smoothing(arguments, reader.info.frames_per_second)
        options = replace(options, smoothing=smoothing, overlay=job.overlay, alpha=job.alpha, shares=job.shares)
        if arguments.causal is None:
            segmenter = segmenter.with_causal(live)
        summary = segment_video(reader, segmenter, job.folder, options, on_frame=on_frame)
    for warning in summary["warnings"]:
        print_warning(warning)
    if arguments.json:
        print_now(json.dumps({"event": "video", "video": job.name, "output": str(job.folder), "summary": summary}))
    elif not arguments.quiet:
        masks = f"{count_of(summary['frames'], 'mask')} of {summary['width']}x{summary['height']} in {job.folder}"
        print_now(f"{masks}{' from a synthetic clip' if arguments.sample else ''}")


def print_warning(text: str) -> None:
    print_message(f"{PROGRAM}: warning: {text}")


def run_live(
    jobs: list[Job],
    alone: bool,
    segmenter: VideoSegmenter | TestTimeAugmentation,
    options: RunOptions,
    arguments: argparse.Namespace,
) -> int:
    """Segment URLs and cameras at the same time, until Ctrl-C at the latest; return how many failed.

    Raises:
        UserError: there is one job alone, and it failed.
    """
    readers: list[VideoReader] = []
    stopped = threading.Event()

    def work(job: Job) -> None:
        segment_job(job, segmenter, options, arguments, on_open)

    def on_open(reader: VideoReader) -> None:
        readers.append(reader)
        if stopped.is_set():
            reader.stop()

    def stop() -> None:
        stopped.set()
        for reader in readers:
            reader.stop()

    failures = run_together(jobs, work, stop)
    for job, error in failures:
        if alone or not isinstance(error, UserError):
            raise error
        print_user_error(PROGRAM, error, debug=arguments.debug, source=job.name)
    return len(failures)


def run(arguments: argparse.Namespace) -> None:
    from ccnet3d.inference import plan_jobs
    from ccnet3d.video import is_address

    check_views(arguments)
    options = run_options(arguments)  # fails early, before a model is loaded
    with chosen_inputs(arguments) as inputs:
        jobs = plan_jobs(
            inputs,
            arguments.output,
            arguments.overlay,
            parse_shard(arguments.shard),
            alpha=arguments.alpha,
            shares=arguments.shares,
            on_skip=print_warning,
        )
        segmenter = add_views(load_segmenter(arguments), arguments)
        live_jobs = [job for job in jobs if is_address(job.source)]
        failed = run_live(live_jobs, len(jobs) == 1, segmenter, options, arguments)
        for job in [job for job in jobs if job not in live_jobs]:
            try:
                segment_job(job, segmenter, options, arguments)
            except UserError as error:  # one bad video does not stop the others; a bug does
                if len(jobs) == 1:
                    raise
                failed += 1
                print_user_error(PROGRAM, error, debug=arguments.debug, source=job.name)
        if failed:
            raise UserError(f"{failed} of {count_of(len(jobs), 'video')} failed; their errors are above")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code; see :func:`ccnet3d.cli.options.run_command`."""
    arguments = build_parser().parse_args(argv)
    return run_command(
        PROGRAM,
        lambda: run(arguments),
        "the masks so far are complete; continue with --resume",
        debug=arguments.debug,
    )


if __name__ == "__main__":
    sys.exit(main())
