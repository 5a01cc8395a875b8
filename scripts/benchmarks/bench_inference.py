#!/usr/bin/env python3
"""Measure the cost of inference: frames per second, clips, the command and its model, DeepLabV3-MobileNet, memory.

--runtimes prints one table instead: time per mask in PyTorch, compiled, in ONNX Runtime and OpenVINO, relative to
DeepLabV3-MobileNet in PyTorch for frames of 480x640.

The machine should be otherwise idle. Ratios are between runs of one call; frames per second hold for the machine that
the output names.
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torchvision.models.segmentation import deeplabv3_mobilenet_v3_large

from ccnet3d.ablation import describe_machine, median_seconds
from ccnet3d.cli.infer_options import SMOOTHING_FRAMES
from ccnet3d.cli.options import choose_device, positive, run_command
from ccnet3d.cli.views import input_size
from ccnet3d.errors import UserError
from ccnet3d.export import export_model
from ccnet3d.files import write_atomically
from ccnet3d.inference import ExportedModel, ExportedSegmenter, StreamingSegmenter, VideoSegmenter, resize_frame
from ccnet3d.models import load_model
from ccnet3d.resources import shipped_weights
from ccnet3d.video import VideoWriter, draw_sample_frame, open_video

PARTS = ("speed", "clips", "deeplab", "command", "memory")

MEMORY_PROBE = """
import resource, subprocess, sys
code = subprocess.run([sys.executable, "-m", "ccnet3d.cli.infer", *sys.argv[1:]]).returncode
print(code, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--parts", nargs="+", choices=PARTS, default=list(PARTS), help="parts to measure; all by default"
    )
    parser.add_argument(
        "--runtimes",
        nargs="*",
        type=Path,
        metavar="FOLDER",
        help="compare the runtimes instead: of the default model, exported to ONNX here, and of these exported models",
    )
    parser.add_argument("--video", type=Path, help="the video to measure with; a synthetic one of 480x360 by default")
    parser.add_argument("--frames", type=positive, default=24, help="frames per timed run of the model")
    parser.add_argument(
        "--rounds", type=positive, default=7, help="interleaved runs of each setting; the median counts"
    )
    parser.add_argument("--command-frames", type=positive, default=3000, help="frames of the video for the command")
    parser.add_argument("--input-size", type=input_size, metavar="HxW", help="working size; the model's own by default")
    parser.add_argument(
        "--deeplab-size", type=input_size, metavar="HxW", help="DeepLab's size; the working size by default"
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=positive)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the measurements to this file")
    return parser.parse_args()


def drain(items: Iterator[object]) -> None:
    for _ in items:
        pass


def measure_speed(frames: Sequence[np.ndarray], arguments: argparse.Namespace) -> dict[str, Any]:
    """Return frames per second from frames in memory to masks, with the command's default settings, and model sizes."""

    def run_segment(segmenter: VideoSegmenter) -> None:
        drain(segmenter.segment(frames))

    result: dict[str, Any] = {"machine": describe_machine(torch.device(arguments.device))}
    for name, file in shipped_weights().items():
        model, info = load_model(name)
        model.to(arguments.device)
        size = arguments.input_size or info.input_size
        runs = {}
        for dtype in (torch.float32, torch.bfloat16):
            segmenter = VideoSegmenter(model, info, dtype=dtype, input_size=size, smoothing=SMOOTHING_FRAMES)
            runs[str(dtype)] = partial(run_segment, segmenter)
        medians = median_seconds(runs, arguments.rounds, torch.device(arguments.device))
        result[name] = {
            "frames per second": {dtype: len(frames) / seconds for dtype, seconds in medians.items()},
            "working size": list(size),
            "threads": torch.get_num_threads(),
            "million parameters": sum(parameter.numel() for parameter in model.parameters()) / 1e6,
            "MB": file.stat().st_size / 1e6,
        }
    return result


