"""``ccnet3d-masks``: saved masks to files for other tools, without segmenting the video again."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from ccnet3d.cli.command_parser import CommandParser, refuse_unused
from ccnet3d.cli.early_checks import class_names
from ccnet3d.cli.options import add_debug_option, print_now, run_command, share
from ccnet3d.cli.paths import expand_home, user_path
from ccnet3d.errors import UserError
from ccnet3d.wording import count_of

if TYPE_CHECKING:
    from ccnet3d.masks import SavedMasks

PROGRAM = "ccnet3d-masks"


def build_parser() -> argparse.ArgumentParser:
    from ccnet3d.masks import FORMAT_HELP

    formats = {name: text for name, text in FORMAT_HELP.items() if name != "png"}  # all but that are one file
    parser = CommandParser(
        prog=PROGRAM,
        description="Write saved masks as a file for another tool: what ccnet3d-infer writes with the same options.",
    )
    parser.add_argument("masks", type=user_path, help="the output folder of ccnet3d-infer")
    parser.add_argument(
        "--format",
        choices=tuple(formats),
        help="write the masks to --output; " + "; ".join(f"{name}: {text}" for name, text in formats.items()),
    )
    parser.add_argument("-o", "--output", type=user_path, metavar="FILE", help="the file of --format")
    parser.add_argument(
        "--shares",
        type=user_path,
        metavar="FILE",
        help="write the share of each class in each frame: .csv or .parquet",
    )
    parser.add_argument(
        "--video",
        type=expand_home,
        metavar="VIDEO",
        help="the video that the masks were made from, for --overlay and --alpha",
    )
    parser.add_argument(
        "--overlay", type=user_path, metavar="FILE.mp4", help="write the video with the masks painted over it"
    )
    parser.add_argument(
        "--opacity", type=share, default=0.5, help="share of the class color in the overlay, 0 to 1 (default: 0.5)"
    )
    parser.add_argument(
        "--alpha",
        type=user_path,
        metavar="FILE",
        help="write the video with all but --classes transparent, for editors: .webm (VP9) or .mov (ProRes 4444)",
    )
    parser.add_argument(
        "--labels",
        choices=("cvat", "label-studio"),
        help="print the list of labels to paste into a new task of CVAT or project of Label Studio",
    )
    parser.add_argument("--classes", metavar="NAME,NAME", help="only these classes; pixels of others become 255")
    parser.add_argument("--overwrite", action="store_true", help="replace existing files")
    parser.add_argument("-q", "--quiet", action="store_true", help="no closing line")
    add_debug_option(parser)
    return parser


def run(arguments: argparse.Namespace) -> None:
    from ccnet3d.masks import convert_masks, open_masks, write_shares

    classes = _check_options(arguments)
    masks = open_masks(arguments.masks)
    written = _check_outputs(arguments, masks)
    if arguments.labels:
        print_now(_labels(masks, arguments.labels, classes))
    if arguments.output:
        convert_masks(masks, arguments.output, arguments.format, classes)
    if arguments.shares:
        write_shares(masks, arguments.shares, classes)
    if arguments.video:
        _render(masks, arguments, classes)
    for path in () if arguments.quiet else written:
        print_now(f"{count_of(len(masks), 'mask')} as {path} ({path.stat().st_size / 1e6:.1f} MB)")


def _check_options(arguments: argparse.Namespace) -> list[str]:
    """Check that options fit together, and return the names of the classes."""
    videos = bool(arguments.overlay or arguments.alpha)
    if not (arguments.format or arguments.shares or arguments.labels or videos):
        raise UserError("nothing to write; give --format with --output, --shares, --overlay, --alpha or --labels")
    if bool(arguments.format) != bool(arguments.output):
        raise UserError("--format and --output belong together, as in --format coco-rle -o coco.json")
    if bool(arguments.video) != videos:
        raise UserError("--video belongs to --overlay and --alpha, as in --video drive.mp4 --overlay over.mp4")
    if not arguments.overlay:
        refuse_unused(build_parser(), arguments, ("opacity",), "is for the video of --overlay; add --overlay")
    return class_names(arguments)


def _check_outputs(arguments: argparse.Namespace, masks: SavedMasks) -> list[Path]:
    """Check all outputs before one of them is written, and return their paths."""
    from ccnet3d.masks import FORMATS, check_export

    suffix = FORMATS[arguments.format].path(arguments.masks).suffix if arguments.format else None
    paths = []
    for path, ending in (
        (arguments.output, suffix),
        (arguments.shares, None),
        (arguments.overlay, ".mp4"),
        (arguments.alpha, None),
    ):
        if path:
            check_export(masks, path, overwrite=arguments.overwrite, suffix=ending)
            paths.append(path)
    return paths


def _render(masks: SavedMasks, arguments: argparse.Namespace, classes: Sequence[str]) -> None:
    from ccnet3d.masks import render_masks
    from ccnet3d.video import open_video

    stream = masks.summary.get("settings", {}).get("stream")  # as chosen in the run
    with closing(open_video(arguments.video, stream=stream)) as reader:
        render_masks(
            masks,
            reader,
            overlay=arguments.overlay,
            opacity=arguments.opacity,
            alpha=arguments.alpha,
            class_names=classes,
        )


def _labels(masks: SavedMasks, tool: str, requested: Sequence[str]) -> str:
    from ccnet3d.masks import cvat_labels, label_studio_setup, select_classes

    classes = select_classes(masks, requested)
    write = cvat_labels if tool == "cvat" else label_studio_setup
    return write([classes.names[i] for i in classes.shown], [classes.palette[i] for i in classes.shown])


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code; see :func:`ccnet3d.cli.options.run_command`."""
    arguments = build_parser().parse_args(argv)
    return run_command(PROGRAM, lambda: run(arguments), debug=arguments.debug)


if __name__ == "__main__":
    sys.exit(main())
