"""``ccnet3d-convert``: published 2D CCNet checkpoints to model files."""

from __future__ import annotations

import argparse
import hashlib
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ccnet3d.cli.command_parser import CommandParser
from ccnet3d.cli.options import add_debug_option, positive, print_now, run_command
from ccnet3d.cli.paths import user_path
from ccnet3d.cli.views import input_size
from ccnet3d.errors import UserError
from ccnet3d.resources import dataset_names, find_dataset
from ccnet3d.wording import count_of

PROGRAM = "ccnet3d-convert"

INPUT_SIZES = {"cityscapes": (1024, 2048)}
"""Sizes at which models of a dataset are published to be used."""

DEFAULT_INPUT_SIZE = (512, 672)
"""The short side of mmsegmentation's other tests, and the area of a photo of 4:3."""


class Classes(NamedTuple):
    """The classes of a model."""

    names: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    dataset: str
    """Its name; empty if it is not known."""


def build_parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog=PROGRAM,
        description="Convert a published 2D CCNet, of mmsegmentation or of CCNet's authors, to a model file with equal "
        "outputs.",
    )
    parser.add_argument(
        "file", type=user_path, metavar="FILE", help=".pth file of tensors and plain values, or .safetensors"
    )
    parser.add_argument(
        "-o", "--output", type=user_path, metavar="FILE", required=True, help="the model file, .safetensors"
    )
    parser.add_argument(
        "--classes",
        metavar="CLASSES",
        help=f"the dataset that the classes are of ({', '.join(dataset_names())}, or a dataset.toml), or their names, "
        "separated by commas, in the order of their ids; those in the file if it has any",
    )
    parser.add_argument(
        "--loops", type=positive, metavar="R", help="loops of the attention; what the file says, or 2, by default"
    )
    parser.add_argument(
        "--align-corners",
        action=argparse.BooleanOptionalAction,
        help="how logits are enlarged; what the file says by default, or as is usual: mmsegmentation's models align "
        "corners only for 769x769, those of CCNet's authors always do",
    )
    parser.add_argument(
        "--input-size",
        type=input_size,
        metavar="HxW",
        help="the model's working size; 1024x2048 for the classes of Cityscapes, else 512x672, by default",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing model file")
    add_debug_option(parser)
    return parser


def run(arguments: argparse.Namespace) -> None:
    """Convert the file that the arguments name."""
    check_output(arguments.output, arguments.file, overwrite=arguments.overwrite)
    wanted = parse_classes(arguments.classes) if arguments.classes is not None else None

    import torch

    from ccnet3d.models import ModelInfo, load_published, save_model

    published = load_published(arguments.file, loops=arguments.loops, align_corners=arguments.align_corners)
    config = published.model.config
    with arguments.file.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    classes = choose_classes(wanted, published.class_names, published.palette, config.num_classes)
    info = ModelInfo(
        model=config,
        class_names=classes.names,
        palette=classes.palette,
        clip_length=1,
        input_size=arguments.input_size or INPUT_SIZES.get(classes.dataset, DEFAULT_INPUT_SIZE),
        dataset=classes.dataset,
        recipe={
            "converted_from": arguments.file.name,
            "sha256": digest,
            "source": published.source,
        },
    )
    save_model(arguments.output, published.model, info, dtype=torch.float32)
    for note in published.notes:
        print(note)
    print(
        f"{published.source}: {config.backbone}, {count_of(config.num_classes, 'class', 'classes')}, "
        f"{count_of(config.loops, 'loop')}, align_corners={config.align_corners}"
    )
    print_now(f"wrote {arguments.output}; segment a video with it:")
    print_now(f"ccnet3d-infer video.mp4 -o masks/ --checkpoint {shlex.quote(str(arguments.output))}")


def check_output(output: Path, source: Path, *, overwrite: bool) -> None:
    """Check the name of the model file before anything is read.

    Raises:
        UserError: it has another extension, exists, or is the source.
    """
    if output.suffix != ".safetensors":
        raise UserError(f"--output must be a .safetensors file, got {output}")
    if output.exists() and source.exists() and output.samefile(source):
        raise UserError(f"{output} would replace the file that is converted; give another name")
    if output.exists() and not overwrite:
        raise UserError(f"{output} exists; give --overwrite to replace it, or another name")


def parse_classes(text: str) -> Classes:
    """Return the classes that ``--classes`` names.

    Raises:
        UserError: neither a dataset nor two or more names.
    """
    from ccnet3d.data import read_dataset_spec, voc_color

    names = tuple(name.strip() for name in text.split(","))
    if len(names) == 1:
        spec = read_dataset_spec(find_dataset(text.strip()))
        return Classes(spec.class_names, spec.palette, spec.name)
    if not all(names) or len(set(names)) < len(names):
        raise UserError(f"--classes must be different names such as road,car,sky, got {text!r}")
    return Classes(names, tuple(voc_color(id_) for id_ in range(len(names))), "")


def choose_classes(
    wanted: Classes | None,
    names: Sequence[str],
    palette: Sequence[tuple[int, int, int]],
    count: int,
) -> Classes:
    """Return the classes that are asked for, or else those of the file.

    Raises:
        UserError: another number of classes than the model has, or none are known.
    """
    from ccnet3d.data import voc_color

    if wanted is not None and len(wanted.names) != count:
        raise UserError(
            f"--classes names {count_of(len(wanted.names), 'class', 'classes')}, and the model has {count}; give the "
            "dataset that it was trained on, or all names"
        )
    if wanted is not None:
        return wanted
    if not names:
        raise UserError(
            f"the file does not name its {count_of(count, 'class', 'classes')}; give --classes, such as cityscapes "
            "(19), ade20k (150), voc12 (21), or all names separated by commas"
        )
    return Classes(tuple(names), tuple(palette) or tuple(voc_color(id_) for id_ in range(count)), "")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    arguments = build_parser().parse_args(argv)
    return run_command(PROGRAM, lambda: run(arguments), debug=arguments.debug)


if __name__ == "__main__":
    sys.exit(main())
