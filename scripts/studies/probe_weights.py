#!/usr/bin/env python3
"""Score trained weights with other factors of the attention's gamma, and without the class weights of the loss.

Neither needs training. Where val scores best with other values than training found, training further can help: gamma
is `model.overrides.initial_gamma` of a recipe, the class weights are `loss.class_balance_offset`. The class weights are
removed by subtracting a share of their logarithm from the logits: with a share of 1, a model that predicts the weighted
probabilities exactly predicts the plain ones (logit adjustment, Menon et al., ICLR 2021).
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
from pathlib import Path

import torch
from torch import Tensor

from ccnet3d.cli.data_options import add_data_options, check_data_folder
from ccnet3d.cli.options import positive, run_command
from ccnet3d.cli.views import input_size, numbers
from ccnet3d.data import DataSource, inspect_frames
from ccnet3d.errors import FileProblemsError, UserError
from ccnet3d.evaluation import evaluate
from ccnet3d.files import write_atomically
from ccnet3d.inference import VideoSegmenter
from ccnet3d.losses import balanced_class_weights
from ccnet3d.models import ModelInfo, load_model
from ccnet3d.resources import dataset_file


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_data_options(parser)
    parser.add_argument("--split", default="val", help="split to score (default: val)")
    parser.add_argument("--checkpoint", type=Path, help="model file (default: the weights in the package)")
    parser.add_argument("--input-size", type=input_size, metavar="HxW", help="working size (default: the model's own)")
    parser.add_argument("--clip-length", type=positive, metavar="T", help="frames per clip (default: the model's own)")
    parser.add_argument(
        "--gamma", type=numbers, metavar="G,...", default=[0.0, 0.5, 1.0, 1.5, 2.0], help="factors of the trained gamma"
    )
    parser.add_argument(
        "--take-back",
        type=numbers,
        metavar="S,...",
        default=[0.0],
        help="shares of the class weights to remove (default: 0)",
    )
    parser.add_argument("--threads", type=positive, help="CPU threads")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the scores to this file")
    return parser.parse_args()


def loss_weights(info: ModelInfo, data: Path) -> Tensor:
    """Return the class weights ``[K]`` of the loss that trained the model.

    Raises:
        UserError: the model was trained without class weights.
        FileProblemsError: training labels that cannot be read.
    """
    recipe = info.recipe
    # Files that were trained before recipes had a table of losses have the offset in their section `loss`.
    offset = recipe.get("class_balance_offset", 0.0) or recipe.get("loss", {}).get("class_balance_offset", 0.0)
    if not offset:
        raise UserError("these weights were trained without class weights; leave --take-back out")
    train = DataSource(data, dataset_file("camvid")).open(info.recipe["train_split"])
    inspection = inspect_frames(train, equal_sizes=False)
    if inspection.problems:
        raise FileProblemsError(inspection.problems)
    return balanced_class_weights(inspection.pixel_counts[: len(info.class_names)], offset)


def run(arguments: argparse.Namespace) -> None:
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    check_data_folder(arguments.data)
    dataset = DataSource(arguments.data, dataset_file("camvid")).open(arguments.split)
    trained, info = load_model(arguments.checkpoint)
    if trained.head.attention is None:
        raise UserError("this model has no attention (loops = 0), whose gamma could be changed")
    weights = loss_weights(info, arguments.data) if any(arguments.take_back) else torch.ones(len(info.class_names))
    rows = []
    for factor in arguments.gamma:
        for share in arguments.take_back:
            model = copy.deepcopy(trained)
            attention, bias = model.head.attention, model.classifier.bias
            assert attention is not None  # as in the trained one
            assert bias is not None
            with torch.no_grad():
                gamma = attention.gamma
                assert isinstance(gamma, torch.Tensor)
                gamma.mul_(factor)
                bias.sub_(share * weights.log())
            result = evaluate(
                VideoSegmenter(model, info, clip_length=arguments.clip_length, input_size=arguments.input_size),
                dataset,
                scores=["vc8_strict", "flicker"],
            )
            row = {"gamma": gamma.item(), "taken_back": share, **result.to_table()}
            rows.append(row)
            scores = {"mIoU": row["miou"], "per-frame mIoU": row["per_frame_miou"], **row["consistency"]}
            text = "  ".join(f"{name} {'-' if s is None else f'{100 * s:.2f}'}" for name, s in scores.items())
            print(f"gamma {row['gamma']:.3f}  class weights removed {share:g}  {text}", flush=True)
    if arguments.json:
        write_atomically(arguments.json, (json.dumps(rows, indent=1) + "\n").encode())


if __name__ == "__main__":
    chosen = parse_arguments()
    sys.exit(run_command("probe_weights.py", lambda: run(chosen)))
