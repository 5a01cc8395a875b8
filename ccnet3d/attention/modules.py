"""Criss-cross attention as modules: projections, residual and recurrence around the pure function."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ccnet3d.attention.backends import is_traced, is_transformed
from ccnet3d.attention.functional import criss_cross_attention

__all__ = ["CrissCrossAttention", "RecurrentCrissCrossAttention"]


class CrissCrossAttention(nn.Module):
    """``gamma * attention(x) + x``, where 1x1x1 convolutions of x yield query, key and value.

    Parameters are named as in the published CCNet code, and its 2D weights (4-D kernels) load unchanged.

    Args:
        channels: C, channels of the input and the output.
        reduction: queries and keys have C // reduction channels.
        initial_gamma: weight of the attention before training; at the paper's 0 the module starts as the identity.
        backend: see :func:`ccnet3d.attention.criss_cross_attention`.

    Raises:
        ValueError: ``channels // reduction`` is less than 1.

    >>> import torch
    >>> from ccnet3d import CrissCrossAttention
    >>> attention = CrissCrossAttention(channels=16)
    >>> clip = torch.rand(1, 16, 3, 4, 5)  # [B, C, T, H, W]
    >>> torch.equal(attention(clip), clip)  # gamma starts at 0
    True
    >>> attention(clip[:, :, 0]).shape  # an image, [B, C, H, W]
    torch.Size([1, 16, 4, 5])
    """

    def __init__(self, channels: int, reduction: int = 8, *, initial_gamma: float = 0.0, backend: str = "auto") -> None:
        super().__init__()
        if reduction < 1 or channels // reduction < 1:
            raise ValueError(
                f"channels // reduction must be at least 1, got channels={channels}, reduction={reduction}"
            )
        self.query_conv = nn.Conv3d(channels, channels // reduction, 1)
        self.key_conv = nn.Conv3d(channels, channels // reduction, 1)
        self.value_conv = nn.Conv3d(channels, channels, 1)
        self.gamma = nn.Parameter(torch.full((1,), initial_gamma))
        self.backend = backend

    def attend(self, x: Tensor) -> Tensor:
        """Apply one criss-cross step in the operator's layout: ``[B, T, H, W, C]`` to the same shape."""
        x = x.contiguous()  # copies only before the first loop
        attended = criss_cross_attention(*self.project(x), backend=self.backend)
        # In place where possible: new memory costs more than the sum. Under autocast the dtypes differ.
        recorded = torch.is_grad_enabled() or torch.compiler.is_compiling() or is_traced() or is_transformed()
        in_place = not recorded and attended.dtype == x.dtype
        return torch.addcmul(x, self.gamma, attended, out=attended if in_place else None)

    def project(self, x: Tensor) -> Sequence[Tensor]:
        """Return query, key and value of ``[B, T, H, W, C]``, slices of one matrix product."""
        convolutions = (self.query_conv, self.key_conv, self.value_conv)
        weight = torch.cat([conv.weight for conv in convolutions]).squeeze(-1)  # [2D + C, C, 1, 1]
        bias = torch.cat([cast(Tensor, conv.bias) for conv in convolutions])
        # A 2D convolution over an image of height T * H, whose channels-last format x already has: on AMD CPUs oneDNN
        # computes it in float32 twice as fast as F.linear.
        image = x.flatten(1, 2).permute(0, 3, 1, 2)  # [B, C, T * H, W]
        projected = F.conv2d(image, weight, bias).permute(0, 2, 3, 1).reshape(*x.shape[:-1], -1)  # [B, T, H, W, .]
        return projected.split([conv.out_channels for conv in convolutions], dim=-1)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, C, T, H, W]``, or ``[B, C, H, W]`` for images, to the same shape (CCNet, equation 2).

        The channels of a position are contiguous in the output (``torch.channels_last_3d``, ``torch.channels_last``);
        an input in that format is not copied.

        Raises:
            ValueError: the input has neither four nor five axes.
        """
        if x.dim() == 4:
            return self.forward(x.unsqueeze(2)).squeeze(2)
        if x.dim() != 5:
            raise ValueError(
                f"expected clips [B, C, T, H, W] or images [B, C, H, W], got {tuple(x.shape)}; add the missing axes"
            )
        return self.attend(x.permute(0, 2, 3, 4, 1)).permute(0, 4, 1, 2, 3)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for name in ("query_conv", "key_conv", "value_conv"):
            kernel = state_dict.get(f"{prefix}{name}.weight")
            if isinstance(kernel, Tensor) and kernel.dim() == 4:  # [O, I, 1, 1] of the 2D module
                state_dict[f"{prefix}{name}.weight"] = kernel.unsqueeze(2)
        super()._load_from_state_dict(state_dict, prefix, *args)


class RecurrentCrissCrossAttention(CrissCrossAttention):
    """Criss-cross attention applied ``loops`` times with shared weights.

    Two loops reach every position of an image, three loops every position of a clip.

    Args:
        channels: C, channels of the input and the output.
        loops: R, how often the attention is applied.
        reduction: queries and keys have C // reduction channels.
        initial_gamma: weight of the attention before training; at the paper's 0 the module starts as the identity.
        backend: see :func:`ccnet3d.attention.criss_cross_attention`.

    Raises:
        ValueError: ``loops`` or ``channels // reduction`` is less than 1.

    >>> import torch
    >>> from ccnet3d import RecurrentCrissCrossAttention
    >>> attention = RecurrentCrissCrossAttention(channels=16, loops=3)
    >>> attention(torch.rand(1, 16, 3, 4, 5)).shape  # [B, C, T, H, W]
    torch.Size([1, 16, 3, 4, 5])
    """

    def __init__(
        self, channels: int, loops: int = 3, reduction: int = 8, *, initial_gamma: float = 0.0, backend: str = "auto"
    ) -> None:
        super().__init__(channels, reduction, initial_gamma=initial_gamma, backend=backend)
        if loops < 1:
            raise ValueError(f"loops must be at least 1, got {loops}")
        self.loops = loops

    def attend(self, x: Tensor) -> Tensor:
        """Apply all loops in the operator's layout: ``[B, T, H, W, C]`` to the same shape."""
        for _ in range(self.loops):
            x = super().attend(x)
        return x
