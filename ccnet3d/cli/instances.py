"""Instance segmentation with Mask R-CNN and criss-cross attention: train and evaluate on COCO, segment images."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from ccnet3d.cli.command_parser import CommandParser
from ccnet3d.cli.options import (
    DTYPE_NAMES,
    add_debug_option,
    add_device_options,
    choose_device,
    print_now,
    run_command,
    share,
    training_processes,
)
from ccnet3d.cli.paths import user_path
from ccnet3d.resources import recipe_file

if TYPE_CHECKING:
    import torch

PROGRAM = "ccnet3d-instances"

DEFAULT_RECIPE = "coco_maskrcnn"
DEFAULT_DATA = Path("data/coco")

TRAIN = """Train a recipe on images in COCO's layout, and write a model file. The paper's rows are --set
detector.context=none, non_local or criss_cross, with detector.backbone=resnet50 or resnet101."""

EVALUATE = """Print COCO's average precision of boxes and masks, and write detections and scores."""

INFER = """Segment the objects of an image, or of all images in a folder: detections.json is a COCO annotation file with
scores, and overlays/ has pictures."""

CHECKPOINT = (
    "model file that training wrote, or torchvision's COCO weights of maskrcnn_resnet50_fpn (a .pth file with tensors)"
)


def build_parser() -> argparse.ArgumentParser:
    parser = CommandParser(prog=PROGRAM, description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="{train,evaluate,infer}")
    add_train(commands.add_parser("train", help="train a model", description=TRAIN))
    add_evaluate(commands.add_parser("evaluate", help="measure average precision", description=EVALUATE))
    add_infer(commands.add_parser("infer", help="segment images", description=INFER))
    for command in commands.choices.values():
        add_device_options(command)
        add_debug_option(command)
    return parser


def add_data_folder(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data",
        type=user_path,
        default=DEFAULT_DATA,
        metavar="FOLDER",
        help=f"data folder, with COCO's train2017, val2017 and annotations ({DEFAULT_DATA} by default)",
    )


def add_train(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "recipe",
        nargs="?",
        default=DEFAULT_RECIPE,
        metavar="RECIPE",
        help=f"a TOML file, or the name of a recipe that comes with the package; {DEFAULT_RECIPE} by default",
    )
    add_data_folder(parser)
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="overrides",
        help="override a value of the recipe, such as --set detector.context=non_local; may be repeated",
    )
    parser.add_argument(
        "--out", type=user_path, metavar="FOLDER", help="folder of the run; runs/RECIPE_CONTEXT by default"
    )
    parser.add_argument("--resume", action="store_true", help="continue from the checkpoint in --out")


def add_evaluate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoint", type=user_path, required=True, metavar="FILE", help=CHECKPOINT)
    add_data_folder(parser)
    parser.add_argument("--images", default="val2017", metavar="NAME", help="folder of images in --data")
    parser.add_argument(
        "--annotations",
        default="annotations/instances_val2017.json",
        metavar="NAME",
        help="file of instances in --data",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=user_path,
        metavar="FOLDER",
        help="write detections.json (COCO's results format) and scores.json here",
    )
    add_dtype_option(parser)


def add_dtype_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dtype", choices=[*DTYPE_NAMES], default="fp32", help="precision of the network's products (default: fp32)"
    )


def chosen_dtype(arguments: argparse.Namespace) -> torch.dtype:
    import torch

    dtype: torch.dtype = getattr(torch, DTYPE_NAMES[arguments.dtype])
    return dtype


def add_infer(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=user_path, metavar="IMAGE", help="an image, or a folder of images")
    parser.add_argument("--checkpoint", type=user_path, required=True, metavar="FILE", help=CHECKPOINT)
    parser.add_argument("-o", "--output", type=user_path, required=True, metavar="FOLDER", help="the output folder")
    parser.add_argument(
        "--threshold", type=share, default=0.5, metavar="SCORE", help="lowest score of an object (default: 0.5)"
    )
    parser.add_argument("--no-overlays", action="store_true", help="write detections.json only")
    add_dtype_option(parser)


def progress(indices: Sequence[int]) -> Iterable[int]:
    """Show progress over images."""
    from ccnet3d.progress import progress_bar

    bar: Iterable[int] = progress_bar(indices, unit="image")
    return bar


def train(arguments: argparse.Namespace) -> None:
    from ccnet3d.distributed import local_device
    from ccnet3d.instances import InstanceTrainer, read_instance_recipe
    from ccnet3d.training import check_run_folder
    from ccnet3d.wording import count_of

    path = recipe_file(arguments.recipe)
    recipe = read_instance_recipe(path, arguments.overrides)
    out = arguments.out or Path("runs") / f"{path.stem}_{recipe.detector.context}"
    check_run_folder(out, resume=arguments.resume)
    device = local_device(choose_device(arguments, training=True))
    with training_processes(device) as processes:
        trainer = InstanceTrainer(recipe, arguments.data, out, device, processes=processes)
        if processes.is_main_process:
            images, steps = len(trainer.train_set), trainer.total_steps
            print_now(f"{count_of(images, 'image')}, {count_of(steps, 'step')} on {device.type}; writing to {out}")
            for warning in trainer.warnings:
                print(f"{PROGRAM}: warning: {warning}", file=sys.stderr)
        model = trainer.run(resume=arguments.resume)
    if processes.is_main_process:
        print_now(f"wrote {model}; segment images with it:")
        print_now(f"{PROGRAM} infer images/ -o objects/ --checkpoint {shlex.quote(str(model))}")


def evaluate(arguments: argparse.Namespace) -> None:
    from ccnet3d.files import write_atomically
    from ccnet3d.instances import evaluate_detector, load_detector, open_coco
    from ccnet3d.journal import claimed_folder

    data = open_coco(arguments.data / arguments.images, arguments.data / arguments.annotations)
    model, info = load_detector(arguments.checkpoint)
    data.check()
    for warning in data.warnings:
        print(f"{PROGRAM}: warning: {warning}", file=sys.stderr)
    model.to(choose_device(arguments))
    names = ("detections.json", "scores.json")
    with claimed_folder(arguments.output, names) if arguments.output else nullcontext():
        result, detections = evaluate_detector(
            model, data, info.category_ids, precision=chosen_dtype(arguments), progress=progress
        )
        print_now(result.text())
        for name, table in zip(names, (detections, result.table()), strict=True) if arguments.output else ():
            write_atomically(arguments.output / name, json.dumps(table).encode())


def infer(arguments: argparse.Namespace) -> None:
    from ccnet3d.instances import load_detector, segment_images
    from ccnet3d.wording import count_of

    model, info = load_detector(arguments.checkpoint)
    count = segment_images(
        model.to(choose_device(arguments)),
        info,
        arguments.source,
        arguments.output,
        threshold=arguments.threshold,
        overlays=not arguments.no_overlays,
        precision=chosen_dtype(arguments),
        progress=progress,
    )
    print_now(f"{count_of(count, 'object')} in {arguments.output / 'detections.json'}")


def run(arguments: argparse.Namespace) -> None:
    """Run the subcommand that the parsed arguments name."""
    {"train": train, "evaluate": evaluate, "infer": infer}[arguments.command](arguments)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    arguments = build_parser().parse_args(argv)
    hint = "resume with --resume" if arguments.command == "train" else ""
    return run_command(PROGRAM, lambda: run(arguments), hint, debug=arguments.debug)


if __name__ == "__main__":
    sys.exit(main())
