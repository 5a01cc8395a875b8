"""Training recipes: the contents of a TOML file in ``pipelines/``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ccnet3d.config import apply_overrides, check_range, from_table, read_toml
from ccnet3d.data import Augmentation, Simulation
from ccnet3d.errors import UserError
from ccnet3d.losses import Losses
from ccnet3d.models import ARCHITECTURES, ModelConfig, input_normalization, load_model

__all__ = [
    "ComputeRecipe",
    "DataRecipe",
    "ModelRecipe",
    "OptimizerRecipe",
    "Recipe",
    "UnlabelledRecipe",
    "read_recipe",
]

OF_INITIAL_WEIGHTS = "initial_weights"
"""The value of ``model.architecture`` for the architecture of the initial weights."""


@dataclass(frozen=True)
class ModelRecipe:
    """Section ``[model]``: which model is trained, and its initial weights."""

    architecture: str = "ccnet3d_lite"
    """A name in ``ccnet3d.models.ARCHITECTURES``, or ``initial_weights`` for the architecture of these weights."""
    context: str = ""
    """What gathers context before the decoder, one of ``ccnet3d.models.CONTEXTS``; empty for the architecture's."""
    overrides: Mapping[str, Any] = field(default_factory=dict)
    """Fields of ``ModelConfig`` that differ from the architecture's."""
    backbone_weights: str = ""
    """ImageNet weights: a file, ``package:NAME``, ``hub`` (timm's) or empty for random ones."""
    head_classes: tuple[int, ...] = ()
    """Starts head and classifier from ``backbone_weights``, too, which then is a file of EfficientViT's segmentation
    model: for each class, the class of the file that it starts from. Empty to start them from random weights."""
    initial_weights: str = ""
    """A trained model file of this architecture to start from, or the name of weights in the package, ``default`` for
    the default ones; empty to start from the backbone's weights only. Its classes may be others: weights of a class are
    copied where both have a class of that name, and initialized elsewhere. An attention, another context module or
    embeddings that only one of the two models has are initialized or dropped, and an ``initial_gamma`` among the
    overrides replaces the trained gamma."""
    trained: tuple[str, ...] = ()
    """Parts of the network that are trained (``backbone``, ``head``, ``decoder``, ``classifier``, ``evidence``, ...);
    the others keep their weights and batch norm statistics. Empty for all."""
    frozen: tuple[str, ...] = ()
    """The opposite of ``trained``: parts that are not trained; ``ccnet3d-train --freeze`` replaces them."""

    def __post_init__(self) -> None:
        if self.architecture == OF_INITIAL_WEIGHTS:
            if not self.initial_weights:
                raise UserError("model.architecture is that of initial_weights, but model.initial_weights is empty")
        elif self.architecture not in ARCHITECTURES:
            raise UserError(
                f"unknown architecture {self.architecture!r}; choose one of {sorted(ARCHITECTURES)}, or "
                f"{OF_INITIAL_WEIGHTS!r} for that of the weights"
            )
        if self.context and self.overrides.get("context", self.context) != self.context:
            raise UserError(
                f"model.context is {self.context!r} and model.overrides.context {self.overrides['context']!r}; "
                "set only model.context"
            )
        if self.trained and self.frozen:
            raise UserError(
                f"model.trained and model.frozen are opposites, set only one of them; got {list(self.trained)} and "
                f"{list(self.frozen)}"
            )

    def build_config(self, num_classes: int) -> ModelConfig:
        """Return the architecture with its overrides; another backbone implies its own input normalization.

        Raises:
            UserError: an invalid override, or no such ``initial_weights`` if the architecture is theirs.
        """
        architecture = self._architecture()
        base = {key: getattr(architecture, key) for key in ModelConfig.__dataclass_fields__}
        try:
            if "backbone" in self.overrides:
                base["input_mean"], base["input_std"] = input_normalization(str(self.overrides["backbone"]))
            changes = {**self.overrides, **({"context": self.context} if self.context else {})}
            return from_table(ModelConfig, {**base, **changes, "num_classes": num_classes}, "model.overrides")
        except ValueError as error:
            raise UserError(str(error)) from error

    def _architecture(self) -> ModelConfig:
        if self.architecture != OF_INITIAL_WEIGHTS:
            return ARCHITECTURES[self.architecture]
        _, info = load_model(self.initial_weights)
        return replace(info.model, embedding_channels=0)  # only some losses need embeddings; these set an override


