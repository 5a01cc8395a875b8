"""How steady masks are over time: VC_n against labels, TC along the optical flow. Streaming, in constant memory."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ccnet3d.constants import IGNORE_INDEX
from ccnet3d.metrics.confusion import confusion_matrix, mean_iou

OpticalFlow = Callable[[Tensor, Tensor], Tensor]
"""Of two frames uint8 ``[3, H, W]``, the flow from the first to the second: float32 ``[2, H, W]``, (x, y) in pixels."""


class VideoConsistency:
    """VC_n: of the pixels whose label stays over n consecutive labelled frames, the share whose prediction does too.

    Miao et al., VSPW, CVPR 2021. The score is the mean over windows. ``strict`` wants the prediction constant and
    correct, leaves void out and takes all windows. ``reference`` is as the published script has it: constant is enough,
    void counts like a class, and the last window of every video is left out.

    Args:
        window_frames: n, at least 2.
        strict: see above.
    """

    def __init__(self, window_frames: int, *, strict: bool = True) -> None:
        if window_frames < 2:
            raise ValueError(f"a window needs at least 2 frames, got {window_frames}")
        self.window_frames = window_frames
        self.strict = strict
        self._sum = 0.0
        self._windows = 0
        self.start_video()

    def start_video(self) -> None:
        """Begin a new video, or go on behind a gap: no window crosses it."""
        self._previous: tuple[Tensor, Tensor] | None = None
        self._pending = 0, 0

    def update(self, prediction: Tensor, labels: Tensor) -> tuple[int, int]:
        """Add the next frame.

        Args:
            prediction: class ids, integers ``[H, W]``.
            labels: class ids and IGNORE_INDEX, of the same shape.

        Returns:
            How many pixels of how many stayed in the window that counts now, 0 of 0 where there is none: the one that
            ends with this frame, and with ``reference``, which leaves out the last, the one that ended with the frame
            before.

        Raises:
            ValueError: shapes that differ.
        """
        if prediction.shape != labels.shape:
            raise ValueError(
                f"prediction and labels must have one shape, got {tuple(prediction.shape)} and {tuple(labels.shape)}"
            )
        # For how many frames, up to this one, each pixel's label has stayed, and its prediction with it.
        ones = torch.ones(labels.shape, dtype=torch.long)
        if self._previous is None:
            self._label_run, self._prediction_run = ones, ones
        else:
            last_prediction, last_labels = self._previous
            self._label_run = torch.where(labels == last_labels, self._label_run + 1, 1)
            self._prediction_run = torch.where(prediction == last_prediction, self._prediction_run + 1, 1)
        self._previous = prediction, labels
        stayed = self._label_run >= self.window_frames
        kept = stayed & (self._prediction_run >= self.window_frames)
        if self.strict:
            stayed &= labels != IGNORE_INDEX
            kept &= stayed & (prediction == labels)
        counted = int(kept.sum()), int(stayed.sum())
        if not self.strict:
            counted, self._pending = self._pending, counted
        if counted[1]:
            self._sum += counted[0] / counted[1]
            self._windows += 1
        return counted

    @property
    def score(self) -> float:
        """Mean over windows in [0, 1], NaN without one."""
        return self._sum / self._windows if self._windows else float("nan")


class TemporalConsistency:
    """TC: IoU between each mask and the one before it, moved along the optical flow.

    Liu et al., Efficient semantic video segmentation with per-frame inference, ECCV 2020: counts are accumulated over a
    video, IoU is averaged over its classes; then over videos. Pixels that come from outside the frame never count, and
    occluded ones only on request: those where the flow there and back does not return (Sundaram et al., ECCV 2010).

    Args:
        num_classes: K.
        flow: gives the flow from one frame to another.
        count_occluded: whether occluded pixels count.
    """

    def __init__(self, num_classes: int, flow: OpticalFlow, *, count_occluded: bool = False) -> None:
        self.num_classes = num_classes
        self.flow = flow
        self.count_occluded = count_occluded
        self._videos: list[Tensor] = []
        self.start_video()

    def start_video(self) -> None:
        """Begin a new video."""
        self._previous: tuple[Tensor, Tensor] | None = None
        self._videos.append(torch.zeros(self.num_classes, self.num_classes, dtype=torch.long))

    def skip_gap(self) -> None:
        """Go on in the same video behind a gap, which no comparison crosses."""
        self._previous = None

    def update(self, frame: Tensor, prediction: Tensor) -> Tensor:
        """Add the next frame.

        Args:
            frame: uint8 ``[3, H, W]``.
            prediction: class ids, integers ``[H, W]``.

        Returns:
            What the frame adds to its video, int64 ``[K, K]``: pixels by the class of the mask before, moved here
            (row), and the class now (column); zeros for the first frame.
        """
        counts = torch.zeros(self.num_classes, self.num_classes, dtype=torch.long)
        if self._previous is not None:
            last_frame, last_prediction = self._previous
            backward = self.flow(frame, last_frame)
            moved, inside = _sample(last_prediction[None].float(), backward)
            if not self.count_occluded:
                returned, _ = _sample(self.flow(last_frame, frame), backward)
                error = (backward + returned).square().sum(0)
                inside &= error < 0.01 * (backward.square().sum(0) + returned.square().sum(0)) + 0.5
            source = moved[0].long().masked_fill(~inside, IGNORE_INDEX)
            counts = confusion_matrix(prediction, source, self.num_classes)
            self._videos[-1] += counts
        self._previous = frame, prediction
        return counts

    @property
    def score(self) -> float:
        """Mean over videos in [0, 1], NaN where no two frames were compared."""
        return float(mean_iou(torch.stack(self._videos)).nanmean())


def pair_counts(before: tuple[Tensor, Tensor], now: tuple[Tensor, Tensor]) -> tuple[tuple[int, int], tuple[int, int]]:
    """What two neighbouring frames say of steadiness.

    Args:
        before: prediction and labels of the first, integers ``[H, W]``; labels may be IGNORE_INDEX.
        now: those of the second.

    Returns:
        How many of the pixels that are labelled with one class in both are predicted alike, rightly or not; how many of
        all pixels are predicted otherwise than before. Each as (how many, of how many).
    """
    alike = before[0] == now[0]
    stayed = (before[1] == now[1]) & (now[1] != IGNORE_INDEX)
    kept = int((alike & stayed).sum()), int(stayed.sum())
    return kept, (alike.numel() - int(alike.sum()), alike.numel())


def _sample(image: Tensor, flow: Tensor) -> tuple[Tensor, Tensor]:
    """Values of ``[C, H, W]`` where the flow ``[2, H, W]`` points, the nearest pixel's, and where that is inside."""
    height, width = image.shape[-2:]
    x = (torch.arange(width) + flow[0]).round()
    y = (torch.arange(height)[:, None] + flow[1]).round()
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    columns, rows = x.clamp(0, width - 1).long(), y.clamp(0, height - 1).long()
    return image[:, rows, columns], inside