def measure_clips(frames: Sequence[np.ndarray], arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the cost per frame, network and blending, for several clip lengths and strides, relative to T = 1."""
    model, info = load_model()
    model.to(arguments.device)
    length = info.clip_length
    settings: dict[str, dict[str, Any]] = {
        "T=1": {"clip_length": 1},
        f"T={length}, stride {length - 1} (default)": {},
        f"T={length}, stride {length}": {"clip_stride": length},
        f"T={length}, stride {length // 2 + 1}": {"clip_stride": length // 2 + 1},
        f"T={length}, stride 1": {"clip_stride": 1},
        f"T={length}, causal": {"causal": True},
        f"T={length}, stride {length - 1}, smoothing 1": {"smoothing": 1},
    }

    def run_predict(segmenter: VideoSegmenter) -> None:
        drain(segmenter.predict(frames))

    result = {}
    for dtype in (torch.float32, torch.bfloat16):
        segmenters = {
            name: VideoSegmenter(model, info, dtype=dtype, input_size=arguments.input_size, **options)
            for name, options in settings.items()
        }
        runs = {name: partial(run_predict, segmenter) for name, segmenter in segmenters.items()}
        medians = median_seconds(runs, arguments.rounds, torch.device(arguments.device))
        result[str(dtype)] = {name: seconds / medians["T=1"] for name, seconds in medians.items()}
    return result


def deeplab_runs(
    frames: Sequence[np.ndarray], size: tuple[int, int], num_classes: int, device: str
) -> Callable[[torch.dtype], None]:
    """Return a function that computes the masks of torchvision's DeepLabV3-MobileNet for frames of its own size."""
    frames = resized(frames, size)
    network = deeplabv3_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=num_classes).eval()
    network.to(device, memory_format=torch.channels_last)
    mean = torch.tensor([0.485, 0.456, 0.406], device=device).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225], device=device).view(3, 1, 1)

    @torch.inference_mode()
    def run(dtype: torch.dtype) -> None:
        for frame in frames:
            image = torch.from_numpy(frame).to(device).permute(2, 0, 1).float().div_(255)
            batch = ((image - mean) / std)[None].contiguous(memory_format=torch.channels_last)
            with torch.autocast(batch.device.type, dtype, enabled=dtype != torch.float32):
                network(batch)["out"].argmax(1).to(torch.uint8).cpu()

    return run


def resized(frames: Sequence[np.ndarray], size: tuple[int, int]) -> list[np.ndarray]:
    return [resize_frame(torch.from_numpy(frame).permute(2, 0, 1), size).permute(1, 2, 0).numpy() for frame in frames]


def measure_deeplab(frames: Sequence[np.ndarray], arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the cost per mask relative to torchvision's DeepLabV3-MobileNet; both get frames of their own size."""
    model, info = load_model()
    size = arguments.input_size or info.input_size
    ours = resized(frames, size)
    run_other = deeplab_runs(frames, arguments.deeplab_size or size, len(info.class_names), arguments.device)

    def run_ours(segmenter: VideoSegmenter) -> None:
        drain(segmenter.segment(ours))

    result = {}
    for dtype in (torch.float32, torch.bfloat16):
        segmenter = VideoSegmenter(model.to(arguments.device), info, dtype=dtype, input_size=size)
        runs = {"ours": partial(run_ours, segmenter), "deeplab": partial(run_other, dtype)}
        medians = median_seconds(runs, arguments.rounds, torch.device(arguments.device))
        result[str(dtype)] = medians["ours"] / medians["deeplab"]
    return result


def measure_runtimes(
    frames: Sequence[np.ndarray], arguments: argparse.Namespace, folder: Path
) -> dict[str, dict[str, float]]:
    """Return the cost per mask of each runtime, by dtype, relative to DeepLab's in PyTorch in the same dtype.

    All are timed in turn, in each round. A runtime that is missing, or has not the dtype, is left out.
    """
    model, info = load_model()
    size = arguments.input_size or info.input_size
    export_model(None, folder, "onnx", frames[:1], input_size=size)
    ours = resized(frames, size)
    run_other = deeplab_runs(frames, arguments.deeplab_size or (480, 640), len(info.class_names), "cpu")
    dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16}
    runs: dict[str, dict[str, Callable[[], object]]] = {name: {} for name in dtypes}
    for name, dtype in dtypes.items():
        options: dict[str, Any] = {"dtype": dtype, "input_size": size}
        compiled = VideoSegmenter(model, info, compile_model=True, **options)
        runs[name]["torch"] = partial(run_masks, VideoSegmenter(model, info, **options), ours)
        runs[name]["torch.compile"] = partial(run_masks, compiled, ours)
        for path in (folder, *arguments.runtimes):
            exported = ExportedModel(path)
            for runtime in exported.runtimes():
                label = runtime if path == folder else f"{runtime}, {exported.info.precision} ({path.name})"
                with suppress(UserError):
                    runs[name][label] = partial(run_masks, ExportedSegmenter(exported, runtime, **options), ours)
        runs[name]["deeplab"] = partial(run_other, dtype)
    flat = {f"{name} {label}": work for name, some in runs.items() for label, work in some.items()}
    medians = median_seconds(flat, arguments.rounds, torch.device("cpu"))
    return {
        name: {label: medians[f"{name} {label}"] / medians[f"{name} deeplab"] for label in some}
        for name, some in runs.items()
    }


def print_runtimes(ratios: dict[str, dict[str, float]]) -> None:
    """Print the result of :func:`measure_runtimes` as a table."""
    print(f"| model in | {' | '.join(ratios)} |\n|---|{'---|' * len(ratios)}")
    for label in dict.fromkeys(itertools.chain.from_iterable(ratios.values())):
        cells = (f"{some[label]:.2f}" if label in some else "-" for some in ratios.values())
        print(f"| {label} | {' | '.join(cells)} |", flush=True)


