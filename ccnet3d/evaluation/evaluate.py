"""Labelled sequences and masks, or a model that makes them, to an :class:`Evaluation`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ccnet3d.data import LabelledSequences
from ccnet3d.errors import UserError
from ccnet3d.evaluation.evaluation import EvaluatedFrame, Evaluation
from ccnet3d.metrics import BoundaryScore, Flicker, TemporalConsistency, VideoConsistency, confusion_matrix, pair_counts
from ccnet3d.models import ModelInfo

MasksOf = Callable[[range], Iterable[np.ndarray]]
"""Of a segment of the dataset, its frames' masks in order: uint8 ``[H, W]``, class ids, at the labels' size."""


class Segmenter(Protocol):
    """What makes masks of frames, such as :class:`ccnet3d.inference.VideoSegmenter`."""

    info: ModelInfo

    def segment(self, frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]: ...


@dataclass
class Timing:
    """Where the time of an evaluation went, in seconds."""

    masks_seconds: float = 0.0
    """Waiting for masks: reading frames and the model's own time, or reading masks from files."""
    metrics_seconds: float = 0.0
    """Reading labels and computing all metrics."""


def evaluate(segmenter: Segmenter, dataset: LabelledSequences, **options: Any) -> Evaluation:
    """Segment every labelled frame once, at its labels' size.

    Args:
        segmenter: the model with its clip length and working size.
        dataset: the split.
        options: see :func:`evaluate_masks`.

    Raises:
        ValueError: the dataset has other classes than the model.
    """
    if dataset.spec.class_names != segmenter.info.class_names:
        raise UserError(
            f"the model's classes are {', '.join(segmenter.info.class_names)} and those of {dataset.spec.name} are "
            f"{', '.join(dataset.spec.class_names)}; evaluate with weights that were trained on it"
        )

    def masks_of(segment: range) -> Iterator[np.ndarray]:
        return segmenter.segment(dataset.read_image(index).permute(1, 2, 0).numpy() for index in segment)

    return evaluate_masks(masks_of, dataset, **options)


def evaluate_masks(
    masks_of: MasksOf,
    dataset: LabelledSequences,
    *,
    video_consistency: Sequence[VideoConsistency] = (),
    temporal_consistency: TemporalConsistency | None = None,
    flicker: Flicker | None = None,
    boundary: BoundaryScore | None = None,
    segments: Iterable[int] | None = None,
    settings: Mapping[str, Any] | None = None,
    timing: Timing | None = None,
    progress: Callable[[Sequence[int]], Iterable[int]] = iter,
    on_frame: Callable[[int, np.ndarray, Tensor], None] | None = None,
) -> Evaluation:
    """Compare masks with the labels of a split, one frame in memory.

    Args:
        masks_of: gives the masks; each segment is asked for once.
        dataset: the split.
        video_consistency: VC_n to compute besides; no window crosses a gap between labelled frames.
        temporal_consistency: TC to compute besides, between neighbouring labelled frames without a gap.
        flicker: to compute besides, over neighbouring labelled frames without a gap.
        boundary: the F-score of boundaries, to compute besides.
        segments: numbers of the segments to evaluate, all by default.
        settings: kept with the result.
        timing: is added to.
        progress: wraps the frames of each run without a gap, as tqdm does.
        on_frame: told of each frame its position in the dataset, its mask and its confusion matrix.

    Raises:
        ValueError: a mask of another size than its labels, or with a class that the dataset does not have.
    """
    timing = Timing() if timing is None else timing
    began, masks_before = perf_counter(), timing.masks_seconds
    classes_count = len(dataset.spec.classes)
    rows: dict[str, list[Tensor]] = defaultdict(list)
    series: dict[str, list[tuple[int, int]]] = {"kept": [], "changed": []}
    series |= {_name_of(meter): [] for meter in video_consistency} | ({"flicker": []} if flicker else {})
    frames: list[EvaluatedFrame] = []
    sequence = None
    for number in range(len(dataset.segments)) if segments is None else segments:
        segment = dataset.segments[number]
        last: tuple[Tensor, Tensor] | None = None
        masks = _timed(masks_of(segment), timing)
        for index, mask in zip(progress(segment), masks, strict=True):
            frame, labels = dataset.frames[index], dataset.read_label(index)
            frames.append(EvaluatedFrame(frame.sequence, frame.number, frame.image.stem, number))
            if labels.shape != mask.shape:
                raise UserError(f"{frame.image} and its label differ in size: {mask.shape} and {tuple(labels.shape)}")
            prediction = torch.from_numpy(mask).long()
            rows["confusions"].append(confusion_matrix(prediction, labels, classes_count))
            if on_frame:
                on_frame(index, mask, rows["confusions"][-1])
            if last is None or last[1].shape != labels.shape:  # nothing before to compare with
                last = None
                for meter in video_consistency:
                    meter.start_video()
                if flicker:
                    flicker.start_video()
                if temporal_consistency and frame.sequence == sequence:
                    temporal_consistency.skip_gap()
                elif temporal_consistency:
                    temporal_consistency.start_video()
            sequence = frame.sequence
            kept, changed = pair_counts(last, (prediction, labels)) if last else ((0, 0), (0, 0))
            series["kept"].append(kept)
            series["changed"].append(changed)
            for meter in video_consistency:
                series[_name_of(meter)].append(meter.update(prediction, labels))
            if flicker:
                series["flicker"].append(flicker.update(prediction))
            if temporal_consistency:
                image = dataset.read_image(index)
                if image.shape[1:] != labels.shape:
                    raise UserError(
                        f"the flow needs frames of the size of their labels, got {tuple(image.shape[1:])} for "
                        f"{frame.image} and {tuple(labels.shape)} for its label"
                    )
                rows["tc"].append(temporal_consistency.update(image, prediction))
            if boundary:
                rows["boundaries"].append(boundary.update(prediction, labels))
            last = prediction, labels
    timing.metrics_seconds += perf_counter() - began - (timing.masks_seconds - masks_before)

    def stack(name: str, *shape: int) -> Tensor:
        return torch.stack(rows[name]) if rows[name] else torch.zeros(0, *shape, dtype=torch.long)

    flow_name = "tc_all" if temporal_consistency and temporal_consistency.count_occluded else "tc"
    return Evaluation(
        dataset.spec.class_names,
        tuple(frames),
        stack("confusions", classes_count, classes_count),
        {name: torch.tensor(counts, dtype=torch.long).view(-1, 2) for name, counts in series.items()},
        {flow_name: stack("tc", classes_count, classes_count)} if temporal_consistency else {},
        stack("boundaries", classes_count, 4) if boundary else None,
        {"dataset": dataset.spec.name, **(settings or {})},
    )


def _name_of(meter: VideoConsistency) -> str:
    return f"vc{meter.window_frames}_{'strict' if meter.strict else 'reference'}"


def _timed(masks: Iterable[np.ndarray], timing: Timing) -> Iterator[np.ndarray]:
    source = iter(masks)
    while True:
        began = perf_counter()
        mask = next(source, None)
        timing.masks_seconds += perf_counter() - began
        if mask is None:
            return
        yield mask
