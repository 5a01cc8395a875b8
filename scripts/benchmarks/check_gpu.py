#!/usr/bin/env python3
"""Check one GPU, in at most eight minutes: the kernels, the speed of attention and inference, training.

``kernels`` runs the tests of the Triton kernels on the card: 44 shapes, output and all gradients, three dtypes.
``attention`` and ``inference`` run bench_attention.py and bench_inference.py there. ``training`` measures, in this
order: frames per second and the share of the card's matrix products; one epoch in each of fp32, bf16 and fp16 with
its val mIoU; a few steps under DistributedDataParallel over NCCL with synchronized batch norms, whose first loss and
gradients must equal those without them; and the recipe itself, for as many of its epochs as the rest of the time
allows. One card cannot show that several agree: it shows that the code paths run there.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
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
SCRIPTS = Path(__file__).parent
# Each runs in a process of its own, with the files of its results in the output folder.
PROGRAMS: dict[str, list[list[str]]] = {
    "kernels": [
        ["-m", "pytest", "-n", "8", "--dist", "load", str(SCRIPTS.parents[1] / "tests/attention/test_triton.py")],
    ],
    "attention": [
        [str(SCRIPTS / "bench_attention.py"), "--only", "table", "--size", "5x90x120", "--json", "attention.json"],
    ],
    "inference": [
        [str(SCRIPTS / "bench_inference.py"), "--parts", "speed", "deeplab", "--frames", "8", "--rounds", "5",
         "--json", "inference.json"],
    ],
}  # fmt: skip
LEAST_SECONDS_PER_EPOCH = 1.0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("recipe", nargs="?", default="camvid_b0", help="a TOML file, or the name of a recipe")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides",
                        help="override a value of the recipe")  # fmt: skip
    parser.add_argument("--parts", nargs="+", choices=[*PROGRAMS, "training"], default=[*PROGRAMS, "training"],
                        help="what to check; all by default")  # fmt: skip
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


@contextmanager
def true_float32() -> Iterator[None]:
    """Compute convolutions without TF32, which keeps 11 bits, so that other kernels of cuDNN give other results."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def losses_of_steps(
    recipe: Recipe, classes: int, device: torch.device, *, parallel: bool
) -> tuple[list[float], torch.Tensor]:
    """Return the losses of a few fp32 steps on random clips and the first gradient, with or without several processes.

    The gradient is that of all parameters in one vector. Later steps differ: AdamW's first steps have the size of the
    learning rate wherever a gradient is not zero, so they turn its rounding errors into other weights.
    """
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
    values: list[float] = []
    first = torch.empty(0)
    for step in range(STEPS):
        torch.manual_seed(recipe.seed)  # of dropout
        optimizer.zero_grad(set_to_none=True)
        loss = training_loss(network.train()(frames, anchors), labels, recipe.losses)[0]
        loss.backward()
        if step == 0:
            gradients = [parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None]
            first = torch.cat(gradients).cpu()
        optimizer.step()
        values.append(loss.item())
    return values, first


def run_programs(part: str, out: Path, device: torch.device, seconds: float) -> None:
    """Run the programs of a part, each with a bound on its time; one that fails ends the check."""
    for program in PROGRAMS[part]:
        command = [sys.executable, *program]
        if "--json" in command:
            command[-1] = str(out / command[-1])
            command += ["--device", device.type]
        print(f"+ {' '.join(command)}", flush=True)
        try:
            done = subprocess.run(command, timeout=max(seconds, 1.0), check=False)
        except subprocess.TimeoutExpired as late:
            raise SystemExit(
                f"no time is left for: {' '.join(command)}; give more --seconds or fewer --parts"
            ) from late
        if done.returncode:
            raise SystemExit(f"exit status {done.returncode} of: {' '.join(command)}")


def run(arguments: argparse.Namespace) -> None:
    began = time.perf_counter()
    device = torch.device(choose_device(arguments))
    arguments.out.mkdir(parents=True)
    for part in arguments.parts:
        if part == "training":
            train_and_measure(arguments, device, began)
        else:
            run_programs(part, arguments.out, device, arguments.seconds - (time.perf_counter() - began))
        print(f"{part}: {time.perf_counter() - began:.0f} s so far", flush=True)


def train_and_measure(arguments: argparse.Namespace, device: torch.device, began: float) -> None:
    low_resolution = [] if arguments.high_resolution else ["data.high_resolution_share=0"]
    recipe = read_recipe(recipe_file(arguments.recipe), [*low_resolution, *arguments.overrides])
    data = data_source(arguments)
    classes = len(data.open(recipe.train_split).spec.classes)
    results: dict[str, Any] = {"machine": describe_machine(device), "recipe": arguments.recipe}
    print(results["machine"], flush=True)

    def report(name: str, value: Any) -> None:
        results[name] = value
        print(f"{name}: {json.dumps(value)}", flush=True)
        write_atomically(arguments.out / "check.json", (json.dumps(results, indent=1) + "\n").encode())

    random_start = replace(recipe, model=replace(recipe.model, backbone_weights="", head_classes=()))
    report("speed", measure(random_start, device, STEPS, arguments.matrix))
    short = replace(recipe, epochs=1, evaluate_every=1)
    for precision in ("fp32", "bf16", "fp16") if device.type == "cuda" else ("fp32", "bf16"):
        report(precision, train(replace(short, precision=precision), data, arguments.out / precision, device))
    with true_float32():
        alone, gradient = losses_of_steps(recipe, classes, device, parallel=False)
    with process_group(device), true_float32():
        together, other = losses_of_steps(recipe, classes, device, parallel=True)
    difference = ((other - gradient).norm() / gradient.norm()).item()
    report("parallel", {"alone": alone, "together": together, "difference of the first gradient": difference})
    if not math.isclose(alone[0], together[0], rel_tol=1e-5) or not difference < 1e-3:
        raise SystemExit("the first loss or gradient under DistributedDataParallel differs from that without it")
    left = arguments.seconds - (time.perf_counter() - began)
    per_epoch = max(results[recipe.precision]["seconds"], LEAST_SECONDS_PER_EPOCH)
    epochs = min(recipe.epochs, int(left / per_epoch))
    if epochs:
        report("recipe run", train(replace(recipe, epochs=epochs, evaluate_every=epochs), data,
                                   arguments.out / "recipe", device))  # fmt: skip


if __name__ == "__main__":
    chosen = parse_arguments()
    sys.exit(run_command("check_gpu.py", lambda: run(chosen)))
