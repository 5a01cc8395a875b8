#!/usr/bin/env python3
"""Average the weights of models that were trained from the same start, such as the seeds of one recipe.

Model soups (Wortsman et al., ICML 2022, arXiv 2203.05482): runs from the same trained weights end so close to each
other that the mean of their weights is a working network, which often generalizes better than each of them. Batch norm
statistics are averaged, too. Runs from random weights do not have this property; evaluate the result.

    python scripts/average_models.py runs/a/model.safetensors runs/b/model.safetensors -o runs/mean/model.safetensors
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import torch

from ccnet3d.cli.options import run_command
from ccnet3d.errors import UserError
from ccnet3d.models import load_model, save_model


def average(paths: list[Path], out: Path) -> None:
    """Write the mean of the models with the first one's description, without its scores.

    Raises:
        UserError: fewer than two models, models of different architectures or classes, or an output that exists.
    """
    if len(paths) < 2:
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
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            tensor.copy_((total[name] / len(paths)).to(tensor.dtype))
    out.parent.mkdir(parents=True, exist_ok=True)
    save_model(out, model, replace(info, scores={}))
    print(f"wrote {out}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=Path, metavar="FILE", help="model files")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help="the file to write")
    arguments = parser.parse_args()
    return run_command("average_models.py", lambda: average(arguments.models, arguments.output))


if __name__ == "__main__":
    sys.exit(main())
