"""Consistency of masks over time: VC_n by the labels, TC along the optical flow."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ccnet3d.constants import IGNORE_INDEX
from ccnet3d.metrics.confusion import confusion_matrix
from ccnet3d.metrics.meter import Meter, check_shapes

__all__ = ["ChangedPixels", "KeptPixels", "OpticalFlow", "TemporalConsistency", "VideoConsistency"]

OpticalFlow = Callable[[Tensor, Tensor], Tensor]
"""From two frames uint8 ``[3, H, W]`` to the flow from the first to the second: float32 ``[2, H, W]``, (x, y) in
pixels."""


class VideoConsistency(Meter):
    """VC_n: where the labels are constant over n consecutive labeled frames, the share of constant predictions.

    Miao et al., VSPW, CVPR 2021. The score is the mean over windows. ``strict`` requires the prediction to be constant
    and correct, leaves void out and counts all windows. ``reference`` follows the published script: constant is enough,
    void counts like a class, and the last window of every segment is left out.

    Args:
        window_frames: n, at least 2.
        strict: see above.

    Example:
        >>> meter = VideoConsistency(2)
        >>> labels = torch.tensor([[0, 0, 1, 1]])
        >>> [meter.update(ids, labels).tolist() for ids in (labels, torch.tensor([[0, 1, 1, 1]]))]
        [[0, 0], [3, 4]]
    """

    def __init__(self, window_frames: int, *, strict: bool = True) -> None:
        if window_frames < 2:
            raise ValueError(f"a window needs at least 2 frames, got {window_frames}")
        self.window_frames = window_frames
        self.strict = strict
        self.start_segment()

    def start_segment(self) -> None:
        self._previous: tuple[Tensor, Tensor] | None = None
        self._pending = torch.zeros(2, dtype=torch.long)

    def update(self, prediction: Tensor, labels: Tensor, image: Tensor | None = None) -> Tensor:
        """Count the next frame.

        Returns:
            int64 ``[2]``: pixels with a constant (and, if strict, correct) prediction, of how many with a constant
            label, in the window that this frame completes; 0 of 0 without one. ``reference`` leaves out the last
            window, so it counts the window that the frame before completed.
        """
        check_shapes(prediction, labels)
        # For how many frames, up to this one, each pixel's label and prediction have been constant.
        ones = torch.ones(labels.shape, dtype=torch.long)
        if self._previous is None:
            self._label_run, self._prediction_run = ones, ones
        else:
            last_prediction, last_labels = self._previous
            self._label_run = torch.where(labels == last_labels, self._label_run + 1, 1)
            self._prediction_run = torch.where(prediction == last_prediction, self._prediction_run + 1, 1)
        self._previous = prediction, labels
        stable = self._label_run >= self.window_frames
        kept = stable & (self._prediction_run >= self.window_frames)
        if self.strict:
            stable &= labels != IGNORE_INDEX
            kept &= stable & (prediction == labels)
        counts = torch.stack([kept.sum(), stable.sum()])
        if not self.strict:
            counts, self._pending = self._pending, counts
        return counts


class TemporalConsistency(Meter):
    """TC: IoU between each mask and the one before it, warped along the optical flow.

    Liu et al., Efficient semantic video segmentation with per-frame inference, ECCV 2020: counts are added over a
    video, IoU is averaged over its classes, then over videos. Pixels that come from outside of the frame never count,
    occluded ones only on request: those where the flow forward and backward does not return to the same pixel
    (Sundaram et al., ECCV 2010).

    Args:
        num_classes: K.
        flow: returns the flow from one frame to another.
        count_occluded: whether occluded pixels count.

    Example:
        >>> meter = TemporalConsistency(2, lambda first, second: torch.zeros(2, 1, 4))
        >>> image, labels = torch.zeros(3, 1, 4, dtype=torch.uint8), torch.zeros(1, 4)
        >>> masks = torch.tensor([[0, 0, 1, 1]]), torch.tensor([[0, 1, 1, 1]])
        >>> [meter.update(mask, labels, image).tolist() for mask in masks]
        [[[0, 0], [0, 0]], [[1, 1], [0, 2]]]
    """

    needs_image = True

    def __init__(self, num_classes: int, flow: OpticalFlow, *, count_occluded: bool = False) -> None:
        self.num_classes = num_classes
        self.flow = flow
        self.count_occluded = count_occluded
        self.start_segment()

    def start_segment(self) -> None:
        self._previous: tuple[Tensor, Tensor] | None = None

    def update(self, prediction: Tensor, labels: Tensor, image: Tensor | None = None) -> Tensor:
        """Count the next frame; the labels do not matter.

        Returns:
            int64 ``[K, K]``: pixels by the class of the mask before, warped to this frame (row), and the class now
            (column); zeros for the first frame of a segment.

        Raises:
            ValueError: the image is None.
        """
        if image is None:
            raise ValueError("temporal consistency needs the image of every frame, got None")
        counts = torch.zeros(self.num_classes, self.num_classes, dtype=torch.long)
        if self._previous is not None:
            last_prediction, last_image = self._previous
            backward = self.flow(image, last_image)
            warped, inside = _sample(last_prediction[None].float(), backward)
            if not self.count_occluded:
                returned, _ = _sample(self.flow(last_image, image), backward)
                error = (backward + returned).square().sum(0)
                inside &= error < 0.01 * (backward.square().sum(0) + returned.square().sum(0)) + 0.5
            source = warped[0].long().masked_fill(~inside, IGNORE_INDEX)
            counts = confusion_matrix(prediction, source, self.num_classes)
        self._previous = prediction, image
        return counts


class KeptPixels(Meter):
    """Counts the pixels that keep their label from one frame to the next, and those that keep their prediction too.

    Whether the prediction is right does not matter, and void is left out: ``[2]``, how many of how many.

    Example:
        >>> meter = KeptPixels()
        >>> labels = torch.tensor([[0, 0, 1, 255]])
        >>> [meter.update(ids, labels).tolist() for ids in (torch.tensor([[0, 1, 1, 1]]), torch.tensor([[0, 1, 0, 1]]))]
        [[0, 0], [2, 3]]
    """

    def __init__(self) -> None:
        self.start_segment()

    def start_segment(self) -> None:
        self._previous: tuple[Tensor, Tensor] | None = None

    def update(self, prediction: Tensor, labels: Tensor, image: Tensor | None = None) -> Tensor:
        """Count the next frame."""
        before, self._previous = self._previous, (prediction, labels)
        if before is None:
            return torch.zeros(2, dtype=torch.long)
        stable = (before[1] == labels) & (labels != IGNORE_INDEX)
        return torch.stack([((before[0] == prediction) & stable).sum(), stable.sum()])


class ChangedPixels(Meter):
    """Counts the pixels whose prediction differs from the frame before: ``[2]``, how many of all.

    Example:
        >>> meter = ChangedPixels()
        >>> [meter.update(ids).tolist() for ids in (torch.tensor([[0, 1, 1, 1]]), torch.tensor([[0, 1, 0, 1]]))]
        [[0, 0], [1, 4]]
    """

    def __init__(self) -> None:
        self.start_segment()

    def start_segment(self) -> None:
        self._previous: Tensor | None = None

    def update(self, prediction: Tensor, labels: Tensor | None = None, image: Tensor | None = None) -> Tensor:
        """Count the next frame; the labels do not matter."""
        before, self._previous = self._previous, prediction
        if before is None:
            return torch.zeros(2, dtype=torch.long)
        return torch.tensor([int((before != prediction).sum()), prediction.numel()])


def _sample(image: Tensor, flow: Tensor) -> tuple[Tensor, Tensor]:
    """Return the pixels of ``[C, H, W]`` nearest to where the flow ``[2, H, W]`` points, and where that is inside."""
    height, width = image.shape[-2:]
    x = (torch.arange(width) + flow[0]).round()
    y = (torch.arange(height)[:, None] + flow[1]).round()
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    columns, rows = x.clamp(0, width - 1).long(), y.clamp(0, height - 1).long()
    return image[:, rows, columns], inside
