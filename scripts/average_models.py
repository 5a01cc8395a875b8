#!/usr/bin/env python3
"""Average the weights of models that were trained from the same start, such as the seeds of one recipe.

Model soups (Wortsman et al., ICML 2022, arXiv 2203.05482): runs from the same trained weights end so close to each
other that the mean of their weights is a working network, which often generalizes better than each of them. Batch norm
statistics are averaged, too. Runs from random weights do not have this property; evaluate the result.

``--start-share`` mixes in the weights that training started from (WiSE-FT, Wortsman et al., CVPR 2022, arXiv
2109.01903): the network keeps more of what the start knows of scenes that the training data does not show.

    python scripts/average_models.py runs/a/model.safetensors runs/b/model.safetensors -o runs/mean/model.safetensors
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from ccnet3d.cli.options import run_command
from ccnet3d.config import from_table
from ccnet3d.errors import UserError
from ccnet3d.models import ModelInfo, load_model, save_model
from ccnet3d.training import ModelRecipe, build_model


def average(paths: list[Path], out: Path, start_share: float = 0.0) -> None:
    """Write the mean of the models with the first one's description, without its scores.

    Args:
        paths: model files.
        out: the file to write.
        start_share: share of the weights that the first model's training started from, 0 to 1.

    Raises:
        UserError: fewer than two models, models of different architectures or classes, an output that exists, or a
            start that is not known or cannot be read.
    """
    if not 0 <= start_share < 1:
        raise UserError(f"--start-share must be at least 0 and below 1, got {start_share}")
    if len(paths) < 2 and not start_share:
        raise UserError(f"a mean needs at least two models, got {len(paths)}")
    if out.exists():
        raise UserError(f"{out} exists; give another file to write")
    model, info = load_model(paths[0])
    total = {name: tensor.double() for name, tensor in model.state_dict().items()}
    for path in paths[1:]:
        other, other_info = load_model(path)
        if (other_info.model, other_info.class_names) != (info.model, info.class_names):
            raise UserError(
                f"{path} has another architecture or other classes than {paths[0]}; give models of one recipe"
            )
        for name, tensor in other.state_dict().items():
            total[name] += tensor.double()
    mean = {name: tensor / len(paths) for name, tensor in total.items()}
    if start_share:
        for name, tensor in initial_weights(info, paths[0]).items():
            mean[name].lerp_(tensor.double(), start_share)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            tensor.copy_(mean[name].to(tensor.dtype))
    out.parent.mkdir(parents=True, exist_ok=True)
    save_model(out, model, replace(info, scores={}))
    print(f"wrote {out}")


def initial_weights(info: ModelInfo, path: Path) -> dict[str, Tensor]:
    """Return the weights that a model's training read from files; those that it drew at random are left out."""
    if "model" not in info.recipe:
        raise UserError(f"{path} does not say what its training started from; leave out --start-share")
    recipe = from_table(ModelRecipe, info.recipe["model"], "model")
    model, transfer = build_model(recipe, info.class_names)
    state = model.state_dict()
    if transfer is not None:
        drawn = tuple(f"{part}." for part in transfer.new_parts)
        return {name: tensor for name, tensor in state.items() if not name.startswith(drawn)}
    if recipe.head_classes:
        parts: tuple[str, ...] = (
            "backbone.",
            "head.",
            "classifier.",
            "detail.",
        )  # detail starts at 0, so its input does not matter
    elif recipe.backbone_weights:
        parts = ("backbone.",)
    else:
        raise UserError(f"{path} was trained from random weights; leave out --start-share")
    return {name: tensor for name, tensor in state.items() if name.startswith(parts)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=Path, metavar="FILE", help="model files")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help="the file to write")
    parser.add_argument(
        "--start-share",
        type=float,
        default=0.0,
        metavar="S",
        help="share of the weights that training started from; the recipe's weight files must exist (default: 0)",
    )
    arguments = parser.parse_args()
    return run_command("average_models.py", lambda: average(arguments.models, arguments.output, arguments.start_share))


if __name__ == "__main__":
    sys.exit(main())
