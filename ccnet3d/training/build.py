"""The model that a recipe starts from."""

from __future__ import annotations

from pathlib import Path

import torch

from ccnet3d.errors import UserError
from ccnet3d.models import CCNet3D, load_backbone_weights, load_model
from ccnet3d.training.recipe import ModelRecipe


def build_model(recipe: ModelRecipe, num_classes: int) -> CCNet3D:
    """Build the model on the CPU, with weights from where the recipe says, else drawn from torch's random state.

    Raises:
        ValueError: weights that are not there or are of another model.
    """
    config = recipe.build_config(num_classes)
    model = CCNet3D(config)
    if recipe.backbone_weights:
        load_backbone_weights(model.backbone, config.backbone, recipe.backbone_weights)
    if recipe.initial_weights:
        _start_from(model, recipe.initial_weights)
        if model.head.attention is not None and "initial_gamma" in recipe.overrides:
            torch.nn.init.constant_(model.head.attention.gamma, config.initial_gamma)
    return model


def _start_from(model: CCNet3D, weights: str) -> None:
    """Load trained weights; attention and embeddings may be in one of the two only."""
    trained, _ = load_model(None if weights == "default" else Path(weights))
    try:
        keys = model.load_state_dict(trained.state_dict(), strict=False)
        strangers = [key for key in (*keys[0], *keys[1]) if not key.startswith(("head.attention.", "embedding."))]
        if strangers:
            raise RuntimeError(f"{strangers[0]} is in one of the two only")
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise UserError(
            f"initial_weights {weights} are of another architecture or other classes ({reason}); "
            "give a model file of this recipe's, or none"
        ) from error
