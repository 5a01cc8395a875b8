"""A training recipe: what a TOML file in ``pipelines/`` says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ccnet3d.config import apply_overrides, from_table, read_toml
from ccnet3d.data import Augmentation
from ccnet3d.errors import UserError
from ccnet3d.losses import FORMS
from ccnet3d.models import ARCHITECTURES, ModelConfig, input_normalization


@dataclass(frozen=True)
class ModelRecipe:
    """Which model is trained, and from where it starts."""

    architecture: str = "ccnet3d_lite"
    """A name in ``ccnet3d.models.ARCHITECTURES``."""
    overrides: Mapping[str, Any] = field(default_factory=dict)
    """Fields of ``ModelConfig`` that differ from the architecture's."""
    backbone_weights: str = ""
    """ImageNet weights: a file, ``package:NAME``, ``hub`` (timm's) or empty for random ones."""
    initial_weights: str = ""
    """A trained model file of this architecture to go on from, ``default`` for the weights in the package; empty to
    start from the backbone's weights alone. Attention or embeddings that only one of the two has are new or dropped,
    and an ``initial_gamma`` among the overrides takes the place of the trained gamma."""

    def __post_init__(self) -> None:
        if self.architecture not in ARCHITECTURES:
            raise UserError(f"unknown architecture {self.architecture!r}; choose one of {sorted(ARCHITECTURES)}")

    def build_config(self, num_classes: int) -> ModelConfig:
        """The architecture with its overrides; another backbone brings its own input normalisation.

        Raises:
            ValueError: an override that does not fit.
        """
        base = {key: getattr(ARCHITECTURES[self.architecture], key) for key in ModelConfig.__dataclass_fields__}
        if "backbone" in self.overrides:
            base["input_mean"], base["input_std"] = input_normalization(str(self.overrides["backbone"]))
        return from_table(ModelConfig, {**base, **self.overrides, "num_classes": num_classes}, "model.overrides")


@dataclass(frozen=True)
class DataRecipe:
    """What a step sees."""

    frames_per_batch: int = 10
    """Frames of one step: all clips, of all processes, together."""
    clip_lengths: tuple[int, ...] = (1, 5)
    """Lengths T that the batches take in turn; each divides ``frames_per_batch``. Several lengths give a model that
    works on single frames and on clips, and batches of many scenes beside batches with a past."""
    input_size: tuple[int, int] = (360, 480)
    """Working size (height, width) in evaluation and inference."""
    clip_strides: tuple[int, ...] = (1,)
    """Labelled frames from one frame of a clip to the next; each clip draws one of them."""
    detail_share: float = 0.0
    """Probability that a clip comes from the frames at a higher resolution, where such are given and all are there."""
    augmentation: Augmentation = field(default_factory=Augmentation)
    workers: int = 1
    """Processes that prepare clips; 0 for none beside the training itself."""

    def __post_init__(self) -> None:
        if self.frames_per_batch < 1 or min(self.input_size) < 1 or self.workers < 0:
            raise UserError(
                "frames_per_batch and input_size must be at least 1 and workers at least 0, "
                f"got {self.frames_per_batch}, {self.input_size} and {self.workers}"
            )
        if bad := [t for t in self.clip_lengths if t < 1 or self.frames_per_batch % t]:
            raise UserError(f"clip_lengths must divide frames_per_batch = {self.frames_per_batch}, got {bad[0]}")
        if not self.clip_lengths:
            raise UserError("clip_lengths must name at least one length")
        if not self.clip_strides or min(self.clip_strides) < 1:
            raise UserError(f"clip_strides must name at least one stride of 1 or more, got {self.clip_strides}")
        if not 0 <= self.detail_share <= 1:
            raise UserError(f"detail_share must be a probability, got {self.detail_share}")


