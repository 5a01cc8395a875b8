"""Equal tensors with other memory layouts."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

# A layout maps contiguous [B, T, H, W, C] tensors to equal ones.
Layout = Callable[[list[Tensor]], list[Tensor]]


def permuted_memory(*order: int) -> Layout:
    """Return a layout with the axes B, T, H, W, C in the given order in memory."""
    inverse = [order.index(axis) for axis in range(5)]
    return lambda tensors: [x.permute(order).contiguous().permute(inverse) for x in tensors]


def one_projection(tensors: list[Tensor]) -> list[Tensor]:
    """Return slices of one tensor along the last axis."""
    return list(torch.cat(tensors, dim=-1).split([x.shape[-1] for x in tensors], dim=-1))


def every_second(axis: int) -> Layout:
    """Return a layout with every second entry of an axis; the gaps contain NaN."""

    def spread(x: Tensor) -> Tensor:
        with_gaps = torch.stack([x, torch.full_like(x, math.nan)], dim=axis + 1).flatten(axis, axis + 1)
        return with_gaps[(slice(None),) * axis + (slice(None, None, 2),)]

    return lambda tensors: [spread(x) for x in tensors]


def off_alignment(tensors: list[Tensor]) -> list[Tensor]:
    """Return views that start one element after the start of their memory."""
    return [torch.cat([x.new_zeros(1), x.flatten()])[1:].view(x.shape) for x in tensors]


LAYOUTS: dict[str, Layout] = {
    "channels first": permuted_memory(0, 4, 1, 2, 3),
    "frames apart": permuted_memory(1, 0, 2, 3, 4),
    "width before height": permuted_memory(0, 1, 3, 2, 4),
    "all axes reversed": permuted_memory(4, 3, 2, 1, 0),
    "slices of one projection": one_projection,
    "every second clip": every_second(0),
    "every second frame": every_second(1),
    "every second row": every_second(2),
    "every second column": every_second(3),
    "every second channel": every_second(4),
    "off alignment": off_alignment,
}
