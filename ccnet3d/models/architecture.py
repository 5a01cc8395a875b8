"""What a model is made of, as plain data that travels with its weights."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ModelConfig:
    """The architecture of :class:`ccnet3d.models.CCNet3D`; the defaults are the light model.

    Backbone levels are numbered from the finest (0) to the coarsest.
    """

    num_classes: int = 11
    """K, classes that are predicted; void is not one."""
    backbone: str = "tf_efficientnet_lite2"
    """Any timm model that offers ``features_only``."""
    output_stride: int = 32
    """Stride of the backbone's last level: 8, 16 or 32."""
    context_levels: tuple[int, ...] = (3, 4)
    """Levels that feed the attention, joined at the size of the first of them."""
    channels: int = 160
    """C, channels of the attention."""
    reduction: int = 8
    """Queries and keys have C // reduction channels."""
    loops: int = 3
    """R, how often the shared attention is applied; three reach every position of a clip, 0 is a model without it."""
    initial_gamma: float = 0.5
    """Weight of the attention before training. The paper's is 0; AdamW at this size then leaves it there."""
    skip_levels: tuple[int, ...] = (2, 1, 0)
    """Finer levels that the decoder joins in, in this order; empty for a classifier at the attention's stride."""
    skip_channels: tuple[int, ...] = (96, 64, 32)
    """Channels of the decoder after each of them."""
    auxiliary_level: int = 3
    """Level that carries the auxiliary classifier used in training."""
    embedding_channels: int = 0
    """E, channels of the branch that the category consistent loss trains (the paper's 16); 0 for none."""
    dropout: float = 0.1
    """Dropout before the classifiers."""
    input_mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    """Mean of RGB in [0, 1] that the backbone was trained with."""
    input_std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    """Standard deviation of RGB in [0, 1] that the backbone was trained with."""

    def __post_init__(self) -> None:
        if self.num_classes < 2:
            raise ValueError(f"num_classes must be at least 2, got {self.num_classes}")
        if not self.context_levels:
            raise ValueError("context_levels must name at least one backbone level, got none")
        if len(self.skip_levels) != len(self.skip_channels):
            raise ValueError(
                f"skip_levels and skip_channels must be equally long, got {self.skip_levels} and {self.skip_channels}"
            )
        if self.loops < 0 or self.embedding_channels < 0:
            raise ValueError(
                f"loops and embedding_channels must be at least 0, got {self.loops} and {self.embedding_channels}"
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {self.dropout}")
