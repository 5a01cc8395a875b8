"""The model of a recipe: its initial weights, and the description saved with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import NamedTuple

import torch

from ccnet3d.data import DatasetSpec
from ccnet3d.errors import UserError
from ccnet3d.models import (
    CCNet3D,
    ModelConfig,
    ModelInfo,
    Transfer,
    load_backbone_weights,
    load_head_weights,
    load_model,
    transfer_weights,
)
from ccnet3d.training.recipe import ModelRecipe, Recipe

__all__ = ["BuiltModel", "build_model", "describe_model"]


class BuiltModel(NamedTuple):
    """The result of :func:`build_model`."""

    model: CCNet3D
    """On the CPU."""
    transfer: Transfer | None
    """What was copied from the recipe's ``initial_weights``; None without them."""


def build_model(recipe: ModelRecipe, class_names: Sequence[str]) -> BuiltModel:
    """Build the model of a recipe; weights that the recipe does not name are drawn from torch's random state.

    >>> tiny = {"backbone": "test_efficientnet", "channels": 16, "skip_channels": (12, 10, 8)}
    >>> model, _ = build_model(ModelRecipe(overrides=tiny), ["ground", "box", "rail"])
    >>> model(torch.rand(1, 2, 3, 32, 48)).shape
    torch.Size([1, 2, 3, 32, 48])

    Raises:
        UserError: an invalid override, or weights that do not exist or belong to another model.
    """
    config, transfer = recipe.build_config(len(class_names)), None
    try:
        model = CCNet3D(config)
        if recipe.backbone_weights:
            load_backbone_weights(model.backbone, config.backbone, recipe.backbone_weights)
        if recipe.head_classes:
            load_head_weights(model, recipe.backbone_weights, recipe.head_classes)
        if recipe.initial_weights:
            transfer = _load_initial_weights(model, class_names, recipe.initial_weights)
    except ValueError as error:
        raise UserError(str(error)) from error
    if recipe.initial_weights and model.head.gamma is not None and "initial_gamma" in recipe.overrides:
        torch.nn.init.constant_(model.head.gamma, config.initial_gamma)
    return BuiltModel(model, transfer)


def describe_model(config: ModelConfig, recipe: Recipe, spec: DatasetSpec) -> ModelInfo:
    """Return the description that is saved with a trained model, without scores."""
    return ModelInfo(
        model=config,
        class_names=spec.class_names,
        palette=spec.palette,
        clip_length=recipe.inference_clip_length,
        input_size=recipe.data.input_size,
        dataset=f"{spec.name}, split {recipe.train_split}",
        recipe=asdict(recipe),
    )


def _load_initial_weights(model: CCNet3D, class_names: Sequence[str], weights: str) -> Transfer:
    trained, info = load_model(weights)
    try:
        return transfer_weights(model, class_names, trained, info.class_names)
    except UserError as error:
        raise UserError(
            f"initial_weights {weights} are of another architecture ({error}); give weights of this recipe's "
            "architecture, or set model.architecture=initial_weights for that of the weights"
        ) from error
