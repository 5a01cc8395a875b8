#!/usr/bin/env python3
"""Check training on one GPU, in at most eight minutes: speed, precisions, NCCL with synchronized batch norms, a run.

In this order: frames per second and the share of the card's matrix products; one epoch in each of fp32, bf16 and fp16
with its val mIoU; a few steps under DistributedDataParallel over NCCL with synchronized batch norms, whose losses must
equal those without them; and the recipe itself, for as many of its epochs as the rest of the time allows. One card
cannot show that several agree: it shows that the code paths run there.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from bench_training import measure
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from ccnet3d.ablation import describe_machine
from ccnet3d.cli.data_options import add_data_options, data_source
from ccnet3d.cli.options import add_device_options, choose_device, positive, run_command
from ccnet3d.data import DataSource
from ccnet3d.files import write_atomically
from ccnet3d.models import load_model
from ccnet3d.resources import recipe_file
from ccnet3d.training import Recipe, Trainer, build_model, build_optimizer, read_recipe, training_loss
from ccnet3d.training.network import TrainingNetwork

STEPS = 5
LEAST_SECONDS_PER_EPOCH = 1.0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("recipe", nargs="?", default="camvid_b0", help="a TOML file, or the name of a recipe")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides",
                        help="override a value of the recipe")  # fmt: skip
    parser.add_argument("--seconds", type=positive, default=440, help="time for all of it")
    parser.add_argument("--matrix", type=positive, default=8192, help="rows and columns of the matrices of the product")
    parser.add_argument("--out", type=Path, default=Path("runs/check_gpu"), metavar="FOLDER", help="folder of the runs")
    add_data_options(parser, training=True)
    add_device_options(parser)
    return parser.parse_args()


def train(recipe: Recipe, data: DataSource, out: Path, device: torch.device) -> dict[str, Any]:
    """Train a recipe and return its scores and the seconds it took."""
    began = time.perf_counter()
    _, info = load_model(Trainer(recipe, data, out, device).run())
    return {**info.scores, "epochs": recipe.epochs, "seconds": time.perf_counter() - began}


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Join a group of one process: NCCL on a GPU, gloo on a CPU."""
    with tempfile.TemporaryDirectory() as folder:
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        distributed.init_process_group(backend, init_method=f"file://{folder}/group", rank=0, world_size=1)
        try:
            yield
        finally:
            distributed.destroy_process_group()


def losses_of_steps(recipe: Recipe, classes: int, device: torch.device, *, parallel: bool) -> list[float]:
    """Return the losses of a few fp32 steps on random clips, with or without the wrappers of several processes."""
    torch.manual_seed(recipe.seed)
    model = build_model(recipe.model, [str(number) for number in range(classes)]).model.to(device)
    compute = replace(recipe.compute, sync_batch_norm=parallel and device.type == "cuda")
    network: torch.nn.Module = TrainingNetwork(model, compute, recipe.model.trained, recipe.model.frozen)
    optimizer = build_optimizer(model, recipe.optimizer)
    if parallel:
        network = DistributedDataParallel(network, find_unused_parameters=True)
    length = recipe.data.clip_lengths[-1]
    shape = (max(2, recipe.data.frames_per_batch // length), length)
    random = torch.Generator().manual_seed(recipe.seed)
    frames = torch.rand(*shape, 3, *recipe.data.augmentation.crop_size, generator=random).to(device)
    labels = torch.randint(classes, (*shape, *frames.shape[-2:]), generator=random).to(device)
    anchors = torch.zeros(len(frames), dtype=torch.long, device=device)
    values = []
    for _ in range(STEPS):
        torch.manual_seed(recipe.seed)  # of dropout
        optimizer.zero_grad(set_to_none=True)
        loss = training_loss(network.train()(frames, anchors), labels, recipe.losses)[0]
        loss.backward()
        optimizer.step()
        values.append(loss.item())
    return values


def run(arguments: argparse.Namespace) -> None:
    began = time.perf_counter()
    device = torch.device(choose_device(arguments))
    recipe = read_recipe(recipe_file(arguments.recipe), arguments.overrides)
    data = data_source(arguments)
    classes = len(data.open(recipe.train_split).spec.classes)
    results: dict[str, Any] = {"machine": describe_machine(device), "recipe": arguments.recipe}
    print(results["machine"], flush=True)

    def report(name: str, value: Any) -> None:
        results[name] = value
        print(f"{name}: {json.dumps(value)}", flush=True)
        write_atomically(arguments.out / "check.json", (json.dumps(results, indent=1) + "\n").encode())

    arguments.out.mkdir(parents=True)
    random_start = replace(recipe, model=replace(recipe.model, backbone_weights="", head_classes=()))
    report("speed", measure(random_start, device, STEPS, arguments.matrix))
    short = replace(recipe, epochs=1, evaluate_every=1)
    for precision in ("fp32", "bf16", "fp16") if device.type == "cuda" else ("fp32", "bf16"):
        report(precision, train(replace(short, precision=precision), data, arguments.out / precision, device))
    alone = losses_of_steps(recipe, classes, device, parallel=False)
    with process_group(device):
        together = losses_of_steps(recipe, classes, device, parallel=True)
    report("parallel", {"alone": alone, "together": together})
    if not all(math.isclose(a, b, rel_tol=1e-3) for a, b in zip(alone, together, strict=True)):
        raise SystemExit("the losses under DistributedDataParallel differ from those without it")
    left = arguments.seconds - (time.perf_counter() - began)
    per_epoch = max(results[recipe.precision]["seconds"], LEAST_SECONDS_PER_EPOCH)
    epochs = min(recipe.epochs, int(left / per_epoch))
    if epochs:
        report("recipe run", train(replace(recipe, epochs=epochs, evaluate_every=epochs), data,
                                   arguments.out / "recipe", device))  # fmt: skip
    print(f"{time.perf_counter() - began:.0f} s in all; {arguments.out / 'check.json'}")


if __name__ == "__main__":
    chosen = parse_arguments()
    sys.exit(run_command("check_gpu.py", lambda: run(chosen)))
