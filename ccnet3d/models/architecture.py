"""The architecture of a model as plain data, stored with its weights."""

from __future__ import annotations

from dataclasses import dataclass

from ccnet3d.config import check_range
from ccnet3d.errors import UserError

__all__ = ["CLIP_CONTEXTS", "CONTEXTS", "ModelConfig"]

CLIP_CONTEXTS = ("criss_cross", "non_local", "axial", "local_window")
"""Context modules that mix the frames of a clip."""
CONTEXTS = (*CLIP_CONTEXTS, "ppm", "aspp", "gcn", "none")
"""Values of ``ModelConfig.context``; see :func:`ccnet3d.models.build_context`."""

_MOST_CHANNELS = 1 << 14
_MOST_LOOPS = 64

_RANGES: dict[str, tuple[float, float]] = {
    "num_classes": (2, 1 << 14),
    "context_levels": (0, 15),
    "channels": (1, _MOST_CHANNELS),
    "reduction": (1, _MOST_CHANNELS),
    "loops": (0, _MOST_LOOPS),
    "initial_gamma": (-1000, 1000),
    "evidence_loops": (0, _MOST_LOOPS),
    "evidence_level": (0, 15),
    "evidence_temperature": (1e-3, 1000),
    "skip_levels": (0, 15),
    "skip_channels": (1, _MOST_CHANNELS),
    "auxiliary_level": (0, 15),
    "embedding_channels": (0, _MOST_CHANNELS),
    "auxiliary_channels": (0, _MOST_CHANNELS),
    "dropout": (0, 0.99),
    "negative_slope": (0, 1),
    "input_mean": (0, 1),
    "input_std": (1e-3, 1000),
}
"""What each number may be: far more than makes sense, and little enough for a file of unknown origin."""


@dataclass(frozen=True)
class ModelConfig:
    """The architecture of :class:`ccnet3d.models.CCNet3D`; the defaults are the light model.

    Backbone levels are counted from the finest (0) to the coarsest.

    Raises:
        UserError: a value is out of range, or two do not match.

    >>> from ccnet3d import ModelConfig
    >>> ModelConfig(num_classes=3, backbone="resnet18").loops
    3
    >>> ModelConfig(num_classes=1)
    Traceback (most recent call last):
    ccnet3d.errors.UserError: num_classes must be in 2 to 16384, got 1
    """

    num_classes: int = 11
    """K, the number of predicted classes; void is not one of them."""
    backbone: str = "tf_efficientnet_lite2"
    """Name of a timm model that supports ``features_only``, or ``resnet101_v1c`` or ``resnet101_ccnet`` (also 50 and
    152), the ResNets of OpenMMLab and of CCNet's authors."""
    output_stride: int = 32
    """Stride of the backbone's last level: 8, 16 or 32."""
    head: str = "ccnet"
    """``ccnet``: the paper's, or ``efficientvit``: narrow, with the layers of EfficientViT's segmentation head."""
    context_levels: tuple[int, ...] = (3, 4)
    """Levels that feed the head, concatenated (``ccnet``) or added (``efficientvit``) at the size of the first."""
    channels: int = 160
    """C, channels of the context module."""
    context: str = "criss_cross"
    """What gathers context before the decoder: ``criss_cross``, or one of those that it is compared with: ``none``,
    ``non_local``, ``axial`` and ``local_window`` attention, ``ppm`` (PSPNet), ``aspp`` (DeepLabv3), ``gcn`` (global
    convolution)."""
    reduction: int = 8
    """Queries and keys have ``C // reduction`` channels."""
    loops: int = 3
    """R, how often the shared criss-cross attention is applied: 3 reaches every position of a clip, 0 omits it."""
    initial_gamma: float = 0.5
    """Weight of the attention before training. The paper starts at 0; at this size AdamW would leave it there."""
    evidence_loops: int = 0
    """R of the attention over class evidence after the decoder: 2 reaches every position of a frame; 0 omits it."""
    evidence_level: int = 2
    """Level whose features and grid the class evidence attention uses: stride 8 or 16."""
    evidence_temperature: float = 10.0
    """Weight of the embeddings' cosine in its scores before training."""
    skip_levels: tuple[int, ...] = (2, 1, 0)
    """Finer levels that the decoder adds, in this order; without any, the classifier has the attention's stride."""
    skip_channels: tuple[int, ...] = (96, 64, 32)
    """Channels of the decoder after each of these levels."""
    auxiliary_level: int = 3
    """Level that feeds the auxiliary classifier, which only training uses."""
    auxiliary_channels: int = 0
    """Channels of the auxiliary classifier; 0 for a quarter of its level's, at least one for each class."""
    embedding_channels: int = 0
    """E, channels of the branch for the category consistent loss (16 in the paper); 0 omits the branch."""
    dropout: float = 0.1
    """Dropout probability before the classifiers."""
    negative_slope: float = 0.0
    """Slope below 0 of the activations of head, decoder and auxiliary classifier: 0 for ReLU, 0.01 in the network of
    CCNet's authors."""
    align_corners: bool = False
    """Whether the centers of the corner pixels coincide when logits are enlarged to the frame, as in the network of
    CCNet's authors, and not the corners of these pixels."""
    input_mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    """Mean of RGB in [0, 1] that the backbone was trained with."""
    input_std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    """Standard deviation of RGB in [0, 1] that the backbone was trained with."""

    @property
    def attention_loops(self) -> int:
        """R of the criss-cross attention before the decoder; 0 with another context module."""
        return self.loops if self.context == "criss_cross" else 0

    def recurrence(self) -> dict[str, int]:
        """Return the loops that there are, which weights alone do not tell, because all loops share them.

        >>> ModelConfig(loops=2).recurrence(), ModelConfig(context="ppm").recurrence()
        ({'loops': 2}, {})
        """
        loops = {"loops": self.attention_loops, "evidence_loops": self.evidence_loops}
        return {name: count for name, count in loops.items() if count}

    def __post_init__(self) -> None:
        if self.head not in ("ccnet", "efficientvit"):
            raise UserError(f"head must be 'ccnet' or 'efficientvit', got {self.head!r}")
        if self.context not in CONTEXTS:
            raise UserError(f"context must be one of {', '.join(CONTEXTS)}, got {self.context!r}")
        if self.output_stride not in (8, 16, 32):
            raise UserError(f"output_stride must be 8, 16 or 32, got {self.output_stride}")
        if not self.context_levels:
            raise UserError("context_levels must name at least one backbone level, got none")
        if len(self.skip_levels) != len(self.skip_channels):
            raise UserError(
                f"skip_levels and skip_channels must be equally long, got {len(self.skip_levels)} and "
                f"{len(self.skip_channels)} values"
            )
        for name, (low, high) in _RANGES.items():
            check_range(name, getattr(self, name), low, high)
        for name, levels in (("context_levels", self.context_levels), ("skip_levels", self.skip_levels)):
            if len(set(levels)) < len(levels):
                raise UserError(f"{name} must differ from each other, got {levels}")
