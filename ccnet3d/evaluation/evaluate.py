"""A model and labelled sequences to scores: pooled, per-frame and video mIoU."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ccnet3d.data import LabelledSequences
from ccnet3d.data.clips import Clip
from ccnet3d.inference.clips import segment_frames
from ccnet3d.metrics import class_iou, confusion_matrix, mean_iou
from ccnet3d.models import CCNet3D


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
        """mIoU of each frame by itself, then their mean."""
        return float(mean_iou(self.confusions).nanmean())

    @property
    def video_miou(self) -> float:
        """mIoU of each sequence's pooled frames, then their mean."""
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
    model: CCNet3D,
    dataset: LabelledSequences,
    *,
    clip_length: int,
    input_size: tuple[int, int],
    precision: torch.dtype = torch.bfloat16,
    progress: Callable[[Sequence[Clip]], Sequence[Clip]] = lambda clips: clips,
) -> Evaluation:
    """Segment every labelled frame once, at its labels' size.

    Args:
        model: in evaluation mode; it runs where its weights are.
        dataset: the split.
        clip_length: T.
        input_size: working size (height, width).
        precision: of the model's matrix products; float32 switches autocast off.
        progress: wraps the list of clips, as tqdm does.

    Raises:
        ValueError: the dataset has other classes than the model.
    """
    if len(dataset.spec.classes) != model.config.num_classes:
        raise ValueError(
            f"the model has {model.config.num_classes} classes and {dataset.spec.name} has {len(dataset.spec.classes)}; "
            "evaluate with weights that were trained on it"
        )
    confusions: dict[int, Tensor] = {}
    for clip in progress(dataset.covering_clips(clip_length)):
        sample = dataset.read_clip(clip)
        logits = segment_frames(model, sample["clip"], input_size, precision)
        for place, index in enumerate(clip.indices):
            if clip.counted[place]:
                labels = sample["labels"][place]
                full = F.interpolate(logits[None, place], size=labels.shape, mode="bilinear", align_corners=False)
                confusions[index] = confusion_matrix(full[0].argmax(0).cpu(), labels, model.config.num_classes)
    return Evaluation(
        dataset.spec.class_names,
        tuple(dataset.frames[i].sequence for i in sorted(confusions)),
        torch.stack([confusions[i] for i in sorted(confusions)]),
    )
