"""The options of ``ccnet3d-infer``."""

from __future__ import annotations

import argparse

from ccnet3d.cli.command_parser import CommandParser
from ccnet3d.cli.options import add_debug_option, add_model_options, non_negative, positive, share
from ccnet3d.cli.paths import path_or_url, user_path
from ccnet3d.cli.views import add_view_options

PROGRAM = "ccnet3d-infer"

RETRIES = 2
"""Default of ``--retries``."""

SMOOTHING_FRAMES, SMOOTHING_SECONDS = 1, 0.1
"""Default smoothing, and how close in time frames must be for it: at one frame per second it does harm."""


def seconds(text: str) -> float:
    """Parse a number of seconds, 0 or more."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e6:
        raise argparse.ArgumentTypeError(f"expected a number of seconds, got {text!r}")
    return value


def build_parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog=PROGRAM,
        description="Segment videos: one palette PNG per frame, whose pixel values are class ids, and summary.json.",
    )
    parser.add_argument(
        "videos",
        nargs="*",
        metavar="VIDEO",
        help="a video file; an image; a folder of images or a quoted pattern of them ('frames/*.png'); a folder of "
        "videos; a URL (http, rtsp, rtmp, srt, tcp, udp; .m3u8; files at s3://, gs://, ...) or a camera (camera:0); "
        "- for standard input, or a named pipe. Each of several videos gets its own folder in the output",
    )
    parser.add_argument(
        "-o", "--output", type=path_or_url, required=True, metavar="FOLDER", help="folder for the masks, or its URL"
    )
    parser.add_argument(
        "--sample",
        action="store_true",
        help="instead of a video, segment a short clip of a street drawn by the program; also writes "
        "overlay.mp4 and the page view.html to the folder",
    )
    add_output_options(parser)
    add_beside_options(parser)
    add_selection_options(parser)
    add_engine_options(parser)
    add_live_options(parser)
    parser.add_argument(
        "--decoder",
        choices=("auto", "av", "decord", "torchcodec"),
        default="auto",
        help="library that decodes the video; auto is av (PyAV)",
    )
    parser.add_argument(
        "--stream",
        type=int,
        metavar="N",
        help="which video stream of the file, by its index as ffprobe shows it (default: the one that ffmpeg chooses)",
    )
    model = parser.add_argument_group("model")
    add_model_options(model)
    model.add_argument(
        "--smooth",
        type=non_negative,
        metavar="N",
        help="average each prediction with N frames on each side (when causal, before it) where the picture does "
        f"not change; by default {SMOOTHING_FRAMES} where frames are at most {SMOOTHING_SECONDS} s apart, else 0",
    )
    add_view_options(parser.add_argument_group("several views of each frame, whose probabilities are averaged"))
    parser.add_argument("--json", action="store_true", help="print one line of JSON per frame and per video on stdout")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress bar and no closing line")
    add_debug_option(parser)
    return parser


def add_output_options(parser: argparse.ArgumentParser) -> None:
    from ccnet3d.masks import FORMAT_HELP

    group = parser.add_argument_group("output")
    group.add_argument(
        "--format",
        choices=tuple(FORMAT_HELP),
        default="png",
        help="; ".join(f"{name}: {text}" for name, text in FORMAT_HELP.items()),
    )
    group.add_argument("--classes", metavar="NAME,NAME", help="only these classes; pixels of others become 255")
    group.add_argument(
        "--save-probabilities",
        action="store_true",
        help="also write probabilities/FRAME-INDEX.npz: uint8 [K, h, w] in 255ths, at the decoder's stride, "
        "or at the frame's size with --scales, --flip or --window",
    )
    group.add_argument(
        "--min-confidence",
        type=share,
        default=0.0,
        metavar="P",
        help="pixels whose class has a probability below P become 255; their share is in summary.json",
    )
    again = group.add_mutually_exclusive_group()
    again.add_argument("--resume", action="store_true", help="continue an interrupted run; skip complete ones")
    again.add_argument("--overwrite", action="store_true", help="replace the files of an earlier run, and no others")


def add_beside_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("further outputs, each a file; with several videos, a folder for them")
    group.add_argument(
        "--overlay", type=path_or_url, metavar="FILE.mp4", help="also write the video with the masks painted over it"
    )
    group.add_argument(
        "--opacity", type=share, default=0.5, help="share of the class color in the overlay, 0 to 1 (default: 0.5)"
    )
    group.add_argument(
        "--alpha",
        type=user_path,
        metavar="FILE",
        help="also write the video with all but --classes transparent, for editors: .webm (VP9) or .mov (ProRes 4444)",
    )
    group.add_argument(
        "--shares",
        type=user_path,
        metavar="FILE",
        help="also write the share of each class in each frame: .csv or .parquet",
    )


def add_live_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("URLs and cameras")
    group.add_argument(
        "--timeout", type=seconds, default=10.0, metavar="SECONDS", help="wait for a connection and data (default: 10)"
    )
    group.add_argument(
        "--reconnect",
        type=seconds,
        default=30.0,
        metavar="SECONDS",
        help="connect again for this long when a live source breaks off; 0 to end there (default: 30)",
    )


def add_selection_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("frame and video selection")
    group.add_argument("--start", default="0", metavar="WHEN", help="first frame: 250, or a time: 10s, 10.5, 1:02:03")
    group.add_argument("--end", metavar="WHEN", help="frame or time to stop before")
    group.add_argument("--frame-stride", type=int, default=1, metavar="N", help="only every N-th frame")
    group.add_argument(
        "--shard", default="0/1", metavar="I/N", help="every N-th video from the I-th on, I from 0 to N-1"
    )


def add_engine_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("many videos and long ones")
    group.add_argument(
        "--engine",
        choices=("plain", "ray"),
        default="plain",
        help="plain: one video after the other; ray: several at once, in processes on this machine or on a Ray cluster "
        "(needs ray)",
    )
    group.add_argument(
        "--actors",
        type=positive,
        metavar="N",
        help="processes of --engine ray, each with a model; by default one per GPU, or as many as fit the CPUs",
    )
    group.add_argument(
        "--retries",
        type=non_negative,
        metavar="N",
        help=f"how often --engine ray tries a video again whose process died (default: {RETRIES})",
    )
    group.add_argument(
        "--piece-frames",
        type=positive,
        metavar="N",
        help="split longer videos into pieces of N frames, which --engine ray segments at once, to the same masks",
    )
    group.add_argument(
        "--manifest",
        type=path_or_url,
        metavar="FILE",
        help="also write a table of all videos: status, frames, seconds, output, error; .csv, or .parquet (needs "
        "pyarrow)",
    )
