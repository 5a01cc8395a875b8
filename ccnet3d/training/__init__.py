"""Training from a recipe."""

from __future__ import annotations

from ccnet3d.training.batches import ClipBatches
from ccnet3d.training.build import BuiltModel, build_model
from ccnet3d.training.checkpoint import Stateful
from ccnet3d.training.loop import PRECISIONS, Trainer
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
from ccnet3d.training.run_log import RunLog
from ccnet3d.training.signals import SignalReceivedError, StopSignals, ignore_stop_signals
from ccnet3d.training.training_run import CHECKPOINT_NAME, MODEL_NAME, TrainingRun, check_run_folder

__all__ = [
    "CHECKPOINT_NAME",
    "MODEL_NAME",
    "PRECISIONS",
    "BuiltModel",
    "ClipBatches",
    "ComputeRecipe",
    "DataRecipe",
    "ModelRecipe",
    "OptimizerRecipe",
    "Recipe",
    "RunLog",
    "SignalReceivedError",
    "Stateful",
    "StopSignals",
    "Trainer",
    "TrainingRun",
    "UnlabelledRecipe",
    "build_model",
    "build_optimizer",
    "check_run_folder",
    "ignore_stop_signals",
    "read_recipe",
    "training_loss",
]
