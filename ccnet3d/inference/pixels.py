"""Pictures to the working size, logits to masks and probabilities."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_UNDECIDED = 255
"""No class id: there are at most 255 classes."""


def resize_frame(frame: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear resize of uint8 ``[3, H, W]`` with antialiasing, as frames come to the model."""
    if frame.shape[-2:] == size:
        return frame
    return F.interpolate(frame[None], size=size, mode="bilinear", antialias=True)[0]


def classify_at_size(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Class ids ``[H, W]`` (uint8) of one frame from its logits ``[K, h, w]``, resized bilinearly before the decision.

    A pixel's logits are a mean of those of four corners. Where the corners agree on the best class, it is the pixel's,
    so that only pixels between classes, a few in a hundred, need their logits.
    """
    (height, width), (classes_count, rows, columns) = size, logits.shape
    corners = logits.permute(1, 2, 0).reshape(-1, classes_count)  # [h * w, K]
    best = corners.argmax(-1).to(torch.uint8).view(rows, columns)
    below = torch.cat([best[1:], best[-1:]])
    beside, diagonal = (torch.cat([ids[:, 1:], ids[:, -1:]], dim=1) for ids in (best, below))
    agreed = (best == below) & (best == beside) & (best == diagonal)
    upper, lower, down = _neighbours(height, rows, logits.device)
    left, right, across = _neighbours(width, columns, logits.device)
    ids = best.masked_fill(~agreed, _UNDECIDED).index_select(1, left).index_select(0, upper).flatten()
    pixels = (ids == _UNDECIDED).nonzero()[:, 0]
    y, x = pixels // width, pixels % width

    def along(row: Tensor) -> Tensor:
        a, b = (corners.index_select(0, row * columns + column[x]) for column in (left, right))
        return torch.lerp(a, b, across[x, None])

    ids[pixels] = torch.lerp(along(upper[y]), along(lower[y]), down[y, None]).argmax(-1).to(torch.uint8)
    return ids.view(size)


def _neighbours(count: int, source_count: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """For each of ``count`` places the two places before resizing that it lies between, and its share of the second.

    As in bilinear interpolation without aligned corners.
    """
    place = ((torch.arange(count, device=device) + 0.5) * (source_count / count) - 0.5).clamp_(min=0)
    first = place.long().clamp_(max=source_count - 1)
    return first, (first + 1).clamp_(max=source_count - 1), place - first


def quantize_probabilities(logits: Tensor) -> Tensor:
    """Softmax over the classes of ``[K, h, w]``, in 255ths (uint8)."""
    return logits.softmax(0).mul_(255).round_().to(torch.uint8)
