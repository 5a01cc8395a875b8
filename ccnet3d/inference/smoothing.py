"""Temporal smoothing without optical flow: an average over time where the picture stands still."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["GuidedLogits", "smooth"]

_COLOR_SCALE = 10.0
"""Difference of two frames' colors, in 255ths, at which a neighbor's weight is 0.6: a few times a camera's noise."""


class GuidedLogits(NamedTuple):
    """A frame's logits, and the picture that guides their smoothing."""

    frame_index: int
    """In the stream."""
    logits: Tensor
    """float32 ``[K, h, w]``."""
    picture: Tensor
    """The frame, uint8 ``[3, H, W]``, at any size."""


def smooth(frames: Iterable[GuidedLogits], radius: int, *, causal: bool = False) -> Iterator[tuple[int, Tensor]]:
    """Average each frame's logits with those of its neighbors in time, pixel by pixel.

    A neighbor ``d`` frames away has the weight ``(1 - d / (radius + 1)) * exp(-|a - b|^2 / (2 * s^2))``, with the mean
    square over R, G and B of the difference of the two pictures' pixels at the logits' size, and s = 10 of 255. So
    whatever moves stays unchanged. The window is finite: a result depends on ``radius`` frames on each side only.

    Args:
        frames: consecutive frames.
        radius: neighbors on each side.
        causal: use only neighbors before the frame.

    Yields:
        Frame index and smoothed logits ``[K, h, w]`` of every frame, in order.

    >>> picture = torch.zeros(3, 1, 1, dtype=torch.uint8)
    >>> frames = [GuidedLogits(i, torch.full((1, 1, 1), value), picture) for i, value in enumerate([0.0, 4.0, 0.0])]
    >>> [round(logits.item(), 3) for _, logits in smooth(frames, radius=1)]
    [1.333, 2.0, 1.333]
    """
    window: deque[GuidedLogits] = deque(maxlen=radius + 1 if causal else 2 * radius + 1)
    ahead = 0 if causal else radius
    next_index = None
    for frame in frames:
        window.append(frame._replace(picture=_guide(frame)))
        if next_index is None:
            next_index = frame.frame_index
        if frame.frame_index - ahead >= next_index:
            yield next_index, _average(window, next_index, radius)
            next_index += 1
    while next_index is not None and next_index <= window[-1].frame_index:
        yield next_index, _average(window, next_index, radius)
        next_index += 1


def _guide(frame: GuidedLogits) -> Tensor:
    """Return the picture at the size of the logits, each of its values the mean over a cell."""
    picture, (height, width) = frame.picture, frame.logits.shape[-2:]
    rows, columns = picture.shape[-2] // height, picture.shape[-1] // width
    if picture.shape[-2:] == (rows * height, columns * width):  # the same to the bit, and faster: sums of integers
        sums = picture.unflatten(1, (height, rows)).sum(2, dtype=torch.int32).unflatten(2, (width, columns)).sum(3)
        return sums.to(frame.logits).div_(rows * columns)
    return F.interpolate(picture[None].to(frame.logits), size=(height, width), mode="area")[0]


def _average(window: Iterable[GuidedLogits], index: int, radius: int) -> Tensor:
    """Return the weighted mean of the logits around a frame; the window's pictures are at the logits' size."""
    members = [member for member in window if abs(member.frame_index - index) <= radius]
    guide = next(member.picture for member in members if member.frame_index == index)
    weights = []
    for member in members:
        difference = (member.picture - guide).square_().mean(0) / (2 * _COLOR_SCALE**2)
        weights.append(difference.neg_().exp_().mul_(1 - abs(member.frame_index - index) / (radius + 1)))
    total = torch.stack(weights).sum(0)
    average = torch.zeros_like(members[0].logits)
    for weight, member in zip(weights, members, strict=True):
        average.addcmul_(member.logits, weight / total)
    return average
