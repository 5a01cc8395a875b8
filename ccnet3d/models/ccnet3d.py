"""CCNet3D: a 2D backbone per frame, recurrent 3D criss-cross attention per clip, class logits per pixel."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from ccnet3d.errors import UserError
from ccnet3d.models.architecture import CLIP_CONTEXTS, ModelConfig
from ccnet3d.models.backbone import build_backbone, feature_channels, feature_strides
from ccnet3d.models.blocks import CrissCrossHead, FusionHead, SkipDecoder, conv_bn_relu, resize_like
from ccnet3d.models.context import build_context
from ccnet3d.models.evidence import ClassEvidence, ClassEvidenceAttention

__all__ = ["CCNet3D", "DecodedFrames", "FrameFeatures", "TrainingOutputs"]


def _concatenate(*parts: Tensor | None) -> Tensor | None:
    return torch.cat([part for part in parts if part is not None]) if parts[0] is not None else None


class FrameFeatures(NamedTuple):
    """What is known of N frames without their clips; the first axis of each tensor is N."""

    context: Tensor
    """``[N, C_in, H, W]``, the context levels, concatenated or added."""
    reduced: Tensor
    """``[N, C, H, W]``, the input of the context module."""
    skips: tuple[Tensor, ...]
    """``[N, C_l, H_l, W_l]``, the decoder's finer levels."""
    level: Tensor | None = None
    """``[N, C_e, h, w]``, the level of the class evidence attention; None for a model without it."""

    def frame(self, n: int) -> FrameFeatures:
        """Return the features of frame ``n``, as a batch of 1."""
        return tree_map(lambda x: None if x is None else x[n : n + 1], self)

    @staticmethod
    def join(frames: Sequence[FrameFeatures]) -> FrameFeatures:
        """Concatenate features of several frames, the inverse of :meth:`frame`; a single item is returned unchanged."""
        return frames[0] if len(frames) == 1 else tree_map(_concatenate, *frames)


class DecodedFrames(NamedTuple):
    """Class logits of N frames, decoded one by one, before the class evidence attention mixes them."""

    logits: Tensor
    """``[N, K, h, w]`` at the decoder's stride."""
    evidence: ClassEvidence | None
    """None for a model without the class evidence attention."""

    def frame(self, n: int) -> DecodedFrames:
        """Return frame ``n``, as a batch of 1."""
        return tree_map(lambda x: None if x is None else x[n : n + 1], self)

    @staticmethod
    def join(frames: Sequence[DecodedFrames]) -> DecodedFrames:
        """Concatenate several frames, the inverse of :meth:`frame`."""
        return frames[0] if len(frames) == 1 else tree_map(_concatenate, *frames)


class TrainingOutputs(NamedTuple):
    """The outputs that the losses need."""

    logits: Tensor
    """``[B, T, K, H, W]``, the same as in inference."""
    auxiliary: Tensor
    """``[B, T, K, H, W]``, logits of the auxiliary classifier."""
    embeddings: Tensor | None
    """``[B, T, E, h, w]`` at the attention's stride; None for a model without the embedding branch."""


