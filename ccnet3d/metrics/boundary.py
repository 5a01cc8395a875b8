"""Boundary F-score: how well the outline of each class is met, whatever its area. Streaming, in constant memory.

Csurka et al., What is a good evaluation measure for semantic segmentation?, BMVC 2013, in the form that DAVIS gave it
(Perazzi et al., CVPR 2016; davis2017-evaluation, metrics.py) and Gated-SCNN applies class by class (Takikawa et al.,
ICCV 2019): void belongs to no class, in the labels and in the prediction alike, so that what is predicted there does
not matter. We leave out classes without a boundary in both, where the DAVIS code counts 1.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ccnet3d.constants import IGNORE_INDEX

TOLERANCE = 0.008
"""Share of the image's diagonal within which boundaries meet, as in DAVIS."""


class BoundaryScore:
    """The F-score of each class's boundary, its mean over frames, then over classes.

    Args:
        num_classes: K.
        tolerance: how far apart boundaries meet, as a share of the diagonal; rounded up to whole pixels.

    Raises:
        ValueError: a tolerance outside (0, 1), or scipy is not installed.
    """

    def __init__(self, num_classes: int, tolerance: float = TOLERANCE) -> None:
        if not 0 < tolerance < 1:
            raise ValueError(f"tolerance must be a share of the diagonal between 0 and 1, got {tolerance}")
        try:
            from scipy import ndimage
        except ImportError as error:
            raise ValueError(
                'boundaries are compared by scipy, which is not installed: pip install "ccnet3d[evaluate]"'
            ) from error
        self._distances = ndimage.distance_transform_edt
        self.num_classes = num_classes
        self.tolerance = tolerance
        self._sums = torch.zeros(num_classes, dtype=torch.double)
        self._frames = torch.zeros(num_classes, dtype=torch.long)

    def update(self, prediction: Tensor, labels: Tensor) -> Tensor:
        """Add a frame.

        Args:
            prediction: class ids, integers ``[H, W]``.
            labels: class ids and IGNORE_INDEX, of the same shape.

        Returns:
            What the frame adds, for :func:`boundary_f`: int64 ``[K, 4]``, of each class the predicted boundary pixels,
            those of them near a true one, the true boundary pixels, those of them near a predicted one.

        Raises:
            ValueError: shapes that differ.
        """
        if prediction.shape != labels.shape:
            raise ValueError(
                f"prediction and labels must have one shape, got {tuple(prediction.shape)} and {tuple(labels.shape)}"
            )
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
            # The rest of the picture holds no boundary of the class.
            box = slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1)
            predicted, true = predicted[box], true[box]
            near = predicted & self._near(true, reach), true & self._near(predicted, reach)
            counts[k] = torch.stack([predicted.sum(), near[0].sum(), true.sum(), near[1].sum()])
        scores = boundary_f(counts)
        self._sums += scores.nan_to_num(0)
        self._frames += ~scores.isnan()
        return counts

    def _near(self, boundary: Tensor, reach: int) -> Tensor:
        """Where a boundary pixel is at most ``reach`` pixels away."""
        if not boundary.any():
            return boundary
        return torch.from_numpy(self._distances(~boundary.numpy()) <= reach)

    @property
    def per_class(self) -> Tensor:
        """float64 ``[K]``, NaN for a class that never had a boundary."""
        return self._sums / self._frames

    @property
    def score(self) -> float:
        """Mean over classes, NaN where none had a boundary."""
        return float(self.per_class.nanmean())


def boundary_f(counts: Tensor) -> Tensor:
    """F-scores of boundaries, the harmonic mean of precision and recall.

    Args:
        counts: ``[..., 4]``, see :meth:`BoundaryScore.update`.

    Returns:
        float64 ``[...]``, NaN where there is no boundary in either, 0 where there is in one only.
    """
    predicted, predicted_near, true, true_near = counts.double().unbind(-1)
    # Without a boundary on one side nothing is near: the other side's share is 0, and so is the score.
    precision, recall = predicted_near / predicted.clamp(min=1), true_near / true.clamp(min=1)
    score = 2 * precision * recall / (precision + recall).clamp(min=1e-300)
    return torch.where(predicted + true > 0, score, torch.nan)


def _boundary(region: Tensor) -> Tensor:
    """Pixels of bool ``[H, W]`` that differ from their right, lower or lower right neighbour, as DAVIS' seg2bmap."""
    edge = torch.zeros_like(region)
    edge[:, :-1] |= region[:, :-1] ^ region[:, 1:]
    edge[:-1] |= region[:-1] ^ region[1:]
    edge[:-1, :-1] |= region[:-1, :-1] ^ region[1:, 1:]
    return edge
