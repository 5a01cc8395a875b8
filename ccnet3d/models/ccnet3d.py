"""CCNet3D: a 2D backbone per frame, recurrent 3D criss-cross attention over the clip, a class per pixel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ccnet3d.models.architecture import ModelConfig
from ccnet3d.models.backbone import build_backbone, feature_channels
from ccnet3d.models.blocks import CrissCrossHead, SkipDecoder, conv_bn_relu, resize_like


class FrameFeatures(NamedTuple):
    """What the head keeps of N frames; the first axis of each is N."""

    context: Tensor
    """``[N, C_in, H, W]``, the joined context levels."""
    reduced: Tensor
    """``[N, C, H, W]``, input of the attention."""
    skips: tuple[Tensor, ...]
    """``[N, C_l, H_l, W_l]``, the decoder's finer levels."""

    def frame(self, n: int) -> FrameFeatures:
        """Those of one frame, as a batch of 1."""
        return FrameFeatures(self.context[n : n + 1], self.reduced[n : n + 1], tuple(s[n : n + 1] for s in self.skips))

    @staticmethod
    def join(frames: Sequence[FrameFeatures]) -> FrameFeatures:
        """The inverse of taking frames apart; a single one is returned as it is."""
        if len(frames) == 1:
            return frames[0]
        context, reduced, skips = zip(*frames, strict=True)
        return FrameFeatures(
            torch.cat(context), torch.cat(reduced), tuple(torch.cat(level) for level in zip(*skips, strict=True))
        )


class TrainingOutputs(NamedTuple):
    """What the losses need of a clip."""

    logits: Tensor
    """``[B, T, K, H, W]``, as inference has them."""
    auxiliary: Tensor
    """``[B, T, K, H, W]``, logits of the auxiliary classifier."""
    embeddings: Tensor | None
    """``[B, T, E, h, w]`` at the attention's stride; None for a model without that branch."""


