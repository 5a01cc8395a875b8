"""Boundary F-score: how well predicted class boundaries match the true ones, regardless of the classes' areas.

Csurka et al., What is a good evaluation measure for semantic segmentation?, BMVC 2013, in the form that DAVIS gave it
(Perazzi et al., CVPR 2016; davis2017-evaluation, metrics.py) and Gated-SCNN applies class by class (Takikawa et al.,
ICCV 2019). Void belongs to no class, neither in the labels nor in the prediction, so predictions there do not matter.
We leave out classes without a boundary in both, where the DAVIS code counts 1.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ccnet3d.constants import IGNORE_INDEX
from ccnet3d.errors import UserError
from ccnet3d.metrics.meter import Meter, check_shapes

__all__ = ["BoundaryF", "boundary_f"]

_TOLERANCE = 0.008
"""Largest distance of matching boundary pixels, as a share of the image's diagonal; the value of DAVIS."""


class BoundaryF(Meter):
    """Counts boundary pixels of each class and those that have a match: ``[K, 4]``, see :func:`boundary_f`.

    Args:
        num_classes: K.
        tolerance: largest distance of matching boundary pixels, as a share of the diagonal; rounded up to whole pixels.

    Raises:
        ValueError: a tolerance outside (0, 1).
        UserError: scipy is not installed.

    Example:
        >>> labels = torch.tensor([[0, 0, 0, 0, 1, 1, 1, 1]])
        >>> BoundaryF(2, tolerance=0.1).update(torch.tensor([[0, 0, 0, 1, 1, 1, 1, 1]]), labels).tolist()
        [[1, 1, 1, 1], [1, 1, 1, 1]]
    """

    def __init__(self, num_classes: int, tolerance: float = _TOLERANCE) -> None:
        if not 0 < tolerance < 1:
            raise ValueError(f"tolerance must be a share of the diagonal between 0 and 1, got {tolerance}")
        try:
            from scipy import ndimage
        except ImportError as error:
            raise UserError(
                'the boundary F-score needs scipy, which is not installed: pip install "ccnet3d[evaluate]"'
            ) from error
        self._distances = ndimage.distance_transform_edt
        self.num_classes = num_classes
        self.tolerance = tolerance

    def update(self, prediction: Tensor, labels: Tensor, image: Tensor | None = None) -> Tensor:
        """Count the next frame.

        Returns:
            int64 ``[K, 4]``, for each class: predicted boundary pixels, how many of them are near a true one, true
            boundary pixels, how many of them are near a predicted one.
        """
        check_shapes(prediction, labels)
        reach = math.ceil(self.tolerance * math.hypot(*labels.shape))
        prediction = prediction.masked_fill(labels == IGNORE_INDEX, IGNORE_INDEX)
        counts = torch.zeros(self.num_classes, 4, dtype=torch.long)
        for k in torch.cat([prediction.unique(), labels.unique()]).unique().tolist():
            if k == IGNORE_INDEX:
                continue
            predicted, true = _boundary(prediction == k), _boundary(labels == k)
            rows, columns = (predicted | true).nonzero(as_tuple=True)
            if not len(rows):
                continue
            # The class has no boundary outside of this box.
            box = slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1)
            predicted, true = predicted[box], true[box]
            near = predicted & self._near(true, reach), true & self._near(predicted, reach)
            counts[k] = torch.stack([predicted.sum(), near[0].sum(), true.sum(), near[1].sum()])
        return counts

    def _near(self, boundary: Tensor, reach: int) -> Tensor:
        """Return where a boundary pixel is at most ``reach`` pixels away."""
        if not boundary.any():
            return boundary
        return torch.from_numpy(self._distances(~boundary.numpy()) <= reach)


def boundary_f(counts: Tensor) -> Tensor:
    """Return F-scores of boundaries, the harmonic mean of precision and recall.

    Args:
        counts: ``[..., 4]``, see :meth:`BoundaryF.update`.

    Returns:
        float64 ``[...]``, NaN without a boundary in either, 0 with one in only one of them.

    Example:
        >>> boundary_f(torch.tensor([[4, 4, 8, 4], [0, 0, 5, 0], [0, 0, 0, 0]])).tolist()
        [0.6666666666666666, 0.0, nan]
    """
    predicted, predicted_near, true, true_near = counts.double().unbind(-1)
    # Without a boundary on one side nothing is near: the other side's share is 0, and so is the score.
    precision, recall = predicted_near / predicted.clamp(min=1), true_near / true.clamp(min=1)
    score = 2 * precision * recall / (precision + recall).clamp(min=1e-300)
    return torch.where(predicted + true > 0, score, torch.nan)


def _boundary(region: Tensor) -> Tensor:
    """Return the pixels of bool ``[H, W]`` that differ from their right, lower or lower right neighbor.

    As seg2bmap of DAVIS.
    """
    edge = torch.zeros_like(region)
    edge[:, :-1] |= region[:, :-1] ^ region[:, 1:]
    edge[:-1] |= region[:-1] ^ region[1:]
    edge[:-1, :-1] |= region[:-1, :-1] ^ region[1:, 1:]
    return edge
