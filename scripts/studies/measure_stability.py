#!/usr/bin/env python3
"""Measure how clip length, clip stride and smoothing change mIoU and consistency over time, on a split of videos."""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ccnet3d.cli.data_options import add_data_options, check_data_folder
from ccnet3d.cli.options import positive, run_command
from ccnet3d.data import DataSource
from ccnet3d.evaluation import evaluate
from ccnet3d.files import write_atomically
from ccnet3d.inference import VideoSegmenter
from ccnet3d.metrics import OpticalFlow, dis_flow, raft_flow, scores_of_options
from ccnet3d.models import load_model
from ccnet3d.resources import dataset_file

SETTINGS: dict[str, dict[str, Any]] = {
    "T=1": {"clip_length": 1},
    "T=5, stride 5": {"clip_stride": 5},
    "T=5, stride 4": {},
    "T=5, stride 2": {"clip_stride": 2},
    "T=5, stride 1": {"clip_stride": 1},
    "T=5, causal": {"causal": True},
    "T=5, smoothing 1": {"smoothing": 1},
    "T=5, smoothing 2": {"smoothing": 2},
    "T=5, smoothing 4": {"smoothing": 4},
    "T=5, causal, smoothing 1": {"causal": True, "smoothing": 1},
}


def cached(flow: OpticalFlow) -> OpticalFlow:
    """Compute the flow between two frames once for all settings."""
    known: dict[tuple[str, str], Tensor] = {}

    def name(frame: Tensor) -> str:
        return hashlib.sha1(frame.contiguous().numpy().tobytes(), usedforsecurity=False).hexdigest()

    def look_up(first: Tensor, second: Tensor) -> Tensor:
        key = name(first), name(second)
        if key not in known:
            known[key] = flow(first, second)
        return known[key]

    return look_up


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add_data_options(parser)
    parser.add_argument(
        "--split", default="val", help="split to score (default: val; CamVid's other splits have one label per second)"
    )
    parser.add_argument(
        "--flow", type=Path, help="weights of torchvision's raft_small, safetensors (default: OpenCV's DIS)"
    )
    parser.add_argument("--checkpoint", type=Path, help="model file (default: the weights in the package)")
    parser.add_argument("--threads", type=positive, help="CPU threads")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the scores to this file")
    return parser.parse_args()


def run(arguments: argparse.Namespace) -> None:
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    check_data_folder(arguments.data)
    dataset = DataSource(arguments.data, dataset_file("camvid")).open(arguments.split)
    model, info = load_model(arguments.checkpoint)
    flow = cached(raft_flow(arguments.flow) if arguments.flow else dis_flow())
    over_time = scores_of_options(["consistency", "flow"])
    table = {}
    for name, options in SETTINGS.items():
        result = evaluate(VideoSegmenter(model, info, **options), dataset, scores=over_time, flow=flow).scores
        table[name] = {score: result[score] for score in ("miou", "per_frame_miou", *over_time)}
        scores = "  ".join(f"{key} {100 * value:.2f}" for key, value in table[name].items())
        print(f"{name:<26}{scores}", flush=True)
    if arguments.json:
        write_atomically(arguments.json, (json.dumps(table, indent=1) + "\n").encode())


if __name__ == "__main__":
    chosen = parse_arguments()
    sys.exit(run_command("measure_stability.py", lambda: run(chosen)))
