"""``ccnet3d-view``: a video and its masks in, one HTML page out."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from contextlib import closing
from typing import TYPE_CHECKING

from ccnet3d.cli.command_parser import CommandParser
from ccnet3d.cli.options import add_debug_option, positive, print_now, run_command
from ccnet3d.cli.paths import expand_home, user_path
from ccnet3d.wording import count_of

if TYPE_CHECKING:
    from ccnet3d.reports import Matched


PROGRAM = "ccnet3d-view"


def build_parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog=PROGRAM,
        description="Write a page for viewing the masks of a video: one HTML file that any browser opens.",
    )
    parser.add_argument("masks", type=user_path, help="the output folder of ccnet3d-infer")
    parser.add_argument("video", type=expand_home, help="the video that the masks were made from")
    parser.add_argument("-o", "--output", type=user_path, required=True, metavar="FILE.html", help="the page")
    parser.add_argument("--title", help="the page's title; the name of the video by default")
    parser.add_argument(
        "--width",
        type=positive,
        default=640,
        metavar="PIXELS",
        help="scale wider pictures down to this (default: 640)",
    )
    parser.add_argument(
        "--max-frames",
        type=positive,
        default=600,
        metavar="N",
        help="most pictures in the page, evenly spread over a longer video; the timeline covers all (default: 600)",
    )
    parser.add_argument("--quality", type=positive, default=80, help="JPEG quality, 1 to 95 (default: 80)")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing page")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress bar and no closing line")
    add_debug_option(parser)
    return parser


def run(arguments: argparse.Namespace) -> None:
    from ccnet3d.masks import open_masks
    from ccnet3d.progress import progress_bar
    from ccnet3d.reports import write_video_page
    from ccnet3d.video import open_video

    def progress(pairs: Iterable[Matched]) -> Iterable[Matched]:
        return progress_bar(pairs, total=len(masks), unit="frame", hidden=arguments.quiet)

    masks = open_masks(arguments.masks)
    stream = masks.summary.get("settings", {}).get("stream")  # as chosen in the run
    with closing(open_video(arguments.video, stream=stream)) as reader:
        pictures = write_video_page(
            masks,
            reader,
            arguments.output,
            title=arguments.title,
            max_width=arguments.width,
            max_frames=arguments.max_frames,
            quality=arguments.quality,
            overwrite=arguments.overwrite,
            progress=progress,
        )
    for warning in reader.info.warnings:
        print(f"{PROGRAM}: warning: {warning}", file=sys.stderr)
    if not arguments.quiet:
        megabytes = arguments.output.stat().st_size / 1e6
        print_now(
            f"{pictures} of {count_of(len(masks), 'mask')} as pictures in {arguments.output} ({megabytes:.1f} MB)"
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code; see :func:`ccnet3d.cli.options.run_command`."""
    arguments = build_parser().parse_args(argv)
    return run_command(PROGRAM, lambda: run(arguments), debug=arguments.debug)


if __name__ == "__main__":
    sys.exit(main())
