"""Losses for class logits and labels with ignored pixels.

Axes: N frames (B*T), K classes, H height, W width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ccnet3d.constants import IGNORE_INDEX


def cross_entropy(
    logits: Tensor,
    labels: Tensor,
    *,
    class_weights: Tensor | None = None,
    label_smoothing: float = 0.0,
    hard_threshold: float = 0.0,
    hard_pixels: int = 0,
) -> Tensor:
    """Mean cross-entropy of the labelled pixels, or of the hard ones among them.

    With ``hard_pixels`` above 0 it is OHEM as CCNet's code has it: only pixels whose probability for the true
    class is at most ``hard_threshold`` count, and at least the ``hard_pixels`` hardest ones. Smoothing of the labels
    does not change which those are.

    Args:
        logits: ``[N, K, H, W]``.
        labels: int64 ``[N, H, W]``, class ids and IGNORE_INDEX.
        class_weights: ``[K]``; pixels are averaged with the weight of their class.
        label_smoothing: share of the target in [0, 1) that all classes have alike, as PyTorch defines it.
        hard_threshold: probability in [0, 1].
        hard_pixels: number of pixels; 0 counts all.

    Returns:
        A scalar; 0 where no pixel is labelled.
    """
    losses = F.cross_entropy(
        logits,
        labels,
        weight=class_weights,
        ignore_index=IGNORE_INDEX,
        reduction="none",
        label_smoothing=label_smoothing,
    )
    labelled = labels != IGNORE_INDEX
    weights = labelled.to(losses.dtype) if class_weights is None else _gather(class_weights, labels) * labelled
    if hard_pixels > 0:
        with torch.no_grad():
            true_probability = torch.exp(-F.cross_entropy(logits, labels, ignore_index=IGNORE_INDEX, reduction="none"))
            candidates = true_probability[labelled]
            kept = min(hard_pixels, candidates.numel())
            if kept:
                # At least `kept` pixels are at or below the probability of the kept-th hardest.
                threshold = max(hard_threshold, float(candidates.kthvalue(kept).values))
                weights = weights * (true_probability <= threshold)
        losses = losses * (weights > 0)
    return losses.sum() / weights.sum().clamp_min(torch.finfo(losses.dtype).tiny)


def lovasz_softmax(logits: Tensor, labels: Tensor, *, max_pixels: int = 65536) -> Tensor:
    """The Lovasz extension of 1 - mIoU (Berman et al., CVPR 2018, equations 8 to 12), over classes present.

    It is computed for all pixels of a batch together; a random ``max_pixels`` of them keeps the sort cheap.

    Args:
        logits: ``[N, K, H, W]``.
        labels: int64 ``[N, H, W]``, class ids and IGNORE_INDEX.
        max_pixels: upper limit of the pixels that are looked at.

    Returns:
        A scalar in [0, 1]; 0 where no pixel is labelled.
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


def balanced_class_weights(pixel_counts: Tensor, offset: float) -> Tensor:
    """Weights 1 / ln(offset + p) of classes with pixel share p (ENet, arXiv 1606.02147), scaled to mean 1.

    Args:
        pixel_counts: ``[K]`` labelled pixels of each class.
        offset: above 1; the nearer to 1, the more rare classes weigh.

    Raises:
        ValueError: an offset of 1 or less.
    """
    if offset <= 1:
        raise ValueError(f"the offset of balanced class weights must be above 1, got {offset}")
    share = pixel_counts.double() / pixel_counts.sum().clamp_min(1)
    weights = 1 / torch.log(offset + share)
    return (weights / weights.mean()).float()


def _gather(class_weights: Tensor, labels: Tensor) -> Tensor:
    return class_weights[labels.where(labels != IGNORE_INDEX, 0)]