@dataclass(frozen=True)
class LossRecipe:
    """Weights of the parts of the loss."""

    auxiliary_weight: float = 0.4
    """Of the auxiliary classifier's cross-entropy."""
    lovasz_weight: float = 0.0
    """Of the Lovasz-softmax loss."""
    ccl_weight: float = 0.0
    """Of the category consistent loss, the paper's at 1; above 0 it wants ``embedding_channels`` in the model."""
    ccl_form: str = "piecewise"
    """Of its penalty within a class: ``piecewise``, linear for pixels far off, or ``quadratic``."""
    label_smoothing: float = 0.0
    """Share of both cross-entropies' targets that all classes have alike."""
    class_balance_offset: float = 0.0
    """Classes weigh 1 / ln(offset + share of pixels); 0 weighs all alike."""
    hard_threshold: float = 0.7
    """OHEM: pixels less certain than this count."""
    hard_pixels: int = 0
    """OHEM: at least so many pixels count; 0 switches it off."""

    def __post_init__(self) -> None:
        weights = (self.auxiliary_weight, self.lovasz_weight, self.ccl_weight)
        if min(weights) < 0:
            raise UserError(f"auxiliary_weight, lovasz_weight and ccl_weight must be at least 0, got {weights}")
        if self.ccl_form not in FORMS:
            raise UserError(f"loss.ccl_form must be one of {FORMS}, got {self.ccl_form!r}")
        if not 0 <= self.label_smoothing < 1:
            raise UserError(f"loss.label_smoothing must be in [0, 1), got {self.label_smoothing}")


@dataclass(frozen=True)
class OptimizerRecipe:
    """AdamW or SGD, with a learning rate that falls to 0 after a linear warm-up."""

    name: str = "adamw"
    """``adamw`` or ``sgd`` (momentum 0.9)."""
    learning_rate: float = 1e-3
    """At the end of the warm-up."""
    backbone_factor: float = 1.0
    """Learning rate of the backbone over that of the rest."""
    backbone_first_factor: float = 1.0
    """Learning rate of the backbone's first layer over that of its last; between them it rises by equal ratios."""
    weight_decay: float = 0.01
    """Of convolution kernels; biases, norms and gamma have none."""
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


@dataclass(frozen=True)
class ComputeRecipe:
    """How a step is computed: what fits into memory, on however many processes."""

    accumulate_steps: int = 1
    """Parts of a step that each process computes one after the other; the step's frames stay the same."""
    sync_batch_norm: bool = False
    """Batch norms over the frames of all processes; for GPUs only, PyTorch has none for CPUs."""
    freeze_batch_norm: bool = False
    """Batch norms keep the statistics they start with, as trained weights should in batches of few frames."""
    activation_checkpointing: bool = False
    """Activations are computed again in the backward pass, for less memory."""
    backbone_gradients: str = "all"
    """``all`` frames of a clip, or ``anchor``: the backbone learns from one frame of each clip, and what it gives for
    the others is taken as it is, for less memory and time. All frames count in the loss in either case."""

    def __post_init__(self) -> None:
        if self.accumulate_steps < 1:
            raise UserError(f"accumulate_steps must be at least 1, got {self.accumulate_steps}")
        if self.backbone_gradients not in ("all", "anchor"):
            raise UserError(f"backbone_gradients must be 'all' or 'anchor', got {self.backbone_gradients!r}")
        if self.sync_batch_norm and self.freeze_batch_norm:
            raise UserError("batch norms are synchronised or frozen; set one of the two")


@dataclass(frozen=True)
class Recipe:
    """A whole training run; two runs of one recipe and seed draw the same clips."""

    epochs: int
    """Times that as many frames are seen as the train split has."""
    model: ModelRecipe = ModelRecipe()
    data: DataRecipe = DataRecipe()
    loss: LossRecipe = LossRecipe()
    optimizer: OptimizerRecipe = OptimizerRecipe()
    compute: ComputeRecipe = ComputeRecipe()
    """The sections of the file."""
    seed: int = 0
    """Of the initial weights and of all draws."""
    precision: str = "bf16"
    """``bf16`` or ``fp16`` (autocast, the latter with scaled gradients) or ``fp32``."""
    ema_decay: float = 0.998
    """Of the averaged weights that are evaluated and saved; it warms up from 0."""
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
        default = ARCHITECTURES[self.model.architecture].embedding_channels
        channels = self.model.overrides.get("embedding_channels", default)
        if bool(channels) != bool(self.loss.ccl_weight):
            raise UserError(
                "loss.ccl_weight and model.overrides.embedding_channels must both be above 0 or both be 0, got "
                f"{self.loss.ccl_weight} and {channels}; the paper's category consistent loss has 1 and 16"
            )
        if self.precision not in ("bf16", "fp16", "fp32"):
            raise UserError(f"precision must be 'bf16', 'fp16' or 'fp32', got {self.precision!r}")


def read_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe and set ``section.key=value`` overrides in it.

    Raises:
        ValueError: the file is missing or not TOML, a key is unknown, a value does not fit.
    """
    table = apply_overrides(read_toml(path), overrides)
    try:
        return from_table(Recipe, table)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error
