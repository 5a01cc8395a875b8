"""Intersection over union and accuracies from confusion matrices.

Defined as in Long et al., Fully convolutional networks, CVPR 2015, section 5.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ccnet3d.constants import IGNORE_INDEX
from ccnet3d.metrics.meter import Meter, check_shapes

__all__ = [
    "ConfusionMeter",
    "class_accuracy",
    "class_iou",
    "confusion_matrix",
    "frequency_weighted_iou",
    "mean_class_accuracy",
    "mean_iou",
    "pixel_accuracy",
]


class ConfusionMeter(Meter):
    """Counts the labeled pixels of each frame by true and predicted class: ``[K, K]``.

    Args:
        num_classes: K.

    Example:
        >>> ConfusionMeter(2).update(torch.tensor([[0, 1]]), torch.tensor([[0, 0]])).tolist()
        [[1, 1], [0, 0]]
    """

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes

    def update(self, prediction: Tensor, labels: Tensor, image: Tensor | None = None) -> Tensor:
        """Return the frame's :func:`confusion_matrix`."""
        return confusion_matrix(prediction, labels, self.num_classes)


def confusion_matrix(prediction: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Count labeled pixels by true class (row) and predicted class (column).

    Args:
        prediction: class ids, integers of any shape.
        labels: class ids and IGNORE_INDEX, of the same shape.
        num_classes: K.

    Returns:
        int64 ``[K, K]``.

    Raises:
        ValueError: shapes that differ, or an id that is not a class.

    Example:
        >>> confusion_matrix(torch.tensor([0, 1, 1, 1]), torch.tensor([0, 0, 1, 255]), 2).tolist()
        [[1, 1], [0, 1]]
    """
    check_shapes(prediction, labels)
    labeled = labels != IGNORE_INDEX
    truth, predicted = labels[labeled].long(), prediction[labeled].long()
    for name, ids in (("labels", truth), ("prediction", predicted)):
        if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < num_classes:
            raise ValueError(
                f"{name} must contain class ids 0 to {num_classes - 1}, got {int(ids.min())} to {int(ids.max())}"
            )
    return torch.bincount(truth * num_classes + predicted, minlength=num_classes**2).view(num_classes, num_classes)


def class_iou(confusion: Tensor) -> Tensor:
    """Return IoU_c = TP / (TP + FP + FN) of each class, NaN for a class in neither labels nor predictions.

    Args:
        confusion: ``[..., K, K]``, the true class is the row.

    Returns:
        float64 ``[..., K]``.

    Example:
        >>> class_iou(torch.tensor([[3, 1, 0], [0, 1, 0], [0, 0, 0]])).tolist()
        [0.75, 0.5, nan]
    """
    counts = confusion.double()
    hits = counts.diagonal(dim1=-2, dim2=-1)
    return hits / (counts.sum(-1) + counts.sum(-2) - hits)


def mean_iou(confusion: Tensor) -> Tensor:
    """Return the mean IoU over the classes in labels or predictions, NaN where there are none.

    Args:
        confusion: ``[..., K, K]``.

    Returns:
        float64 ``[...]``.

    Example:
        >>> mean_iou(torch.tensor([[3, 1, 0], [0, 1, 0], [0, 0, 0]])).item()
        0.625
    """
    return class_iou(confusion).nanmean(-1)


def class_accuracy(confusion: Tensor) -> Tensor:
    """Return TP / (TP + FN) of each class, NaN for a class that is not in the labels.

    Args:
        confusion: ``[..., K, K]``.

    Returns:
        float64 ``[..., K]``.
    """
    counts = confusion.double()
    return counts.diagonal(dim1=-2, dim2=-1) / counts.sum(-1)


def mean_class_accuracy(confusion: Tensor) -> Tensor:
    """Return the mean accuracy over the classes in the labels, NaN where there are none.

    Args:
        confusion: ``[..., K, K]``.

    Returns:
        float64 ``[...]``.
    """
    return class_accuracy(confusion).nanmean(-1)


def pixel_accuracy(confusion: Tensor) -> Tensor:
    """Return the share of the labeled pixels that are right, NaN where none is labeled.

    Args:
        confusion: ``[..., K, K]``.

    Returns:
        float64 ``[...]``.
    """
    counts = confusion.double()
    return counts.diagonal(dim1=-2, dim2=-1).sum(-1) / counts.sum((-2, -1))


def frequency_weighted_iou(confusion: Tensor) -> Tensor:
    """Return the mean IoU weighted by each class's count of labeled pixels, NaN where none is labeled.

    Args:
        confusion: ``[..., K, K]``.

    Returns:
        float64 ``[...]``.
    """
    labeled = confusion.double().sum(-1)
    weighted = torch.where(labeled > 0, labeled * class_iou(confusion), 0)
    return weighted.sum(-1) / labeled.sum(-1)
