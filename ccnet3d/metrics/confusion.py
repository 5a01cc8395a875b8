"""Intersection over union and accuracies from confusion matrices: pooled, per frame, per video.

As Long et al., Fully convolutional networks, CVPR 2015, section 5, define them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ccnet3d.constants import IGNORE_INDEX


def confusion_matrix(prediction: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Count labelled pixels by true class (row) and predicted class (column).

    Args:
        prediction: class ids, integers of any shape.
        labels: class ids and IGNORE_INDEX, of the same shape.
        num_classes: K.

    Returns:
        int64 ``[K, K]``.

    Raises:
        ValueError: shapes that differ, or an id that is no class.
    """
    if prediction.shape != labels.shape:
        raise ValueError(
            f"prediction and labels must have one shape, got {tuple(prediction.shape)} and {tuple(labels.shape)}"
        )
    labelled = labels != IGNORE_INDEX
    truth, predicted = labels[labelled].long(), prediction[labelled].long()
    for name, ids in (("labels", truth), ("prediction", predicted)):
        if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < num_classes:
            raise ValueError(
                f"{name} must hold class ids 0 to {num_classes - 1}, got {int(ids.min())} to {int(ids.max())}"
            )
    return torch.bincount(truth * num_classes + predicted, minlength=num_classes**2).view(num_classes, num_classes)


def class_iou(confusion: Tensor) -> Tensor:
    """IoU_c = TP / (TP + FP + FN) of each class, NaN for a class in neither labels nor predictions.

    Args:
        confusion: ``[..., K, K]``, row the true class.

    Returns:
        float64 ``[..., K]``.
    """
    counts = confusion.double()
    hits = counts.diagonal(dim1=-2, dim2=-1)
    return hits / (counts.sum(-1) + counts.sum(-2) - hits)


def mean_iou(confusion: Tensor) -> Tensor:
    """Mean IoU over the classes present in labels or predictions, NaN where there is none.

    Args:
        confusion: ``[..., K, K]``.

    Returns:
        float64 ``[...]``.
    """
    return class_iou(confusion).nanmean(-1)


def class_accuracy(confusion: Tensor) -> Tensor:
    """TP / (TP + FN) of each class, NaN for a class that is not in the labels.

    Args:
        confusion: ``[..., K, K]``, row the true class.

    Returns:
        float64 ``[..., K]``.
    """
    counts = confusion.double()
    return counts.diagonal(dim1=-2, dim2=-1) / counts.sum(-1)


def pixel_accuracy(confusion: Tensor) -> Tensor:
    """Share of the labelled pixels that are right, NaN where none is labelled.

    Args:
        confusion: ``[..., K, K]``.

    Returns:
        float64 ``[...]``.
    """
    counts = confusion.double()
    return counts.diagonal(dim1=-2, dim2=-1).sum(-1) / counts.sum((-2, -1))


def frequency_weighted_iou(confusion: Tensor) -> Tensor:
    """Mean IoU in which each class weighs as many pixels as are labelled so, NaN where none is labelled.

    Args:
        confusion: ``[..., K, K]``, row the true class.

    Returns:
        float64 ``[...]``.
    """
    labelled = confusion.double().sum(-1)
    weighted = torch.where(labelled > 0, labelled * class_iou(confusion), 0)
    return weighted.sum(-1) / labelled.sum(-1)
