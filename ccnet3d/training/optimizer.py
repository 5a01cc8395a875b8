"""The optimizer of a recipe, and its learning rate schedule."""

from __future__ import annotations

import math
from collections.abc import Collection

import torch
from torch import nn

from ccnet3d.models import CCNet3D
from ccnet3d.training.recipe import OptimizerRecipe

__all__ = ["build_optimizer", "learning_rate_factor"]


def build_optimizer(model: CCNet3D, recipe: OptimizerRecipe, new_parts: Collection[str] = ()) -> torch.optim.Optimizer:
    """Build the optimizer, with parameter groups by learning rate and by weight decay.

    Convolution kernels have weight decay; biases, norms and single weights such as gamma have none. Parameters without
    gradients are left out.

    Args:
        model: its parameters.
        recipe: the settings.
        new_parts: prefixes of the parameters that have the recipe's ``new_factor``.
    """
    new = tuple(f"{part}." for part in new_parts)
    in_backbone = [name for name, _ in model.named_parameters() if name.startswith("backbone.")]
    factors = {
        name: recipe.backbone_factor * recipe.backbone_first_factor ** (1 - depth / max(1, len(in_backbone) - 1))
        for depth, name in enumerate(in_backbone)
    }
    factors |= {name: recipe.evidence_factor for name, _ in model.named_parameters() if name.startswith("evidence.")}
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            factor = factors.get(name, 1.0) * (recipe.new_factor if name.startswith(new) else 1.0)
            groups.setdefault((factor, parameter.dim() > 1), []).append(parameter)
    settings = [
        {
            "params": parameters,
            "lr": recipe.learning_rate * factor,
            "weight_decay": recipe.weight_decay if decays else 0.0,
        }
        for (factor, decays), parameters in groups.items()
    ]
    if recipe.name == "sgd":
        return torch.optim.SGD(settings, lr=recipe.learning_rate, momentum=0.9)
    return torch.optim.AdamW(settings, lr=recipe.learning_rate)


def learning_rate_factor(step: int, total_steps: int, recipe: OptimizerRecipe) -> float:
    """Return the factor of the learning rate at a step: linear warm-up, then poly (power 0.9) or cosine decay to 0.

    >>> [round(learning_rate_factor(step, 4, OptimizerRecipe(schedule="cosine")), 3) for step in range(5)]
    [1.0, 0.854, 0.5, 0.146, 0.0]
    """
    if step < recipe.warmup_steps:
        return (step + 1) / (recipe.warmup_steps + 1)
    done = min(1.0, (step - recipe.warmup_steps) / max(1, total_steps - recipe.warmup_steps))
    return (1 - done) ** 0.9 if recipe.schedule == "poly" else (1 + math.cos(math.pi * done)) / 2