class CCNet3D(nn.Module):
    """Video semantic segmentation with 3D criss-cross attention (CCNet, TPAMI 2020, arXiv 1811.11721).

    Args:
        config: the architecture; ``ModelConfig()`` is the light default.

    Raises:
        ValueError: a backbone that timm cannot build, or levels that it does not have.
    """

    input_mean: Tensor
    input_std: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = build_backbone(config.backbone, config.output_stride)
        level_channels = feature_channels(self.backbone)
        used = {*config.context_levels, *config.skip_levels, config.auxiliary_level}
        if not used <= set(range(len(level_channels))):
            raise ValueError(
                f"{config.backbone} has levels 0 to {len(level_channels) - 1}, the configuration asks for "
                f"{sorted(used)}; name other levels"
            )
        self.head = CrissCrossHead(
            sum(level_channels[level] for level in config.context_levels),
            config.channels,
            reduction=config.reduction,
            loops=config.loops,
            initial_gamma=config.initial_gamma,
            dropout=config.dropout,
        )
        self.decoder = SkipDecoder(
            config.channels, [level_channels[i] for i in config.skip_levels], config.skip_channels
        )
        self.classifier = nn.Conv2d(self.decoder.out_channels, config.num_classes, 1)
        auxiliary_channels = max(level_channels[config.auxiliary_level] // 4, config.num_classes)
        self.auxiliary = nn.Sequential(
            conv_bn_relu(level_channels[config.auxiliary_level], auxiliary_channels, 3),
            nn.Dropout2d(config.dropout),
            nn.Conv2d(auxiliary_channels, config.num_classes, 1),
        )
        # Reads the attention's output for the category consistent loss; only training uses it.
        self.embedding = nn.Conv2d(config.channels, config.embedding_channels, 1) if config.embedding_channels else None
        self.register_buffer("input_mean", torch.tensor(config.input_mean).view(3, 1, 1), persistent=False)
        self.register_buffer("input_std", torch.tensor(config.input_std).view(3, 1, 1), persistent=False)
        for module in self.modules():  # the fastest layout on CPUs and tensor cores; 3D kernels have no such format
            if isinstance(module, nn.Conv2d):
                module.to(memory_format=torch.channels_last)

    def extract_features(self, frames: Tensor) -> list[Tensor]:
        """The backbone's levels for single frames, so that a frame shared by clips passes it once.

        Args:
            frames: ``[N, 3, H, W]``, RGB in [0, 1].

        Returns:
            Levels ``[N, C_l, H_l, W_l]``, finest first.
        """
        normalised = (frames - self.input_mean) / self.input_std
        levels = self.backbone(normalised.contiguous(memory_format=torch.channels_last))
        if getattr(self.backbone, "output_fmt", "NCHW") == "NHWC":  # some transformers in timm
            return [level.permute(0, 3, 1, 2) for level in levels]
        return list(levels)

    def frame_features(self, levels: Sequence[Tensor]) -> FrameFeatures:
        """What the head needs of each frame, whatever the clips that it will be part of.

        Args:
            levels: ``[N, C_l, H_l, W_l]`` as :meth:`extract_features` gives them.
        """
        context = [levels[level] for level in self.config.context_levels]
        joined = torch.cat([resize_like(level, context[0]) for level in context], dim=1)
        return FrameFeatures(joined, self.head.reduce(joined), tuple(levels[i] for i in self.config.skip_levels))

    def attend(self, reduced: Tensor, clip_length: int) -> Tensor:
        """Criss-cross attention over clips, the only step in which frames meet.

        Args:
            reduced: ``[B*T, C, H, W]``, frames of a clip one after the other.
            clip_length: T.

        Returns:
            ``[B*T, C, H, W]``.
        """
        return self.head.attend(reduced, clip_length)

    def frame_logits(self, features: FrameFeatures, attended: Tensor) -> Tensor:
        """Class logits of frames ``[N, K, h, w]`` at the decoder's stride, from what the attention gave for each."""
        fused = self.head.finish(features.context, attended)
        return self.classifier(self.decoder(fused, features.skips))

    def forward(self, clip: Tensor) -> Tensor:
        """Class logits of every pixel of a clip.

        Args:
            clip: ``[B, T, 3, H, W]``, RGB in [0, 1], any T, H and W.

        Returns:
            ``[B, T, K, H, W]`` logits.

        Raises:
            ValueError: the clip is not of that shape.
        """
        return self._classify(clip)[0]

    def forward_with_auxiliary(self, clip: Tensor, levels: list[Tensor] | None = None) -> TrainingOutputs:
        """As :meth:`forward`, with what only training needs.

        Args:
            clip: ``[B, T, 3, H, W]``, RGB in [0, 1].
            levels: what :meth:`extract_features` gives for its B*T frames, where the caller has that already.
        """
        logits, levels, attended = self._classify(clip, levels)
        auxiliary = self._upsample(self.auxiliary(levels[self.config.auxiliary_level]), clip)
        embeddings = None if self.embedding is None else self.embedding(attended).unflatten(0, clip.shape[:2])
        return TrainingOutputs(logits, auxiliary, embeddings)

    def _classify(self, clip: Tensor, levels: list[Tensor] | None = None) -> tuple[Tensor, list[Tensor], Tensor]:
        """Logits of the clip, the backbone's levels and the attention's output."""
        if clip.dim() != 5 or clip.shape[2] != 3 or not clip.is_floating_point():
            raise ValueError(
                f"expected a clip [B, T, 3, H, W] of floats in [0, 1], got {tuple(clip.shape)} of {clip.dtype}; "
                "scale uint8 frames by 1/255 and add the missing axes"
            )
        levels = self.extract_features(clip.flatten(0, 1)) if levels is None else levels
        frames = self.frame_features(levels)
        attended = self.attend(frames.reduced, clip.shape[1])
        return self._upsample(self.frame_logits(frames, attended), clip), levels, attended

    @staticmethod
    def _upsample(logits: Tensor, clip: Tensor) -> Tensor:
        """``[B*T, K, h, w]`` to ``[B, T, K, H, W]`` of the clip."""
        full = F.interpolate(logits, size=clip.shape[-2:], mode="bilinear", align_corners=False)
        return full.unflatten(0, clip.shape[:2])