@dataclass(frozen=True)
class UnlabelledRecipe:
    """Section ``[data.unlabelled]``: unlabeled videos that teachers label before training starts."""

    sources: tuple[str, ...] = ()
    """Video files, folders of videos, or folders of frames; ``ccnet3d-train --unlabelled`` replaces them."""
    teachers: tuple[str, ...] = ("default",)
    """Model files or names of weights in the package, ``default`` for the default ones. The class probabilities of
    several are averaged."""
    smoothing: int = 2
    """Frames on each side with which a teacher's logits are averaged where the picture stands still."""
    threshold: float = 0.8
    """Pixels whose largest mean probability is below this have no label."""
    frame_stride: int = 1
    """Use every n-th frame of a video."""
    share: float = 0.5
    """Share of the clips of each length that come from the videos. At 1, a run needs no labeled data."""
    data_optional: bool = False
    """Whether ``ccnet3d-train`` may run without ``--data``; then all clips come from the videos."""

    def __post_init__(self) -> None:
        if not self.teachers:
            raise UserError("data.unlabelled.teachers must name at least one model file, or 'default'")
        if self.smoothing < 0 or self.frame_stride < 1:
            raise UserError(
                "data.unlabelled.smoothing must be at least 0 and frame_stride at least 1, "
                f"got {self.smoothing} and {self.frame_stride}"
            )
        if not 0 <= self.threshold <= 1:
            raise UserError(f"data.unlabelled.threshold must be a probability, got {self.threshold}")
        if not 0 < self.share <= 1:
            raise UserError(f"data.unlabelled.share must be above 0 and at most 1, got {self.share}")


@dataclass(frozen=True)
class DataRecipe:
    """Section ``[data]``: the frames of a step."""

    frames_per_batch: int = 10
    """Frames of one step: of all clips of all processes."""
    clip_lengths: tuple[int, ...] = (1, 5)
    """Lengths T that the batches cycle through; each divides ``frames_per_batch``. Several lengths train a model that
    works on single frames and on clips, with batches of many scenes and batches of frames over time."""
    input_size: tuple[int, int] = (360, 480)
    """Working size (height, width) in evaluation and inference."""
    fit_sizes: bool = False
    """Replace ``input_size`` and ``augmentation.crop_size`` where the frames of the data have another aspect ratio, or
    are so small that they would be enlarged more than twofold. Sizes that ``--set`` gives are never replaced."""
    clip_strides: tuple[int, ...] = (1,)
    """Labeled frames from one frame of a clip to the next; each clip draws one of them."""
    high_resolution_share: float = 0.0
    """Probability that a clip comes from the frames at a higher resolution, if all of its frames exist there."""
    unlabelled: UnlabelledRecipe | None = None
    """Unlabeled videos to train on as well; None for none."""
    augmentation: Augmentation = field(default_factory=Augmentation)
    simulation: Simulation = field(default_factory=Simulation)
    """Section ``[data.simulation]``: clips that are made from stills."""
    workers: int = 1
    """Processes that prepare clips; 0 to prepare them in the training process."""
    dataset: str = ""
    """Description in the package, such as ``cityscapes``, of a data folder that has none; empty for ``camvid``."""

    def __post_init__(self) -> None:
        if self.frames_per_batch < 1 or min(self.input_size) < 1 or self.workers < 0:
            raise UserError(
                "frames_per_batch and input_size must be at least 1 and workers at least 0, "
                f"got {self.frames_per_batch}, {self.input_size} and {self.workers}"
            )
        check_range("data.frames_per_batch", self.frames_per_batch, 1, 1 << 14)
        check_range("data.workers", self.workers, 0, 1 << 10)
        if bad := [t for t in self.clip_lengths if t < 1 or self.frames_per_batch % t]:
            raise UserError(f"clip_lengths must divide frames_per_batch = {self.frames_per_batch}, got {bad[0]}")
        if not self.clip_lengths:
            raise UserError("clip_lengths must contain at least one length")
        if not self.clip_strides or min(self.clip_strides) < 1:
            raise UserError(f"clip_strides must contain at least one stride of 1 or more, got {self.clip_strides}")
        if not 0 <= self.high_resolution_share <= 1:
            raise UserError(f"high_resolution_share must be a probability, got {self.high_resolution_share}")


