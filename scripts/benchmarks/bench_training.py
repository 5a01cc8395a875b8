#!/usr/bin/env python3
"""Measure a training step: frames per second, and its FLOPs relative to the machine's matrix product.

Frames are random, so that nothing waits for data; run it on an otherwise idle machine. Seconds are reported on GPUs
only: on a CPU, compare the shares and the ratios between clip lengths. FLOPs are those of the forward pass times three,
assuming that the backward pass costs twice as much: PyTorch's counter counts the backward pass of depthwise
convolutions as if they were full ones.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from ccnet3d.ablation import describe_machine, median_seconds
from ccnet3d.cli.options import add_device_options, choose_device, positive, run_command
from ccnet3d.files import write_atomically
from ccnet3d.models import TrainingOutputs
from ccnet3d.resources import recipe_file
from ccnet3d.training import PRECISIONS, Recipe, build_model, build_optimizer, read_recipe, training_loss

NUM_CLASSES = 11


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("recipe", nargs="?", default="camvid_lite", help="a TOML file, or the name of a recipe")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides",
                        help="override a value of the recipe")  # fmt: skip
    parser.add_argument(
        "--steps", type=positive, default=5, help="timed steps per clip length, of which the median is reported"
    )
    parser.add_argument("--matrix", type=positive, default=4096, help="rows and columns of the matrices of the product")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the results to this file")
    add_device_options(parser)
    return parser.parse_args()


def product_rate(side: int, dtype: torch.dtype, device: torch.device, repeats: int) -> float:
    """Return the FLOPs per second of the product of two square matrices."""
    left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    return 2 * side**3 / median_seconds({"product": lambda: left @ right}, repeats, device)["product"]


def training_step(
    recipe: Recipe, clip_length: int, device: torch.device
) -> tuple[Callable[[], TrainingOutputs], Callable[[], None]]:
    """Return the forward pass of a step on random frames, and the whole step: forward, loss, backward, optimizer."""
    torch.manual_seed(0)
    model = build_model(recipe.model, [str(number) for number in range(NUM_CLASSES)]).model.to(device).train()
    optimizer = build_optimizer(model, recipe.optimizer)
    dtype = PRECISIONS[recipe.precision]
    size = recipe.data.augmentation.crop_size
    clips = recipe.data.frames_per_batch // clip_length
    frames = torch.rand(clips, clip_length, 3, *size, device=device)
    labels = torch.randint(NUM_CLASSES, (clips, clip_length, *size), device=device)

    def forward() -> TrainingOutputs:
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            return model.forward_with_auxiliary(frames)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        training_loss(forward(), labels, recipe.losses)[0].backward()
        optimizer.step()

    return forward, step


def measure(recipe: Recipe, device: torch.device, steps: int, side: int) -> list[dict[str, Any]]:
    """Return one row per clip length of the recipe."""
    peak = product_rate(side, PRECISIONS[recipe.precision], device, steps)
    rows: list[dict[str, Any]] = []
    for length in recipe.data.clip_lengths:
        forward, step = training_step(recipe, length, device)
        with FlopCounterMode(display=False) as counter:
            forward()
        seconds = median_seconds({"step": step}, steps, device)["step"]
        flops = 3 * counter.get_total_flops()
        row = {"T": length, "gflops_a_frame": flops / recipe.data.frames_per_batch / 1e9}
        row |= {"share_of_product_rate": flops / seconds / peak, "seconds": seconds}
        rows.append(row)
    first_seconds = rows[0]["seconds"]
    for row in rows:
        row["relative_seconds"] = row["seconds"] / first_seconds
        if device.type == "cuda":
            row["frames_per_second"] = recipe.data.frames_per_batch / row["seconds"]
            row["teraflops"] = row["gflops_a_frame"] * row["frames_per_second"] / 1e3
            row["product_teraflops"] = peak / 1e12
        else:
            del row["seconds"]
    return rows


def run(arguments: argparse.Namespace) -> None:
    path = recipe_file(arguments.recipe)
    recipe = read_recipe(path, ["model.backbone_weights=", *arguments.overrides])
    device = torch.device(choose_device(arguments))
    frames, size = recipe.data.frames_per_batch, recipe.data.augmentation.crop_size
    header = f"{path.stem}, {frames} frames of {size[0]}x{size[1]} per step, {recipe.precision}"
    machine = describe_machine(device)
    print(f"{header}, {machine}", flush=True)
    rows = measure(recipe, device, arguments.steps, arguments.matrix)
    for row in rows:
        print("  ".join(f"{key} {value:.4g}" for key, value in row.items()))
    if arguments.json:
        table = {"what": header, "machine": machine, "rows": rows}
        write_atomically(arguments.json, (json.dumps(table, indent=1) + "\n").encode())


if __name__ == "__main__":
    chosen = parse_arguments()
    sys.exit(run_command("bench_training.py", lambda: run(chosen)))
