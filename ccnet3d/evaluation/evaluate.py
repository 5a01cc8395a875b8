"""A model and labelled sequences to scores: pooled, per-frame and video mIoU."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ccnet3d.data import LabelledSequences
from ccnet3d.data.clips import Clip
from ccnet3d.inference.segmenter import VideoSegmenter, classify_at_size
from ccnet3d.metrics import class_iou, confusion_matrix, mean_iou


@dataclass(frozen=True)
class Evaluation:
    """Scores of one split; all are shares in [0, 1], NaN where nothing was labelled."""

    class_names: tuple[str, ...]
    sequences: tuple[str, ...]
    """Sequence of each frame."""
    confusions: Tensor
    """int64 ``[F, K, K]``, one for each frame, row the true class."""

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
    progress: Callable[[Sequence[Clip]], Sequence[Clip]] = lambda clips: clips,
) -> Evaluation:
    """Segment every labelled frame once, at its labels' size.

    Args:
        segmenter: the model with its clip length and working size.
        dataset: the split.
        progress: wraps the list of clips, as tqdm does.

    Raises:
        ValueError: the dataset has other classes than the model.
    """
    if dataset.spec.class_names != segmenter.info.class_names:
        raise ValueError(
            f"the model's classes are {', '.join(segmenter.info.class_names)} and those of {dataset.spec.name} are "
            f"{', '.join(dataset.spec.class_names)}; evaluate with weights that were trained on it"
        )
    confusions: dict[int, Tensor] = {}
    for clip in progress(dataset.covering_clips(segmenter.clip_length)):
        sample = dataset.read_clip(clip)
        logits = segmenter.clip_logits(sample["clip"])
        for place, index in enumerate(clip.indices):
            if clip.counted[place]:
                labels = sample["labels"][place]
                prediction = classify_at_size(logits[place], (labels.shape[0], labels.shape[1])).cpu()
                confusions[index] = confusion_matrix(prediction, labels, len(dataset.spec.classes))
    return Evaluation(
        dataset.spec.class_names,
        tuple(dataset.frames[i].sequence for i in sorted(confusions)),
        torch.stack([confusions[i] for i in sorted(confusions)]),
    )
