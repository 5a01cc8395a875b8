"""What the model says about one frame."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ccnet3d.constants import IGNORE_INDEX
from ccnet3d.errors import explain_out_of_memory
from ccnet3d.inference.pixels import classify_at_size, confidence_at_size, quantize_probabilities

__all__ = ["LESS_MEMORY", "AveragedPrediction", "Prediction"]

LESS_MEMORY = "use a smaller --input-size, --clip-length or --batch, or another --device"


class Prediction(NamedTuple):
    """What the model says about one frame."""

    frame_index: int
    """In the stream."""
    logits: Tensor
    """float32 ``[K, h, w]`` at the decoder's stride, blended over clips, on the model's device."""
    size: tuple[int, int]
    """Height and width of the frame in pixels."""
    align_corners: bool = False
    """How the model enlarges its logits; see :class:`ccnet3d.models.ModelConfig`."""

    @explain_out_of_memory(LESS_MEMORY)
    def mask(self, min_confidence: float = 0.0) -> np.ndarray:
        """Return the class ids, uint8 ``[H, W]`` at the frame's size.

        Args:
            min_confidence: pixels become 255 if the probability of their class is less than this. It is the softmax of
                the logits of which the class is the largest: those resized to the frame.
        """
        ids = classify_at_size(self.logits, self.size, align_corners=self.align_corners)
        if min_confidence > 0:
            confidence = confidence_at_size(self.logits, self.size, align_corners=self.align_corners)
            ids = ids.masked_fill(confidence < min_confidence, IGNORE_INDEX)
        return ids.cpu().numpy()

    def probabilities(self) -> np.ndarray:
        """Return the class probabilities in 255ths, uint8 ``[K, h, w]``."""
        return quantize_probabilities(self.logits).cpu().numpy()


class AveragedPrediction(NamedTuple):
    """What several views of one frame say together."""

    frame_index: int
    """In the stream."""
    total: Tensor
    """float32 ``[K, H, W]``, the sum of the views' probabilities at the frame's size."""
    views: int
    """Their number."""

    def mask(self, min_confidence: float = 0.0) -> np.ndarray:
        """Return the class ids, uint8 ``[H, W]``; pixels become 255 where no mean probability is ``min_confidence``."""
        largest, ids = self.total.max(0)
        ids = ids.to(torch.uint8)
        if min_confidence > 0:
            ids = ids.masked_fill(largest < min_confidence * self.views, IGNORE_INDEX)
        return ids.cpu().numpy()

    def probabilities(self) -> np.ndarray:
        """Return the mean class probabilities in 255ths, uint8 ``[K, H, W]``."""
        return (self.total * (255 / self.views)).round_().to(torch.uint8).cpu().numpy()
