#!/usr/bin/env python3
"""Train the variants of a recipe over several seeds and compare them in a table; the same command goes on."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import time
from importlib.util import find_spec
from pathlib import Path

from ccnet3d.cli.options import add_device_options, choose_device, run_command

REPOSITORY = Path(__file__).resolve().parents[1]
CAMVID_SPEC = REPOSITORY / "datasets" / "camvid" / "dataset.toml"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("ablation", type=Path, help="what to compare, such as pipelines/ablations/clip_length.toml")
    parser.add_argument(
        "--data",
        type=Path,
        default=Path(os.environ.get("CCNET3D_CAMVID") or "data/camvid"),
        help="data folder, data/camvid or what CCNET3D_CAMVID names by default; one with a dataset.toml is read as "
        "that says, any other as CamVid",
    )
    parser.add_argument("--detail", type=Path, help="frames at a higher resolution, as for train_camvid.py")
    parser.add_argument(
        "--out", type=Path, help="folder of the runs and the table; runs/ablations/NAME-OF-THE-FILE by default"
    )
    parser.add_argument("--plot", action="store_true", help="also draw plot.png; needs matplotlib")
    add_device_options(parser)
    return parser.parse_args()


def run(arguments: argparse.Namespace) -> None:
    if arguments.plot and find_spec("matplotlib") is None:
        raise ValueError("--plot needs matplotlib; pip install 'ccnet3d[plot]'")
    if not arguments.data.is_dir():
        raise ValueError(f"no data folder at {arguments.data}; name it with --data or CCNET3D_CAMVID")

    import torch

    from ccnet3d.evaluation.cost import describe_machine
    from ccnet3d.training.ablation import read_ablation, run_ablation
    from ccnet3d.training.ablation_report import summarise, write_report

    device = torch.device(choose_device(arguments))
    config, runs = read_ablation(arguments.ablation)
    out = arguments.out or Path("runs") / "ablations" / arguments.ablation.stem
    print(f"{len(runs)} runs of {len(config.variants)} variants on {device}; they go to {out}", flush=True)
    results, costs = run_ablation(
        config,
        runs,
        arguments.data,
        CAMVID_SPEC,
        out,
        device,
        arguments.detail,
        lambda line: print(line, flush=True),
    )
    header = {
        "ablation": arguments.ablation.stem,
        "split": runs[0].recipe.val_split,
        "command": shlex.join(sys.argv),
        "date": time.strftime("%Y-%m-%d"),
        "trained on": "; ".join(dict.fromkeys(result.machine for result in results)),
        "timed on": describe_machine(device) if costs else "nothing: no seed trained all variants",
    }
    rows = summarise(config, results, costs)
    table = write_report(out, config, rows, header, absolute_cost=device.type == "cuda", plot=arguments.plot)
    print(f"\n{table}\nwrote {out / 'table.md'}, table.csv and table.json{', plot.png' if arguments.plot else ''}")


if __name__ == "__main__":
    chosen = parse_arguments()
    sys.exit(run_command("run_ablation.py", lambda: run(chosen), "the same command goes on"))
