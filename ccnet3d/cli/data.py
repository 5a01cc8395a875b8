"""Describe a folder of frames and labels, and check what a dataset contains before training."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from ccnet3d.cli.command_parser import CommandParser
from ccnet3d.cli.data_options import add_data_options, data_source
from ccnet3d.cli.options import (
    add_debug_option,
    non_negative,
    positive,
    print_now,
    run_command,
    share,
)
from ccnet3d.cli.paths import png_file, user_path
from ccnet3d.errors import FileProblemsError, UserError
from ccnet3d.wording import count_of

PROGRAM = "ccnet3d-data"

SHEET_FRAMES = 24

ENCODINGS = ("id", "red", "rgb_id", "color", "coco", "cvat", "labelme", "cityscapes")


def build_parser() -> argparse.ArgumentParser:
    parser = CommandParser(prog=PROGRAM, description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="{describe,check}")
    add_describe(commands.add_parser("describe", help="write a first dataset.toml", description=DESCRIBE))
    add_check(commands.add_parser("check", help="say what was found, and what does not fit", description=CHECK))
    return parser


DESCRIBE = """Write a first dataset.toml for a folder of frames with label images or annotation files, and print what
was found and assumed. Read it, and rename the classes, before training."""

CHECK = """Read a whole dataset and print its splits, sequences, sizes, class shares and what has no counterpart. The
exit code is 2 if it cannot be used."""


def add_describe(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=user_path, metavar="FOLDER", help="the data folder")
    parser.add_argument(
        "-o", "--output", type=user_path, metavar="FILE", help="the description; FOLDER/dataset.toml by default"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing description")
    parser.add_argument("--encoding", choices=ENCODINGS, help="how labels are encoded; found out by default")
    parser.add_argument(
        "--classes",
        metavar="NAME,...",
        type=lambda text: [name.strip() for name in text.split(",")],
        default=[],
        help="names of the classes, in the order of their ids; class_0 and so on by default",
    )
    parser.add_argument(
        "--val-share",
        type=share,
        default=0.2,
        metavar="SHARE",
        help="share of the labeled frames in val, where the folder has no splits (default: 0.2)",
    )
    parser.add_argument(
        "--seed", type=non_negative, default=0, help="of the draw of sequences for val, where drawn (default: 0)"
    )
    add_debug_option(parser)


def add_check(parser: argparse.ArgumentParser) -> None:
    add_data_options(parser)
    parser.add_argument("--split", action="append", default=[], metavar="NAME", help="only this split; may be repeated")
    parser.add_argument(
        "--contact-sheet", type=png_file, metavar="FILE.png", help="draw frames under their labels, with a legend"
    )
    parser.add_argument("--frames", type=positive, metavar="N", help=f"frames on the sheet (default: {SHEET_FRAMES})")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing contact sheet")
    add_debug_option(parser)


def describe(arguments: argparse.Namespace) -> None:
    from ccnet3d.data import describe_folder, spec_text
    from ccnet3d.files import write_atomically
    from ccnet3d.progress import progress_bar

    def progress(paths: Iterable[Path]) -> Iterable[Path]:
        labels: Iterable[Path] = progress_bar(paths, unit="label")
        return labels

    output = arguments.output or arguments.folder / "dataset.toml"
    if output.is_symlink():
        raise UserError(f"{output} is a link, which is not replaced; give another file with --output")
    if output.exists() and not arguments.overwrite:
        raise UserError(f"{output} exists; give --overwrite to replace it, or another file with --output")
    draft = describe_folder(
        arguments.folder,
        encoding=arguments.encoding or "",
        names=arguments.classes,
        val_share=arguments.val_share,
        seed=arguments.seed,
        progress=progress,
    )
    write_atomically(output, spec_text(draft.spec, draft.notes, draft.class_shares).encode())
    for note in draft.notes:
        print(note)
    names = draft.spec.class_names
    print(f"classes: {', '.join(names[:12])}{f' and {len(names) - 12} more' if len(names) > 12 else ''}")
    for split, entries in draft.spec.splits.items():
        print(f"{split}: {', '.join(entries[:8])}{f' and {len(entries) - 8} more' if len(entries) > 8 else ''}")
    print_now(f"wrote {output}; read it, then: {PROGRAM} check --data {shlex.quote(str(arguments.folder))}")


def check(arguments: argparse.Namespace) -> None:
    from ccnet3d.data import survey_data
    from ccnet3d.reports import check_picture, write_contact_sheet

    unused = [name for name, given in (("frames", arguments.frames), ("overwrite", arguments.overwrite)) if given]
    if unused and not arguments.contact_sheet:
        raise UserError(f"--{unused[0]} is for the picture of --contact-sheet; add --contact-sheet")
    if arguments.contact_sheet:
        check_picture(arguments.contact_sheet, overwrite=arguments.overwrite)
    overview = survey_data(data_source(arguments), arguments.split)
    for line in overview.lines:
        print(line)
    if arguments.contact_sheet and overview.splits:
        count = write_contact_sheet(overview.splits, arguments.contact_sheet, count=arguments.frames or SHEET_FRAMES)
        print(f"{count_of(count, 'frame')} in {arguments.contact_sheet}")
    sys.stdout.flush()
    if overview.problems:
        raise FileProblemsError(overview.problems)
    print_now("the dataset can be used")


def run(arguments: argparse.Namespace) -> None:
    """Run the subcommand that the parsed arguments name."""
    describe(arguments) if arguments.command == "describe" else check(arguments)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    arguments = build_parser().parse_args(argv)
    return run_command(PROGRAM, lambda: run(arguments), debug=arguments.debug)


if __name__ == "__main__":
    sys.exit(main())
