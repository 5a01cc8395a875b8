"""The Lovasz-softmax loss: a surrogate of 1 - mIoU that can be optimized.

Axes: N frames (B*T), K classes, H height, W width, P labeled pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ccnet3d.constants import IGNORE_INDEX
from ccnet3d.losses.interface import LossInputs, LossValue

__all__ = ["LovaszLoss", "lovasz_softmax"]


@dataclass(frozen=True)
class LovaszLoss:
    """Section ``[losses.lovasz]`` of a recipe."""

    weight: float
    """Factor of the loss."""

    def __call__(self, inputs: LossInputs) -> LossValue:
        loss = lovasz_softmax(inputs.logits, inputs.labels)
        return LossValue(loss, {"lovasz": loss})


def lovasz_softmax(logits: Tensor, labels: Tensor, *, max_pixels: int = 65536) -> Tensor:
    """Return the Lovasz extension of 1 - mIoU (Berman et al., CVPR 2018, equations 8 to 12), over classes present.

    It is computed over all pixels of a batch together; a random ``max_pixels`` of them keeps the sort cheap.

    >>> labels = torch.tensor([[[0, 1]]])
    >>> lovasz_softmax(torch.tensor([[[[9.0, -9.0]], [[-9.0, 9.0]]]]), labels).item() < 1e-6  # the prediction is right
    True

    Args:
        logits: ``[N, K, H, W]``.
        labels: int64 ``[N, H, W]``, class ids and IGNORE_INDEX.
        max_pixels: largest number of pixels to use.

    Returns:
        A scalar in [0, 1]; 0 if no pixel is labeled.
    """
    positions = torch.nonzero(labels.flatten() != IGNORE_INDEX).squeeze(1)
    if positions.numel() > max_pixels:
        positions = positions[torch.randperm(positions.numel(), device=positions.device)[:max_pixels]]
    if positions.numel() == 0:
        return logits.sum() * 0
    pixels = labels[0].numel()
    picked = logits.flatten(2)[positions // pixels, :, positions % pixels]  # [P, K]
    probabilities = picked.float().softmax(1).T  # [K, P]
    truth = F.one_hot(labels.flatten()[positions], logits.shape[1]).T.to(probabilities.dtype)  # [K, P]
    present = truth.sum(1) > 0
    errors, order = (truth - probabilities).abs()[present].sort(dim=1, descending=True)
    truth = truth[present].gather(1, order)
    # Jaccard loss of every prefix of the sorted errors, then its differences: the extension's gradient.
    positives = truth.sum(1, keepdim=True)
    intersection = positives - truth.cumsum(1)
    union = positives + (1 - truth).cumsum(1)
    jaccard = 1 - intersection / union
    gradient = torch.cat([jaccard[:, :1], jaccard.diff(dim=1)], dim=1)
    return (errors * gradient).sum(1).mean()