def run_masks(segmenter: StreamingSegmenter, frames: Sequence[np.ndarray]) -> None:
    drain(segmenter.segment(frames))


def measure_command(frames: Sequence[np.ndarray], arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Return the wall time of ``ccnet3d-infer``, startup included, relative to its model on frames in memory."""
    count = arguments.command_frames
    video = folder / "long.mp4"
    with VideoWriter(video, 25) as writer:
        for index, frame in zip(range(count), itertools.cycle(frames), strict=False):
            writer.write(frame, index / 25)
    model, info = load_model()
    segmenter = VideoSegmenter(model.to(arguments.device), info, input_size=arguments.input_size, smoothing=2)
    with open_video(video) as reader:
        decoded = list(itertools.islice(reader, len(frames)))
    options = ["--device", arguments.device, "-q"]
    if arguments.input_size:
        options += ["--input-size", "x".join(map(str, arguments.input_size))]
    if arguments.threads:
        options += ["--threads", str(arguments.threads)]
    command = [sys.executable, "-m", "ccnet3d.cli.infer", str(video), "-o", str(folder / "masks"), *options]

    def in_memory() -> Iterator[np.ndarray]:
        return itertools.islice(itertools.cycle([frame.image for frame in decoded]), count)

    def run_model() -> None:
        drain(segmenter.predict(in_memory()))

    def run_masks() -> None:
        drain(segmenter.segment(in_memory()))

    def run_command() -> None:
        subprocess.run(command, check=True)

    # The machine's speed drifts over minutes, so the model is timed before and after the command.
    runs = {"model": run_model, "model to masks": run_masks, "command": run_command}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for name in ("model", "command", "model to masks", "model"):
        begin = time.perf_counter()
        runs[name]()
        seconds[name].append(time.perf_counter() - begin)
    model_seconds = statistics.mean(seconds["model"])
    ratios = {name: statistics.mean(values) / model_seconds for name, values in seconds.items()}
    return ratios | {"frames": count, "model, spread": max(seconds["model"]) / min(seconds["model"])}


def measure_memory(folder: Path) -> dict[str, Any]:
    """Return the peak resident memory of the command for a video of 20 minutes, relative to one of 2 minutes."""
    peaks = {}
    for minutes in (2, 20):
        video = folder / f"{minutes}.mp4"
        frame = draw_sample_frame(0, 72, 96)
        with VideoWriter(video, 10) as writer:
            for index in range(minutes * 600):
                writer.write(np.roll(frame, index, axis=1), index / 10)
        command = [sys.executable, "-c", MEMORY_PROBE, str(video), "-o", str(folder / f"masks{minutes}"), "-q"]
        probe = subprocess.run([*command, "--input-size", "72x96"], capture_output=True, text=True, check=True)
        code, kibibytes = probe.stdout.split()
        if code != "0":
            raise RuntimeError(f"the command failed: {probe.stderr}")
        peaks[minutes] = int(kibibytes) / 1024
    return {"2 minutes, MiB": peaks[2], "20 minutes, MiB": peaks[20], "ratio": peaks[20] / peaks[2]}


def run(arguments: argparse.Namespace) -> None:
    choose_device(arguments)  # also applies the command's CPU settings to all measurements
    if arguments.video:
        with open_video(arguments.video) as reader:
            frames = [frame.image for frame in itertools.islice(reader, arguments.frames)]
    else:
        frames = [draw_sample_frame(index) for index in range(arguments.frames)]
    machine = describe_machine(torch.device(arguments.device))
    figures: dict[str, Any] = {"machine": machine, "frame": list(frames[0].shape[:2])}
    with tempfile.TemporaryDirectory() as name:
        parts: dict[str, Callable[[], dict[str, Any]]] = {
            "speed": lambda: measure_speed(frames, arguments),
            "clips": lambda: measure_clips(frames, arguments),
            "deeplab": lambda: measure_deeplab(frames, arguments),
            "command": lambda: measure_command(frames, arguments, Path(name)),
            "memory": lambda: measure_memory(Path(name)),
            "runtimes": lambda: measure_runtimes(frames, arguments, Path(name) / "exported"),
        }
        for part in arguments.parts if arguments.runtimes is None else ["runtimes"]:
            figures[part] = parts[part]()
            if part == "runtimes":
                print_runtimes(figures[part])
                continue
            print(json.dumps({part: figures[part]}, indent=1), flush=True)
    figures["peak_rss_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if arguments.json:
        write_atomically(arguments.json, (json.dumps(figures, indent=1) + "\n").encode())


if __name__ == "__main__":
    chosen = parse_arguments()
    sys.exit(run_command("bench_inference.py", lambda: run(chosen)))
