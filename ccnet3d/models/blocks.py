"""The blocks after the backbone: criss-cross head and decoder with skip connections.

Axes: N = B*T frames, C channels, H height, W width. Only the attention uses the time axis.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ccnet3d.attention import RecurrentCrissCrossAttention

__all__ = ["CrissCrossHead", "SkipDecoder", "conv_bn_relu", "resize_like"]


def conv_bn_relu(in_channels: int, out_channels: int, kernel_size: int) -> nn.Sequential:
    """Return a convolution without change of size, batch norm and ReLU: ``[N, in, H, W]`` to ``[N, out, H, W]``."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


def resize_like(x: Tensor, like: Tensor) -> Tensor:
    """Resize ``[N, C, h, w]`` bilinearly to the height and width of ``like``."""
    if x.shape[-2:] == like.shape[-2:]:
        return x
    return F.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=False)


class CrissCrossHead(nn.Module):
    """CCNet's head: 3x3 reduction, recurrent criss-cross attention, 3x3 convolution, fusion with the head's input.

    Paper: arXiv 1811.11721, section 3.1; dropout as in its code. With 0 loops the head has no attention and none of its
    parameters, as a baseline for comparison.
    """

    def __init__(
        self, in_channels: int, channels: int, *, reduction: int, loops: int, initial_gamma: float, dropout: float
    ) -> None:
        super().__init__()
        self.reduce = conv_bn_relu(in_channels, channels, 3)
        self.attention = (
            RecurrentCrissCrossAttention(channels, loops, reduction, initial_gamma=initial_gamma) if loops else None
        )
        self.refine = conv_bn_relu(channels, channels, 3)
        self.fuse = nn.Sequential(conv_bn_relu(in_channels + channels, channels, 3), nn.Dropout2d(dropout))

    def forward(self, features: Tensor, clip_length: int) -> Tensor:
        """Map ``[B*T, in, H, W]`` to ``[B*T, C, H, W]``, with T = ``clip_length`` frames per clip."""
        return self.finish(features, self.attend(self.reduce(features), clip_length))

    def attend(self, reduced: Tensor, clip_length: int) -> Tensor:
        """Mix the frames of each clip, the only step that does: ``[B*T, C, H, W]`` to the same shape."""
        if self.attention is None:
            return reduced
        # [B*T, C, H, W] -> [B, T, H, W, C], a view if the convolution's output is channels-last; loops copy nothing.
        clip = reduced.unflatten(0, (-1, clip_length)).permute(0, 1, 3, 4, 2)
        return self.attention.attend(clip).flatten(0, 1).permute(0, 3, 1, 2)

    def finish(self, features: Tensor, attended: Tensor) -> Tensor:
        """Refine and fuse with the input, per frame: ``[N, in, H, W]`` and ``[N, C, H, W]`` to ``[N, C, H, W]``."""
        return self.fuse(torch.cat([features, self.refine(attended)], dim=1))


class SkipDecoder(nn.Module):
    """Upsample the head's output with the finer levels of the backbone, which locate thin objects.

    Each step is a 1x1 convolution, a bilinear resize to the level's size, a concatenation and a 3x3 convolution.
    """

    def __init__(self, in_channels: int, skip_channels: Sequence[int], channels: Sequence[int]) -> None:
        super().__init__()
        self.narrow = nn.ModuleList()
        self.merge = nn.ModuleList()
        for skip, out in zip(skip_channels, channels, strict=True):
            self.narrow.append(conv_bn_relu(in_channels, out, 1))
            self.merge.append(conv_bn_relu(out + skip, out, 3))
            in_channels = out
        self.out_channels = in_channels

    def forward(self, x: Tensor, skips: Sequence[Tensor]) -> Tensor:
        """Map ``[N, in, H, W]`` and the levels ``[N, skip, h, w]`` to ``[N, out, h, w]`` at the last level's size."""
        for narrow, merge, skip in zip(self.narrow, self.merge, skips, strict=True):
            x = merge(torch.cat([resize_like(narrow(x), skip), skip], dim=1))
        return x