@dataclass(frozen=True)
class OptimizerRecipe:
    """Section ``[optimizer]``: AdamW or SGD; the learning rate decays to 0 after a linear warm-up."""

    name: str = "adamw"
    """``adamw`` or ``sgd`` (momentum 0.9)."""
    learning_rate: float = 1e-3
    """Learning rate at the end of the warm-up."""
    backbone_factor: float = 1.0
    """Learning rate of the backbone, as a factor of the learning rate of the rest."""
    backbone_first_factor: float = 1.0
    """Learning rate of the backbone's first layer, as a factor of its last layer's; it grows geometrically between."""
    evidence_factor: float = 1.0
    """Learning rate of the class evidence attention, as a factor of the learning rate of the rest."""
    new_factor: float = 1.0
    """Learning rate of parts that are new to a run from ``model.initial_weights``, such as the classifier of other
    classes, as a further factor: trained parts need small steps, new ones large ones."""
    weight_decay: float = 0.01
    """Weight decay of convolution kernels; biases, norms and gamma have none."""
    schedule: str = "poly"
    """``poly`` with power 0.9, or ``cosine``."""
    warmup_steps: int = 0
    """Steps in which the learning rate rises linearly."""
    clip_gradient_norm: float = 0.0
    """Largest norm of all gradients together; 0 for no limit."""

    def __post_init__(self) -> None:
        if self.name not in ("adamw", "sgd"):
            raise UserError(f"optimizer.name must be 'adamw' or 'sgd', got {self.name!r}")
        if self.schedule not in ("poly", "cosine"):
            raise UserError(f"optimizer.schedule must be 'poly' or 'cosine', got {self.schedule!r}")
        if not self.learning_rate >= 0 or not self.weight_decay >= 0:
            raise UserError(
                "optimizer.learning_rate and optimizer.weight_decay must be at least 0, "
                f"got {self.learning_rate} and {self.weight_decay}"
            )


@dataclass(frozen=True)
class ComputeRecipe:
    """Section ``[compute]``: how a step is computed, given the memory and the number of processes."""

    accumulate_steps: int = 1
    """Parts of a step that each process computes one after the other; the frames of the step stay the same."""
    sync_batch_norm: bool = False
    """Batch norms use the statistics of all processes; on GPUs only, PyTorch has none for CPUs."""
    freeze_batch_norm: bool = False
    """Batch norms keep their initial statistics, as is best for trained weights and batches of few frames."""
    activation_checkpointing: bool = False
    """Activations are recomputed in the backward pass, which saves memory."""
    backbone_gradients: str = "all"
    """``all`` frames of a clip, or ``anchor``: the backbone learns from one frame per clip, and its features of the
    other frames are constants, which saves memory and time. All frames count in the loss in either case."""

    def __post_init__(self) -> None:
        if self.accumulate_steps < 1:
            raise UserError(f"accumulate_steps must be at least 1, got {self.accumulate_steps}")
        check_range("compute.accumulate_steps", self.accumulate_steps, 1, 1 << 14)
        if self.backbone_gradients not in ("all", "anchor"):
            raise UserError(f"backbone_gradients must be 'all' or 'anchor', got {self.backbone_gradients!r}")
        if self.sync_batch_norm and self.freeze_batch_norm:
            raise UserError("batch norms are either synchronized or frozen; set only one of the two")


