"""Training from a recipe."""

from ccnet3d.training.config import Recipe, read_recipe
from ccnet3d.training.loop import Trainer

__all__ = ["Recipe", "Trainer", "read_recipe"]
