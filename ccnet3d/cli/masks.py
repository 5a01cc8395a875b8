"""``ccnet3d-masks``: saved masks to files for other tools, without segmenting the video again."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ccnet3d import __version__
from ccnet3d.cli.options import add_debug_option, print_now, run_command
from ccnet3d.cli.paths import user_path
from ccnet3d.errors import UserError

if TYPE_CHECKING:
    from ccnet3d.masks import SavedMasks

PROGRAM = "ccnet3d-masks"


def build_parser() -> argparse.ArgumentParser:
    from ccnet3d.masks import FORMATS

    formats = [one for one in FORMATS.values() if one.write]
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Write saved masks as a file for another tool: what ccnet3d-infer writes with the same options.",
    )
    parser.add_argument("masks", type=user_path, help="the output folder of ccnet3d-infer")
    parser.add_argument(
        "--format",
        choices=[one.name for one in formats],
        help="write the masks to --output; " + "; ".join(f"{one.name}: {one.help}" for one in formats),
    )
    parser.add_argument("-o", "--output", type=user_path, metavar="FILE", help="the file of --format")
    parser.add_argument(
        "--shares",
        type=user_path,
        metavar="FILE",
        help="write the share of each class in each frame: .csv or .parquet",
    )
    parser.add_argument(
        "--labels",
        choices=("cvat", "label-studio"),
        help="print the list of labels to paste into a new task of CVAT or project of Label Studio",
    )
    parser.add_argument("--classes", metavar="NAME,NAME", help="only these classes; pixels of others become 255")
    parser.add_argument("--overwrite", action="store_true", help="replace existing files")
    parser.add_argument("-q", "--quiet", action="store_true", help="no closing line")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    add_debug_option(parser)
    return parser


def run(arguments: argparse.Namespace) -> None:
    from ccnet3d.masks import FORMATS, check_export, convert_masks, open_masks, write_shares

    if not (arguments.format or arguments.shares or arguments.labels):
        raise UserError("nothing to write; give --format with --output, --shares, or --labels")
    if bool(arguments.format) != bool(arguments.output):
        raise UserError("--format and --output belong together, as in --format coco-rle -o coco.json")
    classes = [name.strip() for name in (arguments.classes or "").split(",") if name.strip()]
    if arguments.classes is not None and not classes:
        raise UserError(f"--classes must be names of classes, such as Car,Pedestrian, got {arguments.classes!r}")
    masks = open_masks(arguments.masks)
    if arguments.output:
        suffix = FORMATS[arguments.format].path(arguments.masks).suffix
        check_export(masks, arguments.output, overwrite=arguments.overwrite, suffix=suffix)
    if arguments.shares:
        check_export(masks, arguments.shares, overwrite=arguments.overwrite)
    if arguments.labels:
        print_now(_labels(masks, arguments.labels, classes))
    if arguments.output:
        convert_masks(masks, arguments.output, arguments.format, classes)
    if arguments.shares:
        write_shares(masks, arguments.shares, classes)
    for path in (arguments.output, arguments.shares):
        if path and not arguments.quiet:
            print_now(f"{len(masks)} masks as {path} ({path.stat().st_size / 1e6:.1f} MB)")


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
