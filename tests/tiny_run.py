"""A training run in miniature, for the tests of the training engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from conftest import CAMVID_SPEC

from ccnet3d.data import Augmentation, DataSource
from ccnet3d.losses import Losses, LovaszLoss
from ccnet3d.training import DataRecipe, ModelRecipe, OptimizerRecipe, Recipe, Trainer

RECIPE = Recipe(
    epochs=6,
    model=ModelRecipe(overrides={"backbone": "test_efficientnet", "channels": 16, "skip_channels": (12, 10, 8)}),
    data=DataRecipe(
        frames_per_batch=4, clip_lengths=(1, 2), input_size=(32, 48), augmentation=Augmentation((32, 40)), workers=0
    ),
    losses=Losses(lovasz=LovaszLoss(weight=0.5)),
    class_balance_offset=1.1,
    optimizer=OptimizerRecipe(learning_rate=3e-3, clip_gradient_norm=5.0),
    precision="fp32",
    inference_clip_length=2,
    evaluate_every=3,
)

SMALL = [
    "epochs=2", "evaluate_every=1", "model.backbone_weights=", "model.overrides.backbone=test_efficientnet",
    "model.overrides.channels=16", "model.overrides.skip_channels=[12,10,8]", "data.input_size=[48,64]",
    "data.augmentation.crop_size=[32,40]",
]  # fmt: skip
"""Overrides that make a shipped recipe equally small."""


def make_trainer(yard: Path, out: Path, recipe: Recipe = RECIPE, **folders: Any) -> Trainer:
    """Prepare a run on the CPU; ``folders`` are those of a :class:`DataSource`."""
    return Trainer(recipe, DataSource(yard, CAMVID_SPEC, **folders), out, torch.device("cpu"))
