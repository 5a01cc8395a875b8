"""Training from a recipe."""

from __future__ import annotations

from ccnet3d.training.build import BuiltModel, build_model
from ccnet3d.training.loop import CHECKPOINT_NAME, MODEL_NAME, PRECISIONS, Trainer
from ccnet3d.training.objective import training_loss
from ccnet3d.training.optimizer import build_optimizer
from ccnet3d.training.recipe import (
    ComputeRecipe,
    DataRecipe,
    ModelRecipe,
    OptimizerRecipe,
    Recipe,
    UnlabelledRecipe,
    read_recipe,
)

__all__ = [
    "CHECKPOINT_NAME",
    "MODEL_NAME",
    "PRECISIONS",
    "BuiltModel",
    "ComputeRecipe",
    "DataRecipe",
    "ModelRecipe",
    "OptimizerRecipe",
    "Recipe",
    "Trainer",
    "UnlabelledRecipe",
    "build_model",
    "build_optimizer",
    "read_recipe",
    "training_loss",
]
