"""Cross-entropy of the class logits, with OHEM, label smoothing and class weights.

Axes: N frames (B*T), K classes, H height, W width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ccnet3d.constants import IGNORE_INDEX
from ccnet3d.errors import UserError
from ccnet3d.losses.interface import LossInputs, LossValue

__all__ = ["CrossEntropyLoss", "balanced_class_weights", "cross_entropy"]


@dataclass(frozen=True)
class CrossEntropyLoss:
    """Section ``[losses.cross_entropy]`` of a recipe: the cross-entropies of the main and the auxiliary classifier.

    >>> logits, labels = torch.zeros(2, 4, 6, 8), torch.zeros(2, 6, 8, dtype=torch.long)
    >>> loss = CrossEntropyLoss(auxiliary_weight=0.4)(LossInputs(logits, logits, labels))
    >>> round(loss.value.item(), 4), round(1.4 * math.log(4), 4)
    (1.9408, 1.9408)
    """

    weight: float = 1.0
    """Factor of the sum of both."""
    auxiliary_weight: float = 0.4
    """Factor of the auxiliary classifier's cross-entropy within the sum."""
    label_smoothing: float = 0.0
    """Share of the target that is spread evenly over all classes."""
    hard_threshold: float = 0.7
    """OHEM: pixels count whose probability of the true class is at most this."""
    hard_pixels: int = 0
    """OHEM: at least this many pixels of a step count; 0 switches OHEM off."""

    def __post_init__(self) -> None:
        if not self.auxiliary_weight >= 0:
            raise UserError(f"losses.cross_entropy.auxiliary_weight must be at least 0, got {self.auxiliary_weight}")
        if not 0 <= self.label_smoothing < 1:
            raise UserError(f"losses.cross_entropy.label_smoothing must be in [0, 1), got {self.label_smoothing}")

    def __call__(self, inputs: LossInputs) -> LossValue:
        main, auxiliary = (
            cross_entropy(
                logits,
                inputs.labels,
                class_weights=inputs.class_weights,
                label_smoothing=self.label_smoothing,
                hard_threshold=self.hard_threshold,
                hard_pixels=math.ceil(self.hard_pixels / inputs.parts),  # each part finds its share of them
            )
            for logits in (inputs.logits, inputs.auxiliary)
        )
        return LossValue(main + self.auxiliary_weight * auxiliary, {"cross_entropy": main, "auxiliary": auxiliary})


def cross_entropy(
    logits: Tensor,
    labels: Tensor,
    *,
    class_weights: Tensor | None = None,
    label_smoothing: float = 0.0,
    hard_threshold: float = 0.0,
    hard_pixels: int = 0,
) -> Tensor:
    """Return the mean cross-entropy of the labeled pixels, or of the hard ones among them.

    With ``hard_pixels`` above 0 this is OHEM as in CCNet's code: only pixels whose probability of the true class is
    at most ``hard_threshold`` count, and at least the ``hard_pixels`` hardest ones. Label smoothing does not change
    which pixels are hard.

    >>> cross_entropy(torch.zeros(1, 4, 2, 2), torch.zeros(1, 2, 2, dtype=torch.long))
    tensor(1.3863)

    Args:
        logits: ``[N, K, H, W]``.
        labels: int64 ``[N, H, W]``, class ids and IGNORE_INDEX.
        class_weights: ``[K]``; pixels are averaged with the weight of their class.
        label_smoothing: share of the target in [0, 1) that is spread evenly over all classes, as PyTorch defines it.
        hard_threshold: probability in [0, 1].
        hard_pixels: number of pixels; 0 counts all.

    Returns:
        A scalar; 0 if no pixel is labeled.
    """
    losses = F.cross_entropy(
        logits,
        labels,
        weight=class_weights,
        ignore_index=IGNORE_INDEX,
        reduction="none",
        label_smoothing=label_smoothing,
    )
    labeled = labels != IGNORE_INDEX
    weights = labeled.to(losses.dtype) if class_weights is None else _gather(class_weights, labels) * labeled
    if hard_pixels > 0:
        with torch.no_grad():
            true_probability = torch.exp(-F.cross_entropy(logits, labels, ignore_index=IGNORE_INDEX, reduction="none"))
            candidates = true_probability[labeled]
            kept = min(hard_pixels, candidates.numel())
            if kept:
                # At least `kept` pixels are at or below the probability of the kept-th hardest.
                threshold = max(hard_threshold, float(candidates.kthvalue(kept).values))
                weights = weights * (true_probability <= threshold)
        losses = losses * (weights > 0)
    return losses.sum() / weights.sum().clamp_min(torch.finfo(losses.dtype).tiny)


def balanced_class_weights(pixel_counts: Tensor, offset: float) -> Tensor:
    """Return weights 1 / ln(offset + p) of classes with pixel share p (ENet, arXiv 1606.02147), scaled to mean 1.

    >>> balanced_class_weights(torch.tensor([900, 100]), offset=1.1)
    tensor([0.4165, 1.5835])

    Args:
        pixel_counts: ``[K]`` labeled pixels of each class.
        offset: above 1; the closer to 1, the larger the weights of rare classes.

    Raises:
        ValueError: an offset of 1 or less.
    """
    if not offset > 1:
        raise ValueError(f"the offset of balanced class weights must be above 1, got {offset}")
    share = pixel_counts.double() / pixel_counts.sum().clamp_min(1)
    weights = 1 / torch.log(offset + share)
    return (weights / weights.mean()).float()


def _gather(class_weights: Tensor, labels: Tensor) -> Tensor:
    return class_weights[labels.where(labels != IGNORE_INDEX, 0)]
