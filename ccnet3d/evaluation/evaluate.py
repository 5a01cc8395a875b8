"""Evaluation of a model, or of masks, on labeled sequences."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from time import perf_counter
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ccnet3d.data import LabelledSequences, VideoFrame
from ccnet3d.errors import UserError
from ccnet3d.evaluation.evaluation import EvaluatedFrame, Evaluation
from ccnet3d.metrics import MeterOptions, OpticalFlow, choose_metrics
from ccnet3d.models import ModelInfo

__all__ = ["MasksOf", "Segmenter", "Timing", "evaluate", "evaluate_masks"]

MasksOf = Callable[[range], Iterable[np.ndarray]]
"""From a segment of the dataset to the masks of its frames in order: uint8 ``[H, W]``, class ids, at the labels'
size."""


class Segmenter(Protocol):
    """What makes masks of frames, such as :class:`ccnet3d.inference.VideoSegmenter`."""

    info: ModelInfo
    smoothing: int

    @property
    def clip_length(self) -> int: ...

    @property
    def causal(self) -> bool: ...

    def segment(self, frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]: ...


@dataclass
class Timing:
    """Where the time of an evaluation went, in seconds."""

    masks_seconds: float = 0.0
    """Waiting for masks: reading frames and running the model, or reading masks from files."""
    metrics_seconds: float = 0.0
    """Reading labels and computing all metrics."""


def evaluate(
    segmenter: Segmenter,
    dataset: LabelledSequences,
    *,
    corrupt: Callable[[np.ndarray, int], np.ndarray] | None = None,
    **options: Any,
) -> Evaluation:
    """Segment every labeled frame once, at its labels' size, and score the masks.

    A dataset with the videos of its frames gives the model one clip for each labeled frame: in its middle, or at its
    end for a causal segmenter.

    Args:
        segmenter: the model with its clip length and working size.
        dataset: the split.
        corrupt: applied to each image before the model sees it: from uint8 ``[H, W, 3]``, RGB, and the frame's index in
            the dataset to an image of the same shape. Optical flow uses the images without it.
        options: see :func:`evaluate_masks`.

    Raises:
        UserError: the dataset's classes differ from the model's.

    Example:
        >>> from pathlib import Path
        >>> from PIL import Image
        >>> from ccnet3d import LabelledSequences, VideoSegmenter, evaluate, load_model
        >>> from ccnet3d.data import LabelledFrame, LayoutSpec, read_dataset_spec
        >>> from ccnet3d.resources import dataset_file
        >>> Image.new("RGB", (64, 48)).save("0001.png")
        >>> Image.new("L", (64, 48)).save("0001_L.png")
        >>> frame = LabelledFrame("walk", 1, Path("0001.png"), Path("0001_L.png"))
        >>> dataset = LabelledSequences(read_dataset_spec(dataset_file("camvid")), [frame], LayoutSpec())
        >>> segmenter = VideoSegmenter(*load_model(), input_size=(48, 64))
        >>> [score for score in evaluate(segmenter, dataset).scores if "miou" in score]
        ['miou', 'per_frame_miou', 'video_miou']
    """
    if dataset.spec.class_names != segmenter.info.class_names:
        raise UserError(
            f"the model's classes are {', '.join(segmenter.info.class_names)} and the classes of {dataset.spec.name} "
            f"are {', '.join(dataset.spec.class_names)}; evaluate with weights that were trained on it"
        )

    def read(frame: VideoFrame, number: int) -> np.ndarray:
        image = dataset.read_frame(frame).permute(1, 2, 0).numpy()
        return corrupt(image, number) if corrupt else image

    def masks_of(segment: range) -> Iterator[np.ndarray]:
        frames = (VideoFrame(*dataset.frames[index][:3], index) for index in segment)
        return segmenter.segment(read(frame, index) for frame, index in zip(frames, segment, strict=True))

    def masks_of_clips(segment: range) -> Iterator[np.ndarray]:
        assert dataset.surroundings
        for index in segment:
            frames, offset = dataset.surroundings.window(index, *_context(segmenter))
            # Numbers of unlabeled frames follow those of the dataset, so that all frames are corrupted differently.
            numbers = [len(dataset) + frame.number if frame.labeled is None else frame.labeled for frame in frames]
            clip = segmenter.segment(read(frame, number) for frame, number in zip(frames, numbers, strict=True))
            yield next(islice(clip, offset, None))

    return evaluate_masks(masks_of_clips if dataset.surroundings else masks_of, dataset, **options)


def _context(segmenter: Segmenter) -> tuple[int, int]:
    """Return how many frames before and after a labeled one the model is given."""
    if segmenter.causal:
        return segmenter.clip_length - 1 + segmenter.smoothing, 0
    before = segmenter.clip_length // 2
    return before + segmenter.smoothing, segmenter.clip_length - 1 - before + segmenter.smoothing


def evaluate_masks(
    masks_of: MasksOf,
    dataset: LabelledSequences,
    *,
    scores: Iterable[str] = (),
    flow: OpticalFlow | None = None,
    segments: Iterable[int] | None = None,
    settings: Mapping[str, Any] | None = None,
    timing: Timing | None = None,
    progress: Callable[[Sequence[int]], Iterable[int]] = iter,
    on_frame: Callable[[int, np.ndarray, Tensor], None] | None = None,
) -> Evaluation:
    """Compare masks with the labels of a split, with one frame in memory.

    Args:
        masks_of: returns the masks; it is called once for each segment.
        dataset: the split.
        scores: names of scores to compute in addition to IoU and accuracy, such as ``flicker``, ``vc8_strict`` or
            ``boundary_f``; see :func:`ccnet3d.metrics.find_score`. No score compares frames across a gap.
        flow: optical flow, for the scores ``tc`` and ``tc_all``.
        segments: indices of the segments to evaluate, all by default.
        settings: kept in the result.
        timing: the seconds are added to it.
        progress: wraps the frames of each segment, as tqdm does.
        on_frame: called for each frame with its index in the dataset, its mask and its confusion matrix.

    Raises:
        UserError: an unknown score, or a mask or image whose size differs from its label's.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from PIL import Image
        >>> from ccnet3d.data import open_labels
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Image.fromarray(np.eye(4, dtype=np.uint8)).save(Path(folder, "0001.png"))
        ...     labels = open_labels(Path(folder), ["ground", "box"])
        ...     all_ground = lambda segment: (np.zeros((4, 4), np.uint8) for _ in segment)
        ...     evaluate_masks(all_ground, labels, scores=["boundary_iou"]).scores["pixel_accuracy"]
        0.75
    """
    timing = Timing() if timing is None else timing
    began, masks_before = perf_counter(), timing.masks_seconds
    metrics = choose_metrics(scores)
    options = MeterOptions(len(dataset.spec.classes), flow)
    meters = {metric.name: metric.meter(options) for metric in metrics}
    needs_image = any(meter.needs_image for meter in meters.values())
    rows: dict[str, list[Tensor]] = {name: [] for name in meters}
    frames: list[EvaluatedFrame] = []
    for number in range(len(dataset.segments)) if segments is None else segments:
        segment = dataset.segments[number]
        last_size: torch.Size | None = None
        for index, mask in zip(progress(segment), _timed(masks_of(segment), timing), strict=True):
            frame, labels = dataset.frames[index], dataset.read_label(index)
            frames.append(EvaluatedFrame(frame.sequence, frame.number, frame.image.stem, number))
            if labels.shape != mask.shape:
                raise UserError(
                    f"the mask of {frame.image} is {mask.shape[1]}x{mask.shape[0]}, its label {frame.label} is "
                    f"{labels.shape[1]}x{labels.shape[0]}; images, masks and labels must have one size"
                )
            if labels.shape != last_size:  # nothing to compare with
                for meter in meters.values():
                    meter.start_segment()
            last_size = labels.shape
            prediction = torch.from_numpy(mask).long()
            image = _image(dataset, index, labels) if needs_image else None
            for name, meter in meters.items():
                rows[name].append(meter.update(prediction, labels, image))
            if on_frame:
                on_frame(index, mask, rows["confusion"][-1])
    counts = {metric.name: _stack(rows[metric.name], metric.shape(options.num_classes)) for metric in metrics}
    timing.metrics_seconds += perf_counter() - began - (timing.masks_seconds - masks_before)
    return Evaluation(
        dataset.spec.class_names, tuple(frames), counts, {"dataset": dataset.spec.name, **(settings or {})}
    )


def _image(dataset: LabelledSequences, index: int, labels: Tensor) -> Tensor:
    image = dataset.read_image(index)
    if image.shape[1:] != labels.shape:
        raise UserError(
            f"optical flow needs frames of the size of their labels, got {tuple(image.shape[1:])} for "
            f"{dataset.frames[index].image} and {tuple(labels.shape)} for its label"
        )
    return image


def _stack(rows: list[Tensor], shape: tuple[int, ...]) -> Tensor:
    return torch.stack(rows) if rows else torch.zeros(0, *shape, dtype=torch.long)


def _timed(masks: Iterable[np.ndarray], timing: Timing) -> Iterator[np.ndarray]:
    source = iter(masks)
    while True:
        began = perf_counter()
        mask = next(source, None)
        timing.masks_seconds += perf_counter() - began
        if mask is None:
            return
        yield mask
