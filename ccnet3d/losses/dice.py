"""The soft Dice loss.

Axes: N frames (B*T), K classes, H height, W width, P labeled pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ccnet3d.constants import IGNORE_INDEX
from ccnet3d.losses.interface import LossInputs, LossValue

__all__ = ["DiceLoss", "dice_loss"]


@dataclass(frozen=True)
class DiceLoss:
    """Section ``[losses.dice]`` of a recipe."""

    weight: float
    """Factor of the loss."""

    def __call__(self, inputs: LossInputs) -> LossValue:
        loss = dice_loss(inputs.logits, inputs.labels)
        return LossValue(loss, {"dice": loss})


def dice_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return 1 minus the soft Dice coefficient, the mean over classes present.

    The Dice coefficient ``D = 2 sum(p g) / (sum(p^2) + sum(g^2))`` is that of Milletari et al. (V-Net, 3DV 2016,
    arXiv 1606.04797, section 3), with probabilities p and truth g, 0 or 1. The paper segments foreground from
    background and maximizes D of the foreground of each volume. Here p is the softmax over K classes, D is computed
    for each class that occurs in the labels, and the sums run over all labeled pixels of the batch: a class that is
    rare in each frame still has many pixels.

    >>> labels = torch.tensor([[[0, 1]]])
    >>> dice_loss(torch.zeros(1, 2, 1, 2), labels)  # p = 0.5: 1 - 2 * 0.5 / (2 * 0.25 + 1)
    tensor(0.3333)

    Args:
        logits: ``[N, K, H, W]``; computed in float32 or wider.
        labels: int64 ``[N, H, W]``, class ids and IGNORE_INDEX.

    Returns:
        A scalar in [0, 1]; 0 if no pixel is labeled.
    """
    labeled = labels != IGNORE_INDEX
    if not labeled.any():
        return logits.sum() * 0
    picked = logits.movedim(1, -1)[labeled]  # [N, K, H, W] -> [P, K]
    probabilities = picked.to(torch.promote_types(picked.dtype, torch.float32)).softmax(1)
    truth = F.one_hot(labels[labeled], logits.shape[1]).to(probabilities.dtype)  # [P, K]
    pixels = truth.sum(0)  # [K], also the sum of squares
    overlap, squares = (probabilities * truth).sum(0), probabilities.square().sum(0)
    # Absent classes are dropped before the division: 0 / 0 would have no gradient even if it is not used.
    present = pixels > 0
    dice = 2 * overlap[present] / (squares[present] + pixels[present])
    return 1 - dice.mean()
