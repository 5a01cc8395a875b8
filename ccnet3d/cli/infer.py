"""``ccnet3d-infer``: videos in, one mask per frame out."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING, Any, BinaryIO

from ccnet3d.cli.early_checks import check_jobs, class_names
from ccnet3d.cli.infer_options import PROGRAM, SMOOTHING_FRAMES, SMOOTHING_SECONDS, build_parser
from ccnet3d.cli.infer_tasks import Work, check_job_options, finish_jobs, segment_in_turn
from ccnet3d.cli.live import check_live_jobs, segment_live
from ccnet3d.cli.memory import without_collection
from ccnet3d.cli.options import load_segmenter, print_now, run_command
from ccnet3d.cli.paths import expand_home
from ccnet3d.cli.sample import sample_input, write_sample_page
from ccnet3d.cli.streams import print_message
from ccnet3d.cli.views import add_views, check_views
from ccnet3d.errors import UserError
from ccnet3d.wording import count_of

if TYPE_CHECKING:
    from ccnet3d.inference import Job, RunOptions, Selection, StreamingSegmenter, TestTimeAugmentation
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


def chosen_frames(arguments: argparse.Namespace) -> Selection:
    """Return which frames the options select.

    Raises:
        UserError: a position that cannot be parsed, or a value out of its range.
    """
    from ccnet3d.inference import Selection, parse_moment

    end = None if arguments.end is None else parse_moment(arguments.end)
    return Selection(parse_moment(arguments.start), end, arguments.frame_stride)


def run_options(arguments: argparse.Namespace) -> RunOptions:
    """Return the options that all videos share; smoothing and overlay depend on the video."""
    from ccnet3d.inference import RunOptions

    return RunOptions(
        selection=chosen_frames(arguments),
        format=arguments.format,
        class_names=class_names(arguments),
        save_probabilities=arguments.save_probabilities,
        min_confidence=arguments.min_confidence,
        opacity=arguments.opacity,
        resume=arguments.resume,
        overwrite=arguments.overwrite,
    )


@contextmanager
def chosen_inputs(arguments: argparse.Namespace) -> Iterator[list[str]]:
    """Yield the videos that the user names, or the drawn clip in a temporary folder."""
    if bool(arguments.videos) == arguments.sample:
        raise UserError("give a video file, or --sample for a drawn clip (and not both)")
    if not arguments.sample:
        yield [expand_home(text) for text in arguments.videos]
        return
    with sample_input(arguments) as path:
        yield [path]


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
    segmenter: StreamingSegmenter | TestTimeAugmentation,
    options: RunOptions,
    arguments: argparse.Namespace,
    on_progress: Callable[[], None] = lambda: None,
    on_open: Callable[[VideoReader], None] = lambda _: None,
) -> dict[str, Any]:
    """Segment one video, with a progress bar on a terminal, and return its summary.

    Args:
        job: the video and its outputs, all of them local.
        segmenter: the model.
        options: what all videos share.
        arguments: the command's options.
        on_progress: called for each frame.
        on_open: called with the reader once it is open.
    """
    from ccnet3d.inference import STDIN, segment_video
    from ccnet3d.progress import progress_bar
    from ccnet3d.video import open_video

    source = _standard_input() if job.source == STDIN else job.source
    hidden = arguments.quiet or arguments.json
    with (
        open_video(
            source, arguments.decoder, arguments.stream, timeout=arguments.timeout, reconnect=arguments.reconnect
        ) as reader,
        progress_bar(total=reader.info.expected_frames, unit="frame", hidden=hidden, desc=reader.info.name) as bar,
    ):
        on_open(reader)
        live = reader.info.live

        def on_frame(event: dict[str, Any]) -> None:
            bar.update()
            on_progress()
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
        print_now(json.dumps({"event": "video", "video": job.name, "output": job.output, "summary": summary}))
    elif not arguments.quiet:
        masks = f"{count_of(summary['frames'], 'mask')} of {summary['width']}x{summary['height']} in {job.output}"
        print_now(f"{masks}{' from a drawn clip' if arguments.sample else ''}")
    return summary


def print_warning(text: str) -> None:
    print_message(f"{PROGRAM}: warning: {text}")


def load_views(arguments: argparse.Namespace) -> StreamingSegmenter | TestTimeAugmentation:
    """Return the model, or several views of it, as the options say."""
    return add_views(load_segmenter(arguments), arguments)


def run(arguments: argparse.Namespace) -> None:
    from ccnet3d.inference import is_remote, plan_all_jobs
    from ccnet3d.video import is_address

    check_views(arguments)
    check_job_options(arguments)
    chosen_frames(arguments)  # fails early, as check_jobs does: the import of PyTorch takes seconds
    with chosen_inputs(arguments) as inputs:
        jobs = plan_all_jobs(
            inputs,
            arguments.output,
            arguments.overlay,
            parse_shard(arguments.shard),
            alpha=arguments.alpha,
            shares=arguments.shares,
            on_skip=print_warning,
        )
        check_jobs(jobs, arguments)
        live = [job for job in jobs if is_address(job.source) and not is_remote(str(job.source))]
        check_live_jobs(live, arguments)
        with without_collection():
            work = Work(load_views, segment_job, run_options(arguments), arguments)
            segmenter = None if arguments.engine == "ray" else load_views(arguments)
        if segmenter is None:
            from ccnet3d.cli.ray_engine import segment_with_ray

            outcomes = segment_with_ray(jobs, work)
        else:
            files = [job for job in jobs if job not in live]
            outcomes = chain(segment_live(live, work, segmenter), segment_in_turn(files, work, segmenter))
        finish_jobs(outcomes, len(jobs), arguments, PROGRAM)
        if arguments.sample:
            advice = write_sample_page(arguments, inputs[0])
            if not (arguments.quiet or arguments.json):
                print_now(advice)


def advice_after_stop(arguments: argparse.Namespace) -> str:
    """Return how to go on after Ctrl-C; a live source cannot be resumed."""
    from ccnet3d.inference import is_remote
    from ccnet3d.video import is_address

    if any(is_address(source) and not is_remote(source) for source in arguments.videos):
        return ""
    return "the masks so far are complete; continue with --resume"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code; see :func:`ccnet3d.cli.options.run_command`."""
    arguments = build_parser().parse_args(argv)
    return run_command(PROGRAM, lambda: run(arguments), advice_after_stop(arguments), debug=arguments.debug)


if __name__ == "__main__":
    sys.exit(main())
