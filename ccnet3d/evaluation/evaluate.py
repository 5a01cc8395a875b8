"""A model and labelled sequences to scores: pooled, per-frame and video mIoU."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ccnet3d.data import LabelledSequences
from ccnet3d.inference import VideoSegmenter
from ccnet3d.metrics import Flicker, TemporalConsistency, VideoConsistency, class_iou, confusion_matrix, mean_iou


@dataclass(frozen=True)
class Evaluation:
    """Scores of one split; all are shares in [0, 1], NaN where nothing was labelled."""

    class_names: tuple[str, ...]
    sequences: tuple[str, ...]
    """Sequence of each frame."""
    confusions: Tensor
    """int64 ``[F, K, K]``, one for each frame, row the true class."""
    consistency: Mapping[str, float] = field(default_factory=dict)
    """Scores over time by name: ``vc8_strict`` and so on, ``tc``, ``flicker`` (lower is better)."""

    @property
    def miou(self) -> float:
        """One confusion matrix over all labelled pixels of all frames."""
        return float(mean_iou(self.confusions.sum(0)))

    @property
    def per_class_iou(self) -> dict[str, float]:
        return dict(zip(self.class_names, class_iou(self.confusions.sum(0)).tolist(), strict=True))

    @property
    def per_frame_miou(self) -> float:
        """Mean over frames of the mIoU of each by itself."""
        return float(mean_iou(self.confusions).nanmean())

    @property
    def video_miou(self) -> float:
        """Mean over sequences of the mIoU of each one's pooled frames."""
        members = [[i for i, s in enumerate(self.sequences) if s == name] for name in dict.fromkeys(self.sequences)]
        return float(torch.stack([mean_iou(self.confusions[frames].sum(0)) for frames in members]).nanmean())

    def to_table(self) -> dict[str, Any]:
        """The scores under the names that users read, NaN as None."""
        scores = {
            "miou": self.miou,
            "per_class_iou": self.per_class_iou,
            "per_frame_miou": self.per_frame_miou,
            "video_miou": self.video_miou,
            "frames": len(self.sequences),
            "videos": len(set(self.sequences)),
            **({"consistency": dict(self.consistency)} if self.consistency else {}),
        }
        return _without_nan(scores)


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value


def evaluate(
    segmenter: VideoSegmenter,
    dataset: LabelledSequences,
    *,
    video_consistency: Sequence[VideoConsistency] = (),
    temporal_consistency: TemporalConsistency | None = None,
    flicker: Flicker | None = None,
    progress: Callable[[Sequence[int]], Iterable[int]] = iter,
) -> Evaluation:
    """Segment every labelled frame once, at its labels' size.

    Args:
        segmenter: the model with its clip length and working size.
        dataset: the split.
        video_consistency: VC_n to compute besides; no window crosses a gap between labelled frames.
        temporal_consistency: TC to compute besides, between neighbouring labelled frames without a gap.
        flicker: to compute besides, over neighbouring labelled frames without a gap.
        progress: wraps the frames of each run without a gap, as tqdm does.

    Raises:
        ValueError: the dataset has other classes than the model.
    """
    if dataset.spec.class_names != segmenter.info.class_names:
        raise ValueError(
            f"the model's classes are {', '.join(segmenter.info.class_names)} and those of {dataset.spec.name} are "
            f"{', '.join(dataset.spec.class_names)}; evaluate with weights that were trained on it"
        )
    confusions: list[Tensor] = []
    sequence = None
    for segment in dataset.segments:
        for meter in video_consistency:
            meter.start_video()
        if flicker:
            flicker.start_video()
        if temporal_consistency and dataset.frames[segment[0]].sequence == sequence:
            temporal_consistency.skip_gap()
        elif temporal_consistency:
            temporal_consistency.start_video()
        sequence = dataset.frames[segment[0]].sequence
        images = (dataset.read_image(index).permute(1, 2, 0).numpy() for index in progress(segment))
        for index, mask in zip(segment, segmenter.segment(images), strict=True):
            labels = dataset.read_label(index)
            if labels.shape != mask.shape:
                image = dataset.frames[index].image
                raise ValueError(f"{image} and its label differ in size: {mask.shape} and {tuple(labels.shape)}")
            prediction = torch.from_numpy(mask).long()
            confusions.append(confusion_matrix(prediction, labels, len(dataset.spec.classes)))
            for meter in video_consistency:
                meter.update(prediction, labels)
            if flicker:
                flicker.update(prediction)
            if temporal_consistency:
                temporal_consistency.update(dataset.read_image(index), prediction)
    sequences = tuple(dataset.frames[index].sequence for segment in dataset.segments for index in segment)
    scores = {f"vc{m.window_frames}_{'strict' if m.strict else 'reference'}": m.score for m in video_consistency}
    if temporal_consistency:
        scores["tc"] = temporal_consistency.score
    if flicker:
        scores["flicker"] = flicker.score
    return Evaluation(dataset.spec.class_names, sequences, torch.stack(confusions), scores)