@dataclass(frozen=True)
class Recipe:
    """A complete training run. Two runs with the same recipe and seed draw the same clips.

    >>> recipe = Recipe(epochs=2, data=DataRecipe(frames_per_batch=4, clip_lengths=(1, 2)))
    >>> list(recipe.losses.active()), recipe.precision
    (['cross_entropy'], 'bf16')
    """

    epochs: int
    """Epochs; one has as many frames as the training split, or as the unlabeled videos if there is no labeled data."""
    model: ModelRecipe = ModelRecipe()
    data: DataRecipe = DataRecipe()
    losses: Losses = field(default_factory=Losses)
    optimizer: OptimizerRecipe = OptimizerRecipe()
    compute: ComputeRecipe = ComputeRecipe()
    """The sections of the file."""
    class_balance_offset: float = 0.0
    """In losses with class weights (cross_entropy), a class has the weight 1 / ln(offset + share of pixels); 0 gives
    uniform weights."""
    seed: int = 0
    """Seed of the initial weights and of all draws."""
    precision: str = "bf16"
    """``bf16`` or ``fp16`` (autocast, the latter with scaled gradients) or ``fp32``."""
    ema_decay: float = 0.998
    """Decay of the averaged weights that are evaluated and saved; it warms up from 0."""
    inference_clip_length: int = 5
    """T in evaluation, and in inference with the trained weights."""
    train_split: str = "train"
    val_split: str = "val"
    """Names of the splits in the dataset's description."""
    evaluate_every: int = 5
    """Epochs between evaluations on the val split; the last epoch is always followed by one."""
    checkpoint_every: int = 1
    """Epochs between checkpoints."""

    def __post_init__(self) -> None:
        if min(self.epochs, self.evaluate_every, self.checkpoint_every, self.inference_clip_length) < 1:
            raise UserError("epochs, evaluate_every, checkpoint_every and inference_clip_length must be at least 1")
        channels = self.model.overrides.get("embedding_channels", 0)  # no architecture has embeddings of its own
        consistent = self.losses.category_consistent
        weight = consistent.weight if consistent else 0.0
        if bool(channels) != bool(weight):
            raise UserError(
                "losses.category_consistent.weight and model.overrides.embedding_channels must both be above 0 or both "
                f"be 0, got {weight} and {channels}; the paper has 1 and 16"
            )
        if self.class_balance_offset and not self.class_balance_offset > 1:
            raise UserError(f"class_balance_offset must be above 1, or 0, got {self.class_balance_offset}")
        if self.precision not in ("bf16", "fp16", "fp32"):
            raise UserError(f"precision must be 'bf16', 'fp16' or 'fp32', got {self.precision!r}")
        if not 0 <= self.ema_decay <= 1:
            raise UserError(f"ema_decay must be in [0, 1], got {self.ema_decay}")
        if self.seed < 0:
            raise UserError(f"seed must be at least 0, got {self.seed}")


def read_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe and apply ``section.key=value`` overrides to it.

    >>> from ccnet3d.resources import recipe_file
    >>> recipe = read_recipe(recipe_file("camvid_lite"), ["epochs=2", "losses.dice.weight=0.5"])
    >>> recipe.epochs, list(recipe.losses.active())
    (2, ['cross_entropy', 'lovasz', 'dice'])

    Raises:
        UserError: the file is missing or not TOML, a key is unknown, or a value is invalid.
    """
    table = apply_overrides(read_toml(path), overrides)
    if "detector" in table:
        raise UserError(f"{path} is a recipe of instance segmentation; run: ccnet3d-instances train {path.stem}")
    names = {text.partition("=")[0] for text in overrides}
    if names & {"data.input_size", "data.augmentation.crop_size"} and "data.fit_sizes" not in names:
        table["data"]["fit_sizes"] = False
    try:
        return from_table(Recipe, table)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
