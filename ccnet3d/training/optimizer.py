"""The optimiser of a recipe, and its learning rate over time."""

from __future__ import annotations

import math

import torch
from torch import nn

from ccnet3d.models import CCNet3D
from ccnet3d.training.recipe import OptimizerRecipe


def build_optimizer(model: CCNet3D, recipe: OptimizerRecipe) -> torch.optim.Optimizer:
    """Parameter groups by learning rate, with weight decay (kernels) or without (biases, norms, gamma)."""
    in_backbone = [name for name, _ in model.named_parameters() if name.startswith("backbone.")]
    factors = {
        name: recipe.backbone_factor * recipe.backbone_first_factor ** (1 - place / max(1, len(in_backbone) - 1))
        for place, name in enumerate(in_backbone)
    }
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        groups.setdefault((factors.get(name, 1.0), parameter.dim() > 1), []).append(parameter)
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
    """The learning rate at a step over the recipe's: linear warm-up, then poly (power 0.9) or cosine to 0."""
    if step < recipe.warmup_steps:
        return (step + 1) / (recipe.warmup_steps + 1)
    done = min(1.0, (step - recipe.warmup_steps) / max(1, total_steps - recipe.warmup_steps))
    return (1 - done) ** 0.9 if recipe.schedule == "poly" else (1 + math.cos(math.pi * done)) / 2
