#!/usr/bin/env python3
"""What a training step does with the machine: frames a second, and its share of the machine's own matrix products.

Frames are random, so that nothing waits for data; run it with nothing else going on. Times in seconds are given on GPUs
only: on a CPU the shares and the ratios between clip lengths are what can be compared. FLOPs are those of the forward
pass times three, the backward pass being taken for twice the forward one: PyTorch's counter takes the backward pass of
depthwise convolutions for that of full ones.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from ccnet3d.ablation import describe_machine
from ccnet3d.cli.options import add_device_options, choose_device, positive, run_command
from ccnet3d.files import write_atomically
from ccnet3d.models import TrainingOutputs
from ccnet3d.resources import recipe_file
from ccnet3d.training import PRECISIONS, Recipe, build_model, build_optimizer, read_recipe, training_loss

NUM_CLASSES = 11


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--pipeline", type=Path, default=recipe_file("camvid_lite"), help="recipe")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides",
                        help="override a value of the recipe")  # fmt: skip
    parser.add_argument("--steps", type=positive, default=5, help="timed steps of each clip length; the median counts")
    parser.add_argument("--matrix", type=positive, default=4096, help="side of the matrices of the product")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    add_device_options(parser)
    return parser.parse_args()


def median_seconds(work: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Of a call, after one that does not count."""
    seconds = []
    for number in range(repeats + 1):
        begin = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if number:
            seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds)


def product_rate(side: int, dtype: torch.dtype, device: torch.device, repeats: int) -> float:
    """FLOPs a second of the product of two square matrices."""
    left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    return 2 * side**3 / median_seconds(lambda: left @ right, device, repeats)


def training_step(
    recipe: Recipe, clip_length: int, device: torch.device
) -> tuple[Callable[[], TrainingOutputs], Callable[[], None]]:
    """The forward pass of a step on random frames, and the whole step: forward, loss, backward, optimiser."""
    torch.manual_seed(0)
    model = build_model(recipe.model, NUM_CLASSES).to(device).train()
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
        training_loss(forward(), labels, recipe.loss, None)[0].backward()
        optimizer.step()

    return forward, step


def measure(recipe: Recipe, device: torch.device, steps: int, side: int) -> list[dict[str, Any]]:
    """A row for each clip length of the recipe."""
    peak = product_rate(side, PRECISIONS[recipe.precision], device, steps)
    rows: list[dict[str, Any]] = []
    for length in recipe.data.clip_lengths:
        forward, step = training_step(recipe, length, device)
        with FlopCounterMode(display=False) as counter:
            forward()
        seconds = median_seconds(step, device, steps)
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
    recipe = read_recipe(arguments.pipeline, ["model.backbone_weights=", *arguments.overrides])
    device = torch.device(choose_device(arguments))
    frames, size = recipe.data.frames_per_batch, recipe.data.augmentation.crop_size
    header = f"{arguments.pipeline.stem}, {frames} frames of {size[0]}x{size[1]} a step, {recipe.precision}"
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
