"""Temporal smoothing without optical flow: average over time where the picture stands still."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

_COLOR_SCALE = 10.0
"""Difference of two frames' colours, in 255ths, at which one counts 0.6 for the other: a few times a camera's noise."""


class GuidedLogits(NamedTuple):
    number: int
    """Of the frame in the stream."""
    logits: Tensor
    """float32 ``[K, h, w]``."""
    picture: Tensor
    """uint8 ``[3, H, W]``, the frame, at any size."""


def smooth(frames: Iterable[GuidedLogits], radius: int, *, causal: bool = False) -> Iterator[tuple[int, Tensor]]:
    """Average each frame's logits with those of its neighbours in time, pixel by pixel.

    A neighbour ``d`` frames away has the weight ``(1 - d / (radius + 1)) * exp(-|a - b|^2 / (2 * s^2))``, with the mean
    square over R, G and B of the difference of the two pictures' pixels at the logits' size, and s = 10 of 255. So what
    moves is left as it is. The window is finite, so that an answer depends on ``radius`` frames on each side only.

    Args:
        frames: numbered without gaps.
        radius: neighbours on each side.
        causal: only neighbours before the frame.

    Yields:
        Number and smoothed logits ``[K, h, w]`` of every frame, in order.
    """
    window: deque[tuple[int, Tensor, Tensor]] = deque(maxlen=radius + 1 if causal else 2 * radius + 1)
    ahead = 0 if causal else radius
    answered = None
    for frame in frames:
        guide = F.interpolate(frame.picture[None].to(frame.logits), size=frame.logits.shape[-2:], mode="area")[0]
        window.append((frame.number, frame.logits, guide))
        if answered is None:
            answered = frame.number - 1
        if frame.number - ahead > answered:
            answered += 1
            yield answered, _average(window, answered, radius)
    while answered is not None and answered < window[-1][0]:
        answered += 1
        yield answered, _average(window, answered, radius)


def _average(window: Iterable[tuple[int, Tensor, Tensor]], number: int, radius: int) -> Tensor:
    members = [member for member in window if abs(member[0] - number) <= radius]
    guide = next(guide for n, _, guide in members if n == number)
    weights = []
    for n, _, other in members:
        difference = (other - guide).square_().mean(0) / (2 * _COLOR_SCALE**2)
        weights.append(difference.neg_().exp_().mul_(1 - abs(n - number) / (radius + 1)))
    total = torch.stack(weights).sum(0)
    average = torch.zeros_like(members[0][1])
    for weight, (_, logits, _) in zip(weights, members, strict=True):
        average.addcmul_(logits, weight / total)
    return average
