"""The blocks after the backbone: two heads around a context module, and a decoder with skip connections.

Axes: N = B*T frames, C channels, H height, W width. Only the context module uses the time axis.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["CrissCrossHead", "FusionHead", "SkipDecoder", "average_like", "conv_bn_relu", "resize_like"]


def conv_bn_relu(in_channels: int, out_channels: int, kernel_size: int, dilation: int = 1) -> nn.Sequential:
    """Return a convolution without change of size, batch norm and ReLU: ``[N, in, H, W]`` to ``[N, out, H, W]``."""
    padding = dilation * (kernel_size // 2)
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel_size, padding=padding, dilation=dilation, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


def _conv_bn(in_channels: int, out_channels: int, kernel_size: int, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, groups=groups, bias=False),
        nn.BatchNorm2d(out_channels),
    )


def resize_like(x: Tensor, like: Tensor) -> Tensor:
    """Resize a level ``[N, C, h, w]`` bilinearly to the height and width of a finer one of the same frames.

    Where sides are not multiples of the stride, the last cells of a coarse level reach beyond the frame: 27 columns of
    stride 32 cover 864 pixels of 848. The level is enlarged by the ratio of the strides, a power of 2, and cropped;
    squeezing it into the size of ``like`` would shift its contents by up to half a cell.
    """
    height, width = like.shape[-2:]
    if x.shape[-2:] == (height, width):
        return x
    down, right = _stride_ratios(like, x)
    if x.shape[-2] * down < height or x.shape[-1] * right < width:  # a backbone that leaves out incomplete cells
        return F.interpolate(x, size=(height, width), mode="bilinear", align_corners=False)
    enlarged = F.interpolate(x, scale_factor=(down, right), mode="bilinear", align_corners=False)
    return enlarged[..., :height, :width]


def average_like(x: Tensor, like: Tensor) -> Tensor:
    """Average ``[N, C, h, w]`` over the cells of a coarser level of the same frames; see :func:`resize_like`."""
    down, right = _stride_ratios(x, like)
    if (-(-x.shape[-2] // down), -(-x.shape[-1] // right)) == tuple(like.shape[-2:]):
        return F.avg_pool2d(x, (down, right), ceil_mode=True)
    return F.interpolate(x, size=like.shape[-2:], mode="area")


def _stride_ratios(fine: Tensor, coarse: Tensor) -> tuple[int, int]:
    """Return the ratios of the strides of two levels along height and width, powers of 2."""
    down, right = (2 ** round(math.log2(a / b)) for a, b in zip(fine.shape[-2:], coarse.shape[-2:], strict=True))
    return down, right


class _Head(nn.Module):
    """What maps the backbone's context levels to the decoder's input, in four steps of which only one mixes frames.

    ``join`` and ``reduce`` prepare each frame, ``attend`` applies the context module to clips, ``finish`` completes
    each frame.
    """

    reduce: nn.Module
    """``[N, in, H, W]`` from :meth:`join` to ``[N, C, H, W]``, the context module's input."""
    attention: nn.Module | None
    """The context module, ``[B, C, T, H, W]`` to the same shape; None for none. Model files have its weights under
    this name."""
    out_channels: int

    def join(self, levels: Sequence[Tensor]) -> Tensor:
        """Map the context levels ``[N, C_l, H_l, W_l]`` to one tensor ``[N, in, H, W]``, the size of the first."""
        raise NotImplementedError

    def finish(self, features: Tensor, attended: Tensor) -> Tensor:
        """Map the output of :meth:`join` and of the context module ``[N, C, H, W]`` to ``[N, out, H, W]``."""
        raise NotImplementedError

    def blocks(self) -> list[nn.Module]:
        """Return the parts that contain convolutions, apart from the context module."""
        raise NotImplementedError

    @property
    def gamma(self) -> Tensor | None:
        """The weight of the attention, ``[1]``; None for a context module without one."""
        return getattr(self.attention, "gamma", None)

    def forward(self, levels: Sequence[Tensor], clip_length: int) -> Tensor:
        """Map ``[B*T, C_l, H_l, W_l]`` to ``[B*T, out, H, W]``, with T = ``clip_length`` frames per clip."""
        features = self.join(levels)
        return self.finish(features, self.attend(self.reduce(features), clip_length))

    def attend(self, reduced: Tensor, clip_length: int) -> Tensor:
        """Apply the context module, the only step that mixes frames: ``[B*T, C, H, W]`` to the same shape."""
        if self.attention is None:
            return reduced
        clip = reduced.unflatten(0, (-1, clip_length)).transpose(1, 2)  # [B, C, T, H, W], a view
        attended: Tensor = self.attention(clip)
        return attended.transpose(1, 2).flatten(0, 1)


