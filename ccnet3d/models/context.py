"""What gathers context before the decoder: criss-cross attention, and the modules that it is compared with.

Every module maps ``[B, C, T, H, W]``, or ``[B, C, H, W]`` for images, to the same shape. The attentions mix the frames
of a clip; pyramid pooling, atrous convolutions and global convolutions look at each frame separately.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ccnet3d.attention import RecurrentCrissCrossAttention
from ccnet3d.errors import UserError
from ccnet3d.models.architecture import CONTEXTS
from ccnet3d.models.blocks import conv_bn_relu

__all__ = [
    "AtrousPyramid",
    "AxialAttention",
    "GlobalConvolution",
    "LocalWindowAttention",
    "NonLocalAttention",
    "PyramidPooling",
    "build_context",
]


def build_context(
    name: str, channels: int, *, loops: int = 3, reduction: int = 8, initial_gamma: float = 0.0, stride: int = 8
) -> nn.Module | None:
    """Return a context module by its name in ``model.context``, or None for none.

    Args:
        name: one of :data:`ccnet3d.models.CONTEXTS`.
        channels: C, channels of the input and the output.
        loops: R of ``criss_cross``; 0 is none.
        reduction: queries and keys of the attentions have C // reduction channels.
        initial_gamma: weight of the attentions before training.
        stride: of the features, to which ``aspp`` adapts its rates: 12, 24 and 36 at stride 8.

    Raises:
        UserError: an unknown name.
        ValueError: ``channels // reduction`` is less than 1.

    >>> module = build_context("aspp", channels=16, stride=16)
    >>> module(torch.rand(1, 16, 3, 4, 5)).shape  # [B, C, T, H, W]
    torch.Size([1, 16, 3, 4, 5])
    """
    match name:
        case "none":
            return None
        case "criss_cross":
            if loops == 0:
                return None
            return RecurrentCrissCrossAttention(channels, loops, reduction, initial_gamma=initial_gamma)
        case "non_local":
            return NonLocalAttention(channels, reduction, initial_gamma=initial_gamma)
        case "axial":
            return AxialAttention(channels, reduction, initial_gamma=initial_gamma)
        case "local_window":
            return LocalWindowAttention(channels, reduction, initial_gamma=initial_gamma)
        case "ppm":
            return PyramidPooling(channels)
        case "aspp":
            return AtrousPyramid(channels, [max(1, 96 * n // stride) for n in (1, 2, 3)])
        case "gcn":
            return GlobalConvolution(channels)
    raise UserError(f"context must be one of {', '.join(CONTEXTS)}, got {name!r}")


class _Context(nn.Module):
    def attend(self, x: Tensor) -> Tensor:
        """Map ``[B, C, T, H, W]`` to the same shape."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, C, T, H, W]``, or ``[B, C, H, W]`` for images, to the same shape.

        Raises:
            ValueError: the input has neither four nor five axes.
        """
        if x.dim() == 4:
            return self.attend(x.unsqueeze(2)).squeeze(2)
        if x.dim() != 5:
            raise ValueError(
                f"expected clips [B, C, T, H, W] or images [B, C, H, W], got {tuple(x.shape)}; add the missing axes"
            )
        return self.attend(x)


class _ResidualAttention(_Context):
    """``gamma * attention(x) + x``."""

    def __init__(self, initial_gamma: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((1,), initial_gamma))


class NonLocalAttention(_ResidualAttention):
    """Attention from every position of a clip to every other: the non-local operation, embedded Gaussian.

    Wang et al., CVPR 2018, arXiv 1711.07971, section 3.2, in the form that CCNet (arXiv 1811.11721) compares itself
    with: projections as in criss-cross attention, so values keep their C channels and no projection follows. The N x N
    weights of N = T*H*W positions are stored.

    Args:
        channels: C, channels of the input and the output.
        reduction: queries and keys have C // reduction channels.
        initial_gamma: weight of the attention before training.

    Raises:
        ValueError: ``channels // reduction`` is less than 1.
    """

    def __init__(self, channels: int, reduction: int = 8, *, initial_gamma: float = 0.0) -> None:
        super().__init__(initial_gamma)
        self.project = _Projection(channels, reduction)

    def attend(self, x: Tensor) -> Tensor:
        """Map ``[B, C, T, H, W]`` to the same shape."""
        query, key, value = (y.flatten(1, 3) for y in self.project.split(x))  # [B, N, .]
        weights = (query @ key.transpose(1, 2)).softmax(-1)  # [B, N, N]
        attended = (weights @ value).unflatten(1, x.shape[2:]).permute(0, 4, 1, 2, 3)
        return torch.addcmul(x, self.gamma, attended)


class AxialAttention(_ResidualAttention):
    """Attention along the height, then the width, then the time, each with its own projections and softmax.

    Ho et al., arXiv 1912.12180; as in Wang et al., Axial-DeepLab, ECCV 2020, one layer per axis follows the other.
    After all of them a position depends on every other.

    Args:
        channels: C, channels of the input and the output.
        reduction: queries and keys have C // reduction channels.
        axes: 3, or 2 without the time, for images.
        initial_gamma: weight of each axis's attention before training; the axes share it.

    Raises:
        ValueError: ``channels // reduction`` is less than 1, or ``axes`` is neither 2 nor 3.
    """

    def __init__(self, channels: int, reduction: int = 8, *, axes: int = 3, initial_gamma: float = 0.0) -> None:
        super().__init__(initial_gamma)
        if axes not in (2, 3):
            raise ValueError(f"axes must be 2 (height and width) or 3 (and time), got {axes}")
        self.projections = nn.ModuleList(_Projection(channels, reduction) for _ in range(axes))

    def attend(self, x: Tensor) -> Tensor:
        """Map ``[B, C, T, H, W]`` to the same shape."""
        for project, axis in zip(self.projections, (2, 3, 1), strict=False):
            assert isinstance(project, _Projection)
            lines = [y.movedim(axis, 3) for y in project.split(x)]  # [B, ., ., L, .]
            query, key, value = (line.flatten(0, 2).unsqueeze(1) for line in lines)
            attended = F.scaled_dot_product_attention(query, key, value)
            attended = attended.view_as(lines[2]).movedim(3, axis).permute(0, 4, 1, 2, 3)
            x = torch.addcmul(x, self.gamma, attended)
        return x


class LocalWindowAttention(_ResidualAttention):
    """Attention within windows that do not overlap, without position bias.

    Liu et al., Video Swin Transformer, CVPR 2022, arXiv 2106.13230, section 3.1 (for one frame, Swin, arXiv
    2103.14030): one layer, so without the shift that follows in every second one. Windows at the far ends are smaller
    where a side is not a multiple.

    Args:
        channels: C, channels of the input and the output.
        reduction: queries and keys have C // reduction channels.
        window: frames, rows and columns of a window.
        initial_gamma: weight of the attention before training.

    Raises:
        ValueError: ``channels // reduction`` is less than 1.
    """

    def __init__(
        self,
        channels: int,
        reduction: int = 8,
        *,
        window: tuple[int, int, int] = (8, 7, 7),
        initial_gamma: float = 0.0,
    ) -> None:
        super().__init__(initial_gamma)
        self.window = window
        self.project = _Projection(channels, reduction)

    def attend(self, x: Tensor) -> Tensor:
        """Map ``[B, C, T, H, W]`` to the same shape."""
        grid = x.shape[2:]
        window = [min(side, length) for side, length in zip(self.window, grid, strict=True)]
        query, key, value = (_to_windows(y, window) for y in self.project.split(x))  # [windows, 1, positions, .]
        mask = None
        if any(length % side for side, length in zip(window, grid, strict=True)):  # padding is no key
            inside = _to_windows(torch.ones(1, *grid, 1, dtype=torch.bool, device=x.device), window)
            mask = inside.transpose(2, 3).repeat(x.shape[0], 1, 1, 1)  # [windows, 1, 1, positions]
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return torch.addcmul(x, self.gamma, _from_windows(attended, window, grid).permute(0, 4, 1, 2, 3))


class _Projection(nn.Conv2d):
    """Query, key and value of every position, slices of one 1x1 convolution."""

    def __init__(self, channels: int, reduction: int) -> None:
        if reduction < 1 or channels // reduction < 1:
            raise ValueError(
                f"channels // reduction must be at least 1, got channels={channels}, reduction={reduction}"
            )
        super().__init__(channels, 2 * (channels // reduction) + channels, 1)

    def split(self, x: Tensor) -> tuple[Tensor, ...]:
        """Map ``[B, C, T, H, W]`` to query, key ``[B, T, H, W, D]`` and value ``[B, T, H, W, C]``."""
        frames = self(x.transpose(1, 2).flatten(0, 1))  # [B*T, 2D + C, H, W]
        narrow = (self.out_channels - self.in_channels) // 2
        projected = frames.unflatten(0, (x.shape[0], x.shape[2])).permute(0, 1, 3, 4, 2)
        return projected.split([narrow, narrow, self.in_channels], dim=-1)


def _to_windows(x: Tensor, window: Sequence[int]) -> Tensor:
    """``[B, T, H, W, C]``, padded with zeros to whole windows, to ``[windows, 1, positions of a window, C]``."""
    time, height, width = (-length % side for side, length in zip(window, x.shape[1:4], strict=True))
    if time or height or width:
        x = F.pad(x, (0, 0, 0, width, 0, height, 0, time))
    for axis, side in zip((1, 3, 5), window, strict=True):
        x = x.unflatten(axis, (-1, side))  # [B, t, window t, h, window h, w, window w, C] at the end
    return x.permute(0, 1, 3, 5, 2, 4, 6, 7).flatten(4, 6).flatten(0, 3).unsqueeze(1)


def _from_windows(x: Tensor, window: Sequence[int], grid: Sequence[int]) -> Tensor:
    """Invert :func:`_to_windows`: ``[windows, 1, positions of a window, C]`` to ``[B, T, H, W, C]``."""
    counts = [-(-length // side) for side, length in zip(window, grid, strict=True)]
    x = x.squeeze(1).unflatten(0, (-1, *counts)).unflatten(4, tuple(window)).permute(0, 1, 4, 2, 5, 3, 6, 7)
    time, height, width = grid
    return x.flatten(5, 6).flatten(3, 4).flatten(1, 2)[:, :time, :height, :width]


class _FrameContext(_Context):
    """Context within each frame."""

    def gather(self, frames: Tensor) -> Tensor:
        """Map ``[N, C, H, W]`` to the same shape."""
        raise NotImplementedError

    def attend(self, x: Tensor) -> Tensor:
        """Map ``[B, C, T, H, W]`` to the same shape."""
        clips = x.transpose(1, 2)
        return self.gather(clips.flatten(0, 1)).view_as(clips).transpose(1, 2)


class PyramidPooling(_FrameContext):
    """Averages over grids of 1, 4, 9 and 36 cells, projected, enlarged and joined with the input.

    Zhao et al., PSPNet, CVPR 2017, arXiv 1612.01105, section 3.2.

    Args:
        channels: C, channels of the input and the output; each grid is projected to C / 4.
        bins: rows, and columns, of each grid.
    """

    def __init__(self, channels: int, bins: Sequence[int] = (1, 2, 3, 6)) -> None:
        super().__init__()
        width = max(1, channels // len(bins))
        self.branches = nn.ModuleList(nn.Sequential(nn.AdaptiveAvgPool2d(n), *_pooled(channels, width)) for n in bins)
        self.fuse = conv_bn_relu(channels + width * len(bins), channels, 3)

    def gather(self, frames: Tensor) -> Tensor:
        """Map ``[N, C, H, W]`` to the same shape."""
        size = frames.shape[-2:]
        pooled = [F.interpolate(branch(frames), size, mode="bilinear") for branch in self.branches]
        return self.fuse(torch.cat([frames, *pooled], dim=1))


class AtrousPyramid(_FrameContext):
    """A 1x1 convolution, three dilated 3x3 convolutions and the frame's average, joined by a 1x1 convolution (ASPP).

    Chen et al., DeepLabv3, arXiv 1706.05587, section 3.3. There 2048 channels of the backbone become 256 per branch;
    here C become C / 2, which are 256 at the paper's C = 512.

    Args:
        channels: C, channels of the input and the output.
        rates: dilation of each 3x3 convolution.
        width: channels of each branch; C / 2 if not given.
    """

    def __init__(self, channels: int, rates: Sequence[int] = (12, 24, 36), width: int | None = None) -> None:
        super().__init__()
        width = width or max(1, channels // 2)
        dilated = (conv_bn_relu(channels, width, 3, rate) for rate in rates)
        self.branches = nn.ModuleList([conv_bn_relu(channels, width, 1), *dilated])
        self.average = nn.Sequential(nn.AdaptiveAvgPool2d(1), *_pooled(channels, width))
        self.fuse = conv_bn_relu((len(rates) + 2) * width, channels, 1)

    def gather(self, frames: Tensor) -> Tensor:
        """Map ``[N, C, H, W]`` to the same shape."""
        parts = [branch(frames) for branch in self.branches]
        return self.fuse(torch.cat([*parts, self.average(frames).expand_as(parts[0])], dim=1))


class GlobalConvolution(_FrameContext):
    """A convolution over k x k cells in two separable halves: k x 1 then 1 x k, plus 1 x k then k x 1 (GCN).

    Peng et al., Large Kernel Matters, CVPR 2017, arXiv 1703.02719, section 3.1. There it maps to one channel per
    class; here to C / 4, from which a 1x1 convolution returns to C.

    Args:
        channels: C, channels of the input and the output.
        kernel_size: k, odd.
    """

    def __init__(self, channels: int, kernel_size: int = 15) -> None:
        super().__init__()
        width, sides = max(1, channels // 4), ((kernel_size, 1), (1, kernel_size))
        self.halves = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(channels, width, first, padding=(first[0] // 2, first[1] // 2), bias=False),
                nn.Conv2d(width, width, second, padding=(second[0] // 2, second[1] // 2), bias=False),
            )
            for first, second in (sides, sides[::-1])
        )
        self.expand = conv_bn_relu(width, channels, 1)

    def gather(self, frames: Tensor) -> Tensor:
        """Map ``[N, C, H, W]`` to the same shape."""
        first, second = (half(frames) for half in self.halves)
        return self.expand(first + second)


class _PooledNorm(nn.BatchNorm2d):
    """A batch norm that, for a single value per channel, uses its running statistics in training too."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalize ``[N, C, H, W]``."""
        if self.training and x.numel() == x.shape[1]:  # has no variance
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(x)


def _pooled(channels: int, width: int) -> list[nn.Module]:
    """Return what follows the average over a grid: 1x1 convolution, batch norm, ReLU."""
    return [nn.Conv2d(channels, width, 1, bias=False), _PooledNorm(width), nn.ReLU(inplace=True)]
