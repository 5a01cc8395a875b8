"""The model of a recipe: its initial weights, and the description saved with it."""

from __future__ import annotations

from dataclasses import asdict

import torch

from ccnet3d.data import DatasetSpec
from ccnet3d.errors import UserError
from ccnet3d.models import CCNet3D, ModelConfig, ModelInfo, load_backbone_weights, load_head_weights, load_model
from ccnet3d.training.recipe import ModelRecipe, Recipe

__all__ = ["build_model", "describe_model"]


def build_model(recipe: ModelRecipe, num_classes: int) -> CCNet3D:
    """Build a model on the CPU; weights that the recipe does not name are drawn from torch's random state.

    >>> tiny = {"backbone": "test_efficientnet", "channels": 16, "skip_channels": (12, 10, 8)}
    >>> build_model(ModelRecipe(overrides=tiny), num_classes=3)(torch.rand(1, 2, 3, 32, 48)).shape
    torch.Size([1, 2, 3, 32, 48])

    Raises:
        UserError: an invalid override, or weights that do not exist or belong to another model.
    """
    config = recipe.build_config(num_classes)
    try:
        model = CCNet3D(config)
        if recipe.backbone_weights:
            load_backbone_weights(model.backbone, config.backbone, recipe.backbone_weights)
        if recipe.head_classes:
            load_head_weights(model, recipe.backbone_weights, recipe.head_classes)
        if recipe.initial_weights:
            _load_initial_weights(model, recipe.initial_weights)
    except ValueError as error:
        raise UserError(str(error)) from error
    if recipe.initial_weights and model.head.attention is not None and "initial_gamma" in recipe.overrides:
        torch.nn.init.constant_(model.head.attention.gamma, config.initial_gamma)
    return model


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


def _load_initial_weights(model: CCNet3D, weights: str) -> None:
    """Load trained weights; only one of the two models may have an attention or embeddings."""
    trained, _ = load_model(weights)
    try:
        missing, unexpected = model.load_state_dict(trained.state_dict(), strict=False)
        different = [
            key for key in (*missing, *unexpected) if not key.startswith(("head.attention.", "embedding.", "evidence."))
        ]
        if different:
            raise RuntimeError(f"only one of the two has {different[0]}")
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise UserError(
            f"initial_weights {weights} are of another architecture or other classes ({reason}); "
            "give a model file with this recipe's architecture and classes, or leave initial_weights empty"
        ) from error
