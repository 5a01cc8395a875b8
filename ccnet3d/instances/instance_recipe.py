"""Recipes of instance segmentation: the contents of a TOML file such as ``pipelines/coco_maskrcnn.toml``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ccnet3d.config import apply_overrides, check_range, from_table, read_toml
from ccnet3d.errors import UserError
from ccnet3d.instances.detector import DetectorConfig

__all__ = [
    "CocoRecipe",
    "InstanceRecipe",
    "SgdRecipe",
    "WeightsRecipe",
    "read_instance_recipe",
    "step_factor",
]


@dataclass(frozen=True)
class WeightsRecipe:
    """Section ``[weights]``: what a run starts from, and what it trains."""

    backbone_weights: str = ""
    """ImageNet weights: ``hub`` for torchvision's, a file of these, or empty for random ones."""
    initial_weights: str = ""
    """A whole detector to start from, instead of ``backbone_weights``: torchvision's COCO weights, or a file of an
    earlier run; empty for none. Weights of a class are copied where both have a class of that name."""
    trained_stages: int = 3
    """How many of the backbone's five stages are trained, from the last; the context module always is."""

    def __post_init__(self) -> None:
        check_range("weights.trained_stages", self.trained_stages, 0, 5)


@dataclass(frozen=True)
class CocoRecipe:
    """Section ``[data]``: folders and files in the data folder, and the images of a step."""

    train_images: str = "train2017"
    """Folder of images."""
    train_annotations: str = "annotations/instances_train2017.json"
    """JSON file of instances."""
    val_images: str = "val2017"
    val_annotations: str = "annotations/instances_val2017.json"
    images_per_step: int = 16
    """Images of one step, of all processes."""
    accumulate_steps: int = 1
    """Parts of a step that each process computes one after the other, which saves memory."""
    flip: float = 0.5
    """Probability that a training image is mirrored."""
    empty_images: bool = False
    """Whether images without objects are trained on, too."""
    workers: int = 4
    """Processes that prepare images; 0 to prepare them in the training process."""

    def __post_init__(self) -> None:
        check_range("data.images_per_step", self.images_per_step, 1, 1 << 14)
        check_range("data.accumulate_steps", self.accumulate_steps, 1, self.images_per_step)
        check_range("data.flip", self.flip, 0, 1)
        check_range("data.workers", self.workers, 0, 1 << 10)


@dataclass(frozen=True)
class SgdRecipe:
    """Section ``[optimizer]``: SGD; the learning rate warms up, and is divided by 10 after some epochs."""

    learning_rate: float = 0.02
    """For 16 images per step."""
    momentum: float = 0.9
    weight_decay: float = 1e-4
    """Of convolution kernels and matrices; biases, norms and gamma have none."""
    warmup_steps: int = 500
    """Steps in which the learning rate rises linearly."""
    warmup_factor: float = 1 / 3
    """Where it starts, as a factor."""
    drop_epochs: tuple[int, ...] = (8, 11)
    """Epochs after which it is divided by 10."""
    clip_gradient_norm: float = 0.0
    """Largest norm of all gradients together; 0 for no limit."""

    def __post_init__(self) -> None:
        check_range("optimizer.learning_rate", self.learning_rate, 0, 1e3)
        check_range("optimizer.momentum", self.momentum, 0, 1)
        check_range("optimizer.weight_decay", self.weight_decay, 0, 1)
        check_range("optimizer.warmup_steps", self.warmup_steps, 0, 1 << 40)
        check_range("optimizer.warmup_factor", self.warmup_factor, 0, 1)
        check_range("optimizer.clip_gradient_norm", self.clip_gradient_norm, 0, 1e9)


@dataclass(frozen=True)
class InstanceRecipe:
    """A complete training run of an instance segmentation model."""

    epochs: int
    detector: DetectorConfig = field(default_factory=DetectorConfig)
    weights: WeightsRecipe = WeightsRecipe()
    data: CocoRecipe = CocoRecipe()
    optimizer: SgdRecipe = SgdRecipe()
    """The sections of the file."""
    seed: int = 0
    """Seed of the initial weights and of all draws."""
    precision: str = "fp32"
    """``fp32``, or ``bf16`` (autocast)."""
    evaluate_every: int = 1
    """Epochs between evaluations; the last epoch is always followed by one."""
    checkpoint_every: int = 1
    """Epochs between checkpoints."""

    def __post_init__(self) -> None:
        for name in ("epochs", "evaluate_every", "checkpoint_every"):
            check_range(name, getattr(self, name), 1, 1 << 20)
        check_range("seed", self.seed, 0, 1 << 62)
        if self.precision not in ("fp32", "bf16"):
            raise UserError(f"precision must be 'fp32' or 'bf16', got {self.precision[:80]!r}")


def read_instance_recipe(path: Path, overrides: Sequence[str] = ()) -> InstanceRecipe:
    """Read a recipe and apply ``section.key=value`` overrides to it.

    >>> from ccnet3d.resources import recipe_file
    >>> recipe = read_instance_recipe(recipe_file("coco_maskrcnn"), ["detector.context=non_local"])
    >>> recipe.epochs, recipe.detector.context
    (12, 'non_local')

    Raises:
        UserError: the file is missing or not TOML, a key is unknown, or a value is invalid.
    """
    table = apply_overrides(read_toml(path), overrides)
    if "model" in table and "detector" not in table:
        raise UserError(f"{path} is not a recipe of instance segmentation; run: ccnet3d-train {path.stem}")
    try:
        return from_table(InstanceRecipe, table)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def step_factor(step: int, steps_per_epoch: int, recipe: SgdRecipe) -> float:
    """Return the factor of the learning rate at a step, from 0.

    >>> recipe = SgdRecipe(warmup_steps=2, warmup_factor=0.5, drop_epochs=(2, 3))
    >>> [round(step_factor(step, 2, recipe), 3) for step in range(8)]
    [0.5, 0.75, 1.0, 1.0, 0.1, 0.1, 0.01, 0.01]
    """
    dropped = sum(step >= epoch * steps_per_epoch for epoch in recipe.drop_epochs)
    warm = min(1.0, recipe.warmup_factor + (1 - recipe.warmup_factor) * step / max(1, recipe.warmup_steps))
    return float(warm * 0.1**dropped)
