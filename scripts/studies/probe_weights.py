#!/usr/bin/env python3
"""Score trained weights with another weight of the attention, and with the classes' weights in the loss taken back.

Neither needs training. Where val asks for another value than training found, the next stage has something to do:
the attention's weight gamma is `model.overrides.initial_gamma` of a recipe, the classes' weights are
`class_balance_offset`. They are taken back by subtracting a share of their logarithm from the logits: at 1, a
model that gives the weighted probabilities exactly gives the plain ones (logit adjustment, Menon et al., ICLR 2021).
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import sys
from pathlib import Path

import torch
from torch import Tensor

from ccnet3d.cli.options import input_size, numbers, positive, run_command
from ccnet3d.data import DataSource, inspect_frames
from ccnet3d.errors import FileProblemsError, UserError
from ccnet3d.evaluation import evaluate
from ccnet3d.files import write_atomically
from ccnet3d.inference import VideoSegmenter
from ccnet3d.losses import balanced_class_weights
from ccnet3d.metrics import Flicker, VideoConsistency
from ccnet3d.models import ModelInfo, load_model
from ccnet3d.resources import dataset_file


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("CCNET3D_CAMVID") or "data/camvid"))
    parser.add_argument("--split", default="val", help="split to score; val by default")
    parser.add_argument("--checkpoint", type=Path, help="model file; the weights in the package by default")
    parser.add_argument("--input-size", type=input_size, metavar="HxW", help="working size; the model's own by default")
    parser.add_argument("--clip-length", type=positive, metavar="T", help="frames of a clip; the model's by default")
    parser.add_argument(
        "--gamma", type=numbers, metavar="G,...", default=[0.0, 0.5, 1.0, 1.5, 2.0], help="factors of the trained gamma"
    )
    parser.add_argument(
        "--take-back", type=numbers, metavar="S,...", default=[0.0], help="shares of the classes' weights; 0 by default"
    )
    parser.add_argument("--threads", type=positive)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the scores there")
    return parser.parse_args()


def loss_weights(info: ModelInfo, data: Path) -> Tensor:
    """The classes' weights ``[K]`` in the loss that trained the model.

    Raises:
        ValueError: the model file does not say, or all weighed alike.
        FileProblemsError: training labels that cannot be read.
    """
    recipe = info.recipe
    # Files that were trained before recipes had a table of losses have the offset in their section `loss`.
    offset = recipe.get("class_balance_offset", 0.0) or recipe.get("loss", {}).get("class_balance_offset", 0.0)
    if not offset:
        raise UserError("these weights were trained with all classes weighed alike; leave --take-back out")
    train = DataSource(data, dataset_file("camvid")).open(info.recipe["train_split"])
    inspection = inspect_frames(train, equal_sizes=False)
    if inspection.problems:
        raise FileProblemsError(inspection.problems)
    return balanced_class_weights(inspection.pixel_counts[: len(info.class_names)], offset)


def run(arguments: argparse.Namespace) -> None:
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    dataset = DataSource(arguments.data, dataset_file("camvid")).open(arguments.split)
    trained, info = load_model(arguments.checkpoint)
    if trained.head.attention is None:
        raise UserError("this model has no attention (loops = 0), whose weight could be changed")
    weights = loss_weights(info, arguments.data) if any(arguments.take_back) else torch.ones(len(info.class_names))
    rows = []
    for factor in arguments.gamma:
        for share in arguments.take_back:
            model = copy.deepcopy(trained)
            attention, bias = model.head.attention, model.classifier.bias
            assert attention is not None  # as in the trained one
            assert bias is not None
            with torch.no_grad():
                attention.gamma.mul_(factor)
                bias.sub_(share * weights.log())
            result = evaluate(
                VideoSegmenter(model, info, clip_length=arguments.clip_length, input_size=arguments.input_size),
                dataset,
                video_consistency=[VideoConsistency(8, strict=True)],
                flicker=Flicker(),
            )
            row = {"gamma": attention.gamma.item(), "taken_back": share, **result.to_table()}
            rows.append(row)
            scores = {"mIoU": row["miou"], "per-frame mIoU": row["per_frame_miou"], **row["consistency"]}
            text = "  ".join(f"{name} {'-' if s is None else f'{100 * s:.2f}'}" for name, s in scores.items())
            print(f"gamma {row['gamma']:.3f}  weights taken back {share:g}  {text}", flush=True)
    if arguments.json:
        write_atomically(arguments.json, (json.dumps(rows, indent=1) + "\n").encode())


if __name__ == "__main__":
    chosen = parse_arguments()
    sys.exit(run_command("probe_weights.py", lambda: run(chosen)))
