"""Pictures to the working size, logits to masks and probabilities."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_BAND_PIXELS = 1 << 17
"""Pixels of a mask that are decided together: what one class needs for them stays in a CPU's cache."""


def resize_frame(frame: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear resize of uint8 ``[3, H, W]`` with antialiasing, as frames come to the model."""
    if frame.shape[-2:] == size:
        return frame
    return F.interpolate(frame[None], size=size, mode="bilinear", antialias=True)[0]


def classify_at_size(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Class ids ``[H, W]`` (uint8) of one frame from its logits ``[K, h, w]``, resized bilinearly before the decision.

    Works in bands of rows and class by class, so that memory does not grow with K times the frame.
    """
    height, width = size
    ids = torch.empty(size, dtype=torch.uint8, device=logits.device)
    rows = max(1, _BAND_PIXELS // width)
    # Source row of each row, as bilinear interpolation without aligned corners has it.
    source = ((torch.arange(height, device=logits.device) + 0.5) * (logits.shape[1] / height) - 0.5).clamp_(min=0)
    upper = source.long().clamp_(max=logits.shape[1] - 1)
    lower = (upper + 1).clamp_(max=logits.shape[1] - 1)
    share = (source - upper).to(logits.dtype)[:, None]
    for start in range(0, height, rows):
        band = slice(start, start + rows)
        best: Tensor | None = None
        for class_id, plane in enumerate(logits):
            mixed = torch.lerp(plane[upper[band]], plane[lower[band]], share[band])
            wide = F.interpolate(mixed[None], size=width, mode="linear", align_corners=False)[0]
            if best is None:
                best, band_ids = wide, torch.zeros(wide.shape, dtype=torch.uint8, device=wide.device)
            else:
                band_ids.masked_fill_(wide > best, class_id)  # a tie goes to the lower id, as in argmax
                best = torch.maximum(best, wide)
        ids[band] = band_ids
    return ids


def quantize_probabilities(logits: Tensor) -> Tensor:
    """Softmax over the classes of ``[K, h, w]``, in 255ths (uint8)."""
    return logits.softmax(0).mul_(255).round_().to(torch.uint8)
