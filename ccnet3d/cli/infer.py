"""``ccnet3d-infer``: videos in, one mask per frame out."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ccnet3d import __version__
from ccnet3d.cli.options import add_model_options, error_line, load_segmenter, non_negative, run_command, share
from ccnet3d.errors import UserError

if TYPE_CHECKING:
    from ccnet3d.inference import Job, RunOptions, VideoSegmenter

PROGRAM = "ccnet3d-infer"

SMOOTHING_FRAMES, SMOOTHING_SECONDS = 2, 0.1
"""Default smoothing, and how close frames must be in time for it: at one frame a second it does harm."""


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Segment videos: one palette PNG per frame, whose pixel values are class ids, and summary.json.",
    )
    parser.add_argument(
        "videos",
        nargs="*",
        metavar="VIDEO",
        help="a video file; a folder of images or a quoted pattern of them ('frames/*.png'); a folder of videos; "
        "- for standard input. Several videos get a folder of the output each",
    )
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for the masks")
    parser.add_argument(
        "--sample",
        action="store_true",
        help="instead of a video, segment a small synthetic clip (drawn, no real scene)",
    )
    add_output_options(parser)
    add_selection_options(parser)
    parser.add_argument("--decoder", choices=("auto", "av", "decord"), default="auto", help="auto is av (PyAV)")
    model = parser.add_argument_group("model")
    add_model_options(model)
    model.add_argument(
        "--smooth",
        type=non_negative,
        metavar="N",
        help="average each answer with N frames on each side (when causal, before it) where the picture stands still; "
        f"by default {SMOOTHING_FRAMES} where frames are at most {SMOOTHING_SECONDS} s apart, else 0",
    )
    parser.add_argument("--json", action="store_true", help="one line of JSON on stdout for each frame and each video")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress bar and no closing line")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    return parser


def add_output_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("output")
    group.add_argument(
        "--format",
        choices=("png", "npz", "ffv1", "cvat"),
        default="png",
        help="png: a palette PNG per frame; npz: masks.npz; ffv1: masks.mkv, lossless; cvat: cvat.zip for import there",
    )
    group.add_argument("--classes", metavar="NAME,NAME", help="only these classes; pixels of others become 255")
    group.add_argument(
        "--overlay",
        type=Path,
        metavar="FILE.mp4",
        help="also write the video with the masks over it; with several videos, a folder for them",
    )
    group.add_argument("--opacity", type=share, default=0.5, help="share of the class colour in it, 0 to 1; 0.5")
    group.add_argument(
        "--save-probabilities",
        action="store_true",
        help="also write probabilities/NUMBER.npz: uint8 [K, h, w] in 255ths, at the decoder's stride",
    )
    again = group.add_mutually_exclusive_group()
    again.add_argument(
        "--resume", action="store_true", help="go on with a run that was interrupted; skip complete ones"
    )
    again.add_argument("--overwrite", action="store_true", help="replace the masks of an earlier run")


def add_selection_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("which frames, which videos")
    group.add_argument("--start", default="0", metavar="WHEN", help="first frame: 250, or a time: 10s, 10.5, 1:02:03")
    group.add_argument("--end", metavar="WHEN", help="frame or time to stop before")
    group.add_argument("--frame-stride", type=int, default=1, metavar="N", help="every N-th frame only")
    group.add_argument(
        "--shard", default="0/1", metavar="I/N", help="every N-th video from the I-th on, I from 0 to N-1"
    )


def parse_shard(text: str) -> tuple[int, int]:
    index, _, count = text.partition("/")
    if not (index.isdecimal() and count.isdecimal()):
        raise UserError(f"a shard is given as I/N, such as 0/4, got {text!r}")
    return int(index), int(count)


def run_options(arguments: argparse.Namespace, overlay: Path | None) -> RunOptions:
    from ccnet3d.inference import RunOptions, Selection, parse_position

    return RunOptions(
        selection=Selection(
            parse_position(arguments.start),
            None if arguments.end is None else parse_position(arguments.end),
            arguments.frame_stride,
        ),
        format=arguments.format,
        class_names=[name.strip() for name in (arguments.classes or "").split(",") if name.strip()],
        save_probabilities=arguments.save_probabilities,
        overlay=overlay,
        opacity=arguments.opacity,
        resume=arguments.resume,
        overwrite=arguments.overwrite,
    )


@contextmanager
def chosen_inputs(arguments: argparse.Namespace) -> Iterator[list[str]]:
    """What the user names, or the synthetic clip in a temporary folder."""
    if bool(arguments.videos) == arguments.sample:
        raise UserError("give a video file, or --sample for a synthetic clip (and not both)")
    if not arguments.sample:
        yield arguments.videos
        return
    from ccnet3d.video import write_sample_video

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "synthetic_sample.mp4"
        write_sample_video(path)
        yield [str(path)]


def chosen_smoothing(arguments: argparse.Namespace, frames_per_second: float | None) -> int:
    """Frames on each side, as asked for or as docs/inference.md measures it to help."""
    if arguments.smooth is not None:
        return int(arguments.smooth)
    close = frames_per_second and arguments.frame_stride / frames_per_second <= SMOOTHING_SECONDS
    return SMOOTHING_FRAMES if close else 0


def segment_job(job: Job, segmenter: VideoSegmenter, arguments: argparse.Namespace) -> dict[str, Any]:
    """Segment one video, with a progress bar on a terminal."""
    from tqdm import tqdm

    from ccnet3d.inference import STDIN, segment_video
    from ccnet3d.video import open_video

    source = sys.stdin.buffer if job.source == STDIN else job.source
    hidden = True if arguments.quiet or arguments.json else None  # None: on a terminal only
    options = run_options(arguments, job.overlay)
    with (
        open_video(source, arguments.decoder) as reader,
        tqdm(total=reader.info.expected_frames, unit="frame", disable=hidden, desc=reader.info.name) as bar,
    ):
        segmenter.smoothing = chosen_smoothing(arguments, reader.info.frames_per_second)

        def on_frame(event: dict[str, Any]) -> None:
            bar.update()
            if arguments.json:
                print(json.dumps({"event": "frame", "video": job.name, **event}), flush=True)

        summary = segment_video(reader, segmenter, job.folder, options, on_frame=on_frame)
    for warning in summary["warnings"]:
        print(f"{PROGRAM}: warning: {warning}", file=sys.stderr)
    if arguments.json:
        print(
            json.dumps({"event": "video", "video": job.name, "output": str(job.folder), "summary": summary}), flush=True
        )
    elif not arguments.quiet:
        what = f"{summary['frames']} masks of {summary['width']}x{summary['height']} in {job.folder}"
        print(f"{what}{' from a synthetic clip' if arguments.sample else ''}")
    return summary


def run(arguments: argparse.Namespace) -> None:
    from ccnet3d.inference import plan_jobs

    run_options(arguments, None)  # what is wrong with the options is said before a model is loaded
    with chosen_inputs(arguments) as inputs:
        jobs = plan_jobs(inputs, arguments.output, arguments.overlay, parse_shard(arguments.shard))
        segmenter = load_segmenter(arguments)
        failed = 0
        for job in jobs:
            try:
                segment_job(job, segmenter, arguments)
            except (ValueError, OSError, RuntimeError) as error:
                if len(jobs) == 1:
                    raise
                failed += 1
                print(f"{PROGRAM}: error: {job.name}: {error_line(error)}", file=sys.stderr)
        if failed:
            raise UserError(f"{failed} of {len(jobs)} videos failed; their errors are above")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0, 2 with one line on stderr where the input is at fault, or 130 when interrupted."""
    arguments = build_parser().parse_args(argv)
    command: Callable[[], None] = lambda: run(arguments)  # noqa: E731
    return run_command(PROGRAM, command, interrupted="the masks so far are whole; give --resume to go on")


if __name__ == "__main__":
    sys.exit(main())