class CCNet3D(nn.Module):
    """Video semantic segmentation with 3D criss-cross attention (CCNet, TPAMI 2020, arXiv 1811.11721).

    The weights are random; :func:`ccnet3d.models.load_model` loads trained ones.

    Args:
        config: the architecture; ``ModelConfig()`` is the light default.

    Raises:
        UserError: timm cannot build the backbone, or it does not have the levels of the configuration.

    >>> import torch
    >>> from ccnet3d import CCNet3D, ModelConfig
    >>> model = CCNet3D(ModelConfig(num_classes=3, backbone="test_efficientnet", channels=16)).eval()
    >>> with torch.inference_mode():
    ...     model(torch.rand(1, 2, 3, 48, 64)).shape  # [B, T, 3, H, W] to [B, T, K, H, W]
    torch.Size([1, 2, 3, 48, 64])
    """

    input_mean: Tensor
    input_std: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = build_backbone(config.backbone, config.output_stride)
        level_channels = feature_channels(self.backbone)
        used = {*config.context_levels, *config.skip_levels, config.auxiliary_level}
        if config.evidence_loops:
            used.add(config.evidence_level)
        if not used <= set(range(len(level_channels))):
            raise UserError(
                f"{config.backbone} has levels 0 to {len(level_channels) - 1}, the configuration uses "
                f"{sorted(used)}; choose other levels"
            )
        self.head = {"ccnet": CrissCrossHead, "efficientvit": FusionHead}[config.head](
            [level_channels[level] for level in config.context_levels],
            config.channels,
            partial(
                build_context,
                config.context,
                loops=config.loops,
                reduction=config.reduction,
                initial_gamma=config.initial_gamma,
                stride=feature_strides(self.backbone)[config.context_levels[0]],
            ),
            dropout=config.dropout,
        )
        self.decoder = SkipDecoder(
            self.head.out_channels, [level_channels[i] for i in config.skip_levels], config.skip_channels
        )
        # EfficientViT's classifier reads the head, so that trained weights fit; finer levels only add to its logits.
        separate = config.head == "efficientvit" and config.skip_levels
        read = self.head if separate else self.decoder
        self.classifier = nn.Conv2d(read.out_channels, config.num_classes, 1)
        self.detail = nn.Conv2d(self.decoder.out_channels, config.num_classes, 1) if separate else None
        if self.detail is not None:
            nn.init.zeros_(self.detail.weight)
            nn.init.zeros_(self.detail.bias)  # type: ignore[arg-type]
        self.evidence = (
            ClassEvidenceAttention(
                level_channels[config.evidence_level],
                config.num_classes,
                loops=config.evidence_loops,
                temperature=config.evidence_temperature,
            )
            if config.evidence_loops
            else None
        )
        auxiliary_channels = config.auxiliary_channels or max(
            level_channels[config.auxiliary_level] // 4, config.num_classes
        )
        self.auxiliary = nn.Sequential(
            conv_bn_relu(level_channels[config.auxiliary_level], auxiliary_channels, 3),
            nn.Dropout2d(config.dropout),
            nn.Conv2d(auxiliary_channels, config.num_classes, 1),
        )
        if config.negative_slope:
            for part in (self.head, self.decoder, self.auxiliary):
                _replace_relu(part, config.negative_slope)
        # Embeds the attention's output for the category consistent loss; only training uses it.
        self.embedding = nn.Conv2d(config.channels, config.embedding_channels, 1) if config.embedding_channels else None
        self.register_buffer("input_mean", torch.tensor(config.input_mean).view(3, 1, 1), persistent=False)
        self.register_buffer("input_std", torch.tensor(config.input_std).view(3, 1, 1), persistent=False)
        for module in self.modules():  # channels-last is fastest on CPUs and tensor cores; 3D kernels do not have it
            if isinstance(module, nn.Conv2d):
                module.to(memory_format=torch.channels_last)

    def extract_features(self, frames: Tensor) -> list[Tensor]:
        """Return the backbone's levels for single frames; a frame that several clips share needs this only once.

        Args:
            frames: ``[N, 3, H, W]``, RGB in [0, 1].

        Returns:
            Levels ``[N, C_l, H_l, W_l]``, finest first.
        """
        return self.backbone_levels(self.normalize(frames))

    def normalize(self, frames: Tensor) -> Tensor:
        """Return the backbone's input: ``[N, 3, H, W]`` frames less their mean, over their standard deviation."""
        return _normalize(frames, self.input_mean, self.input_std)

    def backbone_levels(self, normalized: Tensor) -> list[Tensor]:
        """Return what :meth:`extract_features` returns, from the result of :meth:`normalize`."""
        levels = self.backbone(normalized.contiguous(memory_format=torch.channels_last))
        if getattr(self.backbone, "output_fmt", "NCHW") == "NHWC":  # some transformers of timm
            return [level.permute(0, 3, 1, 2) for level in levels]
        return list(levels)

    def frame_features(self, levels: Sequence[Tensor]) -> FrameFeatures:
        """Return the features of each frame that do not depend on its clip.

        Args:
            levels: ``[N, C_l, H_l, W_l]`` from :meth:`extract_features`.
        """
        joined = self.head.join([levels[level] for level in self.config.context_levels])
        return FrameFeatures(
            joined,
            self.head.reduce(joined),
            tuple(levels[i] for i in self.config.skip_levels),
            None if self.evidence is None else levels[self.config.evidence_level],
        )

    @property
    def mixes_before_decoder(self) -> bool:
        """Whether frames need their clip before they can be decoded, as in the paper's placement of the attention."""
        return self.head.attention is not None and self.config.context in CLIP_CONTEXTS

    def decode(self, features: FrameFeatures, attended: Tensor) -> DecodedFrames:
        """Return class logits and evidence of frames, from features and :meth:`attend`'s output ``[N, C, H, W]``."""
        logits = self.frame_logits(features, attended)
        if self.evidence is None or features.level is None:
            return DecodedFrames(logits, None)
        return DecodedFrames(logits, self.evidence.embed(features.level, logits))

    def settle(self, frames: DecodedFrames, clip_length: int) -> Tensor:
        """Apply the class evidence attention to clips; without it, the logits are returned unchanged.

        Args:
            frames: the B*T frames, those of each clip in order.
            clip_length: T.

        Returns:
            ``[B*T, K, h, w]`` logits.
        """
        if self.evidence is None or frames.evidence is None:
            return frames.logits
        return self.evidence(frames.logits, frames.evidence, clip_length)

    def attend(self, reduced: Tensor, clip_length: int) -> Tensor:
        """Apply the context module to clips, before the decoder; without one, return the features unchanged.

        Args:
            reduced: ``[B*T, C, H, W]``, the frames of each clip in order.
            clip_length: T.

        Returns:
            ``[B*T, C, H, W]``.
        """
        return self.head.attend(reduced, clip_length)

    def frame_logits(self, features: FrameFeatures, attended: Tensor) -> Tensor:
        """Return class logits ``[N, K, h, w]`` at the decoder's stride from features and :meth:`attend`'s output."""
        fused = self.head.finish(features.context, attended)
        decoded = self.decoder(fused, features.skips)
        if self.detail is None:
            return self.classifier(decoded)
        return resize_like(self.classifier(fused), decoded) + self.detail(decoded)

    def forward(self, clip: Tensor) -> Tensor:
        """Return the class logits of every pixel of a clip.

        Args:
            clip: ``[B, T, 3, H, W]``, RGB in [0, 1], any T, H and W.

        Returns:
            ``[B, T, K, H, W]`` logits.

        Raises:
            ValueError: the clip has another shape or is not floating-point.
        """
        return self._classify(clip)[0]

    def forward_with_auxiliary(self, clip: Tensor, levels: list[Tensor] | None = None) -> TrainingOutputs:
        """Return the logits of :meth:`forward` together with the outputs that only training needs.

        Args:
            clip: ``[B, T, 3, H, W]``, RGB in [0, 1].
            levels: :meth:`extract_features` of its B*T frames, if already computed.
        """
        logits, levels, attended = self._classify(clip, levels)
        auxiliary = self._upsample(self.auxiliary(levels[self.config.auxiliary_level]), clip)
        embeddings = None if self.embedding is None else self.embedding(attended).unflatten(0, clip.shape[:2])
        return TrainingOutputs(logits, auxiliary, embeddings)

    def _classify(self, clip: Tensor, levels: list[Tensor] | None = None) -> tuple[Tensor, list[Tensor], Tensor]:
        """Return the logits of the clip, the backbone's levels and the attention's output."""
        if clip.dim() != 5 or clip.shape[2] != 3 or not clip.is_floating_point():
            raise ValueError(
                f"expected a clip [B, T, 3, H, W] of floats in [0, 1], got {tuple(clip.shape)} of {clip.dtype}; "
                "scale uint8 frames by 1/255 and add the missing axes"
            )
        levels = self.extract_features(clip.flatten(0, 1)) if levels is None else levels
        frames = self.frame_features(levels)
        attended = self.attend(frames.reduced, clip.shape[1])
        logits = self.settle(self.decode(frames, attended), clip.shape[1])
        return self._upsample(logits, clip), levels, attended

    def _upsample(self, logits: Tensor, clip: Tensor) -> Tensor:
        """Resize ``[B*T, K, h, w]`` to ``[B, T, K, H, W]``, the clip's size."""
        if self.config.align_corners:
            resized = F.interpolate(logits, size=clip.shape[-2:], mode="bilinear", align_corners=True)
        else:
            resized = resize_like(logits, clip)
        return resized.unflatten(0, clip.shape[:2])


def _replace_relu(part: nn.Module, negative_slope: float) -> None:
    for parent in list(part.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.ReLU):
                setattr(parent, name, nn.LeakyReLU(negative_slope, inplace=True))


def _normalize(frames: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Subtract the channels' mean and divide by their standard deviation: ``[N, C, H, W]`` and ``[C, 1, 1]``.

    Frames in channels-last memory are taken as rows of W * C numbers, which CPUs process five times as fast.
    """
    if not frames.is_contiguous(memory_format=torch.channels_last):
        return (frames - mean) / std
    width, channels = frames.shape[-1], frames.shape[1]
    rows = frames.permute(0, 2, 3, 1).flatten(2)
    rows = (rows - mean.flatten().repeat(width)) / std.flatten().repeat(width)
    return rows.unflatten(2, (width, channels)).permute(0, 3, 1, 2)
