"""Boundary IoU: intersection over union of the pixels inside a class and close to its contour.

Cheng et al., Boundary IoU: Improving Object-Centric Image Segmentation Evaluation, CVPR 2021, equation 2, with the
distance of their code (boundary_utils.py of boundary-iou-api): 2 % of the image's diagonal, in a square neighborhood,
where the image's border is a contour too. Where we differ, because they score instances and we score classes:

- The mask is all pixels of a class in a frame, and intersection and union are added over frames, as mIoU adds them;
  they average over matched instances, and take the smaller of mask IoU and boundary IoU.
- The score is the mean over the classes with a union.
- Void belongs to no class, neither in the labels nor in the prediction, as in the boundary F-score: its outline is a
  contour of the classes around it, on both sides.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ccnet3d.constants import IGNORE_INDEX
from ccnet3d.metrics.meter import Meter, check_shapes

__all__ = ["BoundaryIou"]

_DISTANCE = 0.02
"""Largest distance of a pixel from the contour, as a share of the image's diagonal; the value of the paper's code."""

_OUTSIDE = -1


class BoundaryIou(Meter):
    """Counts intersection and union of each class's boundary pixels: ``[K, 2]``.

    Args:
        num_classes: K.
        distance: largest distance from the contour, as a share of the diagonal; rounded to whole pixels, at least 1.

    Raises:
        ValueError: a distance outside (0, 1).

    Example:
        >>> labels = torch.tensor([[0, 0, 0, 0, 1, 1, 1, 1]] * 8)
        >>> prediction = torch.tensor([[0, 0, 0, 0, 0, 1, 1, 1]] * 8)
        >>> BoundaryIou(2).update(prediction, labels).tolist()  # one pixel along the class's four sides
        [[14, 28], [12, 26]]
    """

    def __init__(self, num_classes: int, distance: float = _DISTANCE) -> None:
        if not 0 < distance < 1:
            raise ValueError(f"distance must be a share of the diagonal between 0 and 1, got {distance}")
        self.num_classes = num_classes
        self.distance = distance

    def update(self, prediction: Tensor, labels: Tensor, image: Tensor | None = None) -> Tensor:
        """Count the next frame.

        Returns:
            int64 ``[K, 2]``, for each class: boundary pixels in both prediction and labels, and in at least one of
            them.
        """
        check_shapes(prediction, labels)
        reach = max(1, round(self.distance * math.hypot(*labels.shape)))
        void = labels == IGNORE_INDEX
        predicted, true = prediction.masked_fill(void, IGNORE_INDEX), labels
        of_predicted, of_true = (~void & _near_contour(ids, reach) for ids in (predicted, true))
        both = of_predicted & of_true & (predicted == true)
        intersection, count_predicted, count_true = (
            torch.bincount(ids[where].long(), minlength=self.num_classes)
            for ids, where in ((true, both), (predicted, of_predicted), (true, of_true))
        )
        return torch.stack([intersection, count_predicted + count_true - intersection], dim=1)


def _near_contour(ids: Tensor, reach: int) -> Tensor:
    """Return where the square of ``reach`` pixels around a pixel of ``[H, W]`` contains another class or the outside.

    These are all classes' masks less their erosions by that square, in one pass.
    """
    padded = F.pad(ids.to(torch.int16), (reach,) * 4, value=_OUTSIDE)
    lowest, highest = (_sliding(padded, 2 * reach + 1, combine) for combine in (torch.minimum, torch.maximum))
    return lowest != highest


def _sliding(values: Tensor, size: int, combine: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Combine each square window of ``size`` pixels of ``[H, W]``: ``[H - size + 1, W - size + 1]``.

    Windows double in each step, so the cost grows with the logarithm of their size.
    """
    for dim in (0, 1):
        width = 1
        while width < size:
            step = min(width, size - width)
            count = values.shape[dim] - step
            values = combine(values.narrow(dim, 0, count), values.narrow(dim, step, count))
            width += step
    return values