class CrissCrossHead(_Head):
    """CCNet's head: 3x3 reduction, context module, 3x3 convolution, fusion with the head's input.

    Paper: arXiv 1811.11721, section 3.1; dropout as in its code. The levels are concatenated.
    """

    def __init__(
        self,
        level_channels: Sequence[int],
        channels: int,
        context: Callable[[int], nn.Module | None],
        *,
        dropout: float,
    ) -> None:
        super().__init__()
        in_channels = sum(level_channels)
        self.reduce = conv_bn_relu(in_channels, channels, 3)
        self.attention = context(channels)
        self.refine = conv_bn_relu(channels, channels, 3)
        self.fuse = nn.Sequential(conv_bn_relu(in_channels + channels, channels, 3), nn.Dropout2d(dropout))
        self.out_channels = channels

    def join(self, levels: Sequence[Tensor]) -> Tensor:
        """Concatenate the levels at the size of the first."""
        return torch.cat([resize_like(level, levels[0]) for level in levels], dim=1)

    def finish(self, features: Tensor, attended: Tensor) -> Tensor:
        """Refine and fuse with the input, per frame: ``[N, in, H, W]`` and ``[N, C, H, W]`` to ``[N, C, H, W]``."""
        return self.fuse(torch.cat([features, self.refine(attended)], dim=1))

    def blocks(self) -> list[nn.Module]:
        """Return the parts that contain convolutions."""
        return [self.reduce, self.refine, self.fuse]


class FusionHead(_Head):
    """EfficientViT's segmentation head: projected levels are added, mixed by an inverted bottleneck and expanded.

    Paper: Cai et al., EfficientViT, ICCV 2023, arXiv 2205.14756, section 3.2; layers, widths and batch norms are those
    of its code for B0, so that its weights fit. The context module, if there is one, is applied to the sum.
    """

    def __init__(
        self,
        level_channels: Sequence[int],
        channels: int,
        context: Callable[[int], nn.Module | None],
        *,
        dropout: float,
    ) -> None:
        super().__init__()
        self.attention = context(channels)
        self.project = nn.ModuleList(_conv_bn(in_channels, channels, 1) for in_channels in level_channels)
        self.reduce = nn.Identity()
        self.out_channels = 4 * channels
        self.mix = nn.Sequential(
            *_conv_bn(channels, 4 * channels, 1),
            nn.Hardswish(inplace=True),
            *_conv_bn(4 * channels, 4 * channels, 3, groups=4 * channels),
            nn.Hardswish(inplace=True),
            *_conv_bn(4 * channels, channels, 1),
        )
        self.expand = nn.Sequential(
            *_conv_bn(channels, 4 * channels, 1), nn.Hardswish(inplace=True), nn.Dropout2d(dropout)
        )

    def join(self, levels: Sequence[Tensor]) -> Tensor:
        """Add the projected levels at the size of the first."""
        first, *others = (project(level) for project, level in zip(self.project, levels, strict=True))
        return sum((resize_like(other, first) for other in others), first)

    def finish(self, features: Tensor, attended: Tensor) -> Tensor:
        """Mix and expand, per frame: ``[N, C, H, W]`` to ``[N, 4 C, H, W]``; ``features`` is not used."""
        del features
        return self.expand(attended + self.mix(attended))

    def blocks(self) -> list[nn.Module]:
        """Return the parts that contain convolutions."""
        return [*self.project, self.mix, self.expand]


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
