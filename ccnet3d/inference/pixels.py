"""Frames resized to the working size; logits to masks and probabilities."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["classify_at_size", "confidence_at_size", "quantize_probabilities", "resize_frame"]

_UNDECIDED = 255
"""Not a class id: there are at most 255 classes."""

_STRIP_ROWS = 64
"""Rows of a frame whose logits of all classes are in memory together."""


def resize_frame(frame: Tensor, size: tuple[int, int]) -> Tensor:
    """Return a frame, uint8 ``[3, H, W]``, at another size: bilinear with antialiasing, as the model receives it.

    >>> resize_frame(torch.full((3, 6, 8), 7, dtype=torch.uint8), (3, 4)).shape
    torch.Size([3, 3, 4])
    """
    if frame.shape[-2:] == size:
        return frame
    return F.interpolate(frame[None], size=size, mode="bilinear", antialias=True)[0]


def classify_at_size(logits: Tensor, size: tuple[int, int], *, align_corners: bool = False) -> Tensor:
    """Return the class ids ``[H, W]`` (uint8) of one frame from its logits ``[K, h, w]``, resized bilinearly first.

    A pixel's logits are a mean of those at four corners. Where the corners agree on the best class, it is the pixel's
    class, so that only pixels between classes, a few percent, need their logits.
    """
    (height, width), (classes_count, rows, columns) = size, logits.shape
    corners = logits.permute(1, 2, 0).reshape(-1, classes_count)  # [h * w, K]
    best = corners.argmax(-1).to(torch.uint8).view(rows, columns)
    below = torch.cat([best[1:], best[-1:]])
    right_of, diagonal = (torch.cat([ids[:, 1:], ids[:, -1:]], dim=1) for ids in (best, below))
    agreed = (best == below) & (best == right_of) & (best == diagonal)
    upper, lower, down = _neighbors(height, rows, logits.device, align_corners)
    left, right, across = _neighbors(width, columns, logits.device, align_corners)
    ids = best.masked_fill(~agreed, _UNDECIDED).index_select(1, left).index_select(0, upper).flatten()
    pixels = (ids == _UNDECIDED).nonzero()[:, 0]
    y, x = pixels // width, pixels % width

    def along(row: Tensor) -> Tensor:
        a, b = (corners.index_select(0, row * columns + column[x]) for column in (left, right))
        return torch.lerp(a, b, across[x, None])

    ids[pixels] = torch.lerp(along(upper[y]), along(lower[y]), down[y, None]).argmax(-1).to(torch.uint8)
    return ids.view(size)


def confidence_at_size(logits: Tensor, size: tuple[int, int], *, align_corners: bool = False) -> Tensor:
    """Return the probability of each pixel's class ``[H, W]`` from the logits ``[K, h, w]``, resized bilinearly first.

    That is the largest value of the softmax, so it is at least 1 / K. Each pixel's value is the same however the frame
    is divided into strips, which bound the memory.
    """
    (height, width), (_, rows, columns) = size, logits.shape
    upper, lower, down = _neighbors(height, rows, logits.device, align_corners)
    left, right, across = _neighbors(width, columns, logits.device, align_corners)
    wide = torch.lerp(logits.index_select(2, left), logits.index_select(2, right), across)  # [K, h, W]
    confidence = logits.new_empty(size)
    for start in range(0, height, _STRIP_ROWS):
        strip = slice(start, start + _STRIP_ROWS)
        above, below = (wide.index_select(1, row[strip]) for row in (upper, lower))
        resized = torch.lerp(above, below, down[strip, None])  # [K, rows of the strip, W]
        confidence[strip] = (resized.amax(0) - resized.logsumexp(0)).exp_()
    return confidence


def _neighbors(
    count: int, source_count: int, device: torch.device, align_corners: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return, for each of ``count`` rows or columns, the two source ones around it and the weight of the second."""
    place = torch.arange(count, device=device)
    if align_corners:
        center = place * ((source_count - 1) / max(1, count - 1))
    else:
        center = ((place + 0.5) * (source_count / count) - 0.5).clamp_(min=0)
    first = center.long().clamp_(max=source_count - 1)
    return first, (first + 1).clamp_(max=source_count - 1), center - first


def quantize_probabilities(logits: Tensor) -> Tensor:
    """Return the softmax over the classes of ``[K, h, w]``, in 255ths (uint8)."""
    return logits.softmax(0).mul_(255).round_().to(torch.uint8)
