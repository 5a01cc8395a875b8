"""Train CCNet3D on CamVid, on any labeled sequences with a dataset.toml, or adapt it to unlabeled videos."""

from __future__ import annotations

import argparse
import json
import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ccnet3d.cli.command_parser import CommandParser, refuse_unused
from ccnet3d.cli.data_options import add_data_options, data_source, default_data_folder
from ccnet3d.cli.options import add_debug_option, add_device_options, choose_device, run_command, training_processes
from ccnet3d.cli.paths import user_path
from ccnet3d.errors import UserError
from ccnet3d.resources import recipe_file
from ccnet3d.wording import count_of

if TYPE_CHECKING:
    from ccnet3d.data import DataSource
    from ccnet3d.training import Recipe, Trainer

PROGRAM = "ccnet3d-train"

DEFAULT_RECIPE = "camvid_lite"


def build_parser() -> argparse.ArgumentParser:
    parser = CommandParser(prog=PROGRAM, description=__doc__)
    parser.add_argument(
        "recipe",
        nargs="?",
        metavar="RECIPE",
        help=f"a TOML file, or the name of a recipe that comes with the package; {DEFAULT_RECIPE} by default",
    )
    parser.add_argument("--pipeline", metavar="RECIPE", help=argparse.SUPPRESS)  # the same as RECIPE
    add_data_options(parser, training=True)
    parser.set_defaults(data=None)  # to tell whether it is given
    parser.add_argument(
        "--unlabelled",
        nargs="+",
        action="extend",
        default=[],
        metavar="VIDEO",
        help="unlabeled videos, folders of videos or folders of frames to train on as well; instead of the recipe's "
        "data.unlabelled.sources. The recipe adapt needs no --data with them",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="overrides",
        help="override a value of the recipe, such as --set optimizer.learning_rate=5e-4; may be repeated",
    )
    parser.add_argument(
        "--initial-weights",
        metavar="FILE",
        help="model file, or name of weights in the package, to start from, also one of other classes; instead of the "
        "recipe's model.initial_weights. The recipe finetune takes any of our models",
    )
    parser.add_argument(
        "--freeze",
        type=lambda text: text.split(","),
        metavar="PART,...",
        help="parts of the network that keep their weights, such as backbone or backbone,head; instead of the recipe's "
        "model.frozen",
    )
    parser.add_argument(
        "--out", type=user_path, metavar="FOLDER", help="folder of the run; runs/DATASET_RECIPE by default"
    )
    parser.add_argument("--resume", action="store_true", help="continue from the checkpoint in --out")
    add_device_options(parser)
    add_debug_option(parser)
    return parser


def run(arguments: argparse.Namespace) -> None:
    from ccnet3d.distributed import local_device
    from ccnet3d.training import Trainer, check_run_folder, read_recipe

    if arguments.recipe and arguments.pipeline:
        raise UserError("--pipeline is another name of RECIPE; leave one of them out")
    path = recipe_file(arguments.recipe or arguments.pipeline or DEFAULT_RECIPE)
    overrides = [*arguments.overrides]
    if arguments.initial_weights is not None:
        overrides.append(f"model.initial_weights={json.dumps(arguments.initial_weights)}")
    if arguments.freeze:
        overrides.append(f"model.frozen={json.dumps(arguments.freeze)}")
    recipe, source = choose_data(read_recipe(path, overrides), arguments)
    out = arguments.out or Path("runs") / run_name(path.stem, source)
    check_run_folder(out, resume=arguments.resume)
    device = local_device(choose_device(arguments, training=True))
    with training_processes(device) as processes:
        trainer = Trainer(recipe, source, out, device, processes=processes)
        if processes.is_main_process:
            print("\n".join(describe(trainer, recipe)), flush=True)
            for warning in trainer.warnings:
                print(f"{PROGRAM}: warning: {warning}", file=sys.stderr)
        model = trainer.run(resume=arguments.resume)
    if processes.is_main_process:
        print(f"wrote {model}; segment a video with it:")
        print(f"ccnet3d-infer video.mp4 -o masks/ --checkpoint {shlex.quote(str(model))}")


def choose_data(recipe: Recipe, arguments: argparse.Namespace) -> tuple[Recipe, DataSource | None]:
    """Return the recipe with the videos that the options name, and the labeled data, None if the run needs none.

    Raises:
        UserError: the labeled data does not exist, or an option is for labeled data and there is none.
    """
    from ccnet3d.training import UnlabelledRecipe

    unlabelled = recipe.data.unlabelled
    if arguments.unlabelled:
        unlabelled = replace(unlabelled or UnlabelledRecipe(), sources=tuple(arguments.unlabelled))
    without_data = False
    if unlabelled and arguments.data is None and (unlabelled.data_optional or unlabelled.share == 1):
        unlabelled, without_data = replace(unlabelled, share=1.0), True
    recipe = replace(recipe, data=replace(recipe.data, unlabelled=unlabelled))
    if without_data:
        why = "is for labeled data, and this run has none; leave it out, or give --data"
        refuse_unused(build_parser(), arguments, ("dataset", "high_resolution", "cache"), why)
        return recipe, None
    arguments.data = arguments.data or default_data_folder()
    source = data_source(arguments, recipe.data.dataset)
    if arguments.high_resolution and not recipe.data.high_resolution_share:
        raise UserError(
            "--high-resolution is for recipes that draw clips from larger frames; leave it out, or give "
            "--set data.high_resolution_share=0.5"
        )
    return recipe, source


def run_name(recipe: str, source: DataSource | None) -> str:
    """Return the name of a run: of its dataset and its recipe, or of the recipe alone without labeled data.

    Raises:
        UserError: the data has no valid description.
    """
    if source is None:
        return recipe
    name = re.sub(r"[^\w.-]+", "-", source.read_spec().name).strip("-.")[:100]
    if not name or recipe == name or recipe.startswith(f"{name}_"):  # camvid_lite on camvid
        return recipe
    return f"{name}_{recipe}"


def describe(trainer: Trainer, recipe: Recipe) -> list[str]:
    """Return lines about what is about to run: its initial weights, sizes other than the recipe's, its length."""
    lines = []
    data, given = trainer.recipe.data, recipe.data
    if trainer.transfer is not None:
        lines.append(f"from {recipe.model.initial_weights}: {trainer.transfer.summary()}")
    if data != given:
        (height, width), (crop_height, crop_width) = data.input_size, data.augmentation.crop_size
        lines.append(
            f"sizes that fit the frames: {width}x{height}, crops of {crop_width}x{crop_height}; for those of the "
            f"recipe ({given.input_size[1]}x{given.input_size[0]}), give --set data.fit_sizes=false"
        )
    pseudo = f" and {len(trainer.pseudo_set)} pseudo-labeled frames" if trainer.pseudo_set is not None else ""
    kind = "training" if trainer.val_set is not None else "pseudo-labeled"
    processes = trainer.processes.world_size
    where = f"{processes} processes on {trainer.device.type}" if processes > 1 else trainer.device.type
    lines.append(
        f"{count_of(len(trainer.train_set), f'{kind} frame')}{pseudo}, "
        f"{count_of(trainer.total_steps, 'step')} on {where}; writing to {trainer.out}"
    )
    return lines


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    arguments = build_parser().parse_args(argv)
    return run_command(PROGRAM, lambda: run(arguments), "resume with --resume", debug=arguments.debug)


if __name__ == "__main__":
    sys.exit(main())
