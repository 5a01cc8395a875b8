"""How sure a score is, and whether two runs differ: resampling of frames or of videos.

Everything here is computed from the counts of an :class:`Evaluation`, with frames and videos weighted: a bootstrap
sample is how often each frame (or video) was drawn. Scores that pool pixels, as mIoU does, are pooled anew in each.

Frames of one video resemble each other, so that intervals over frames are too narrow for what other videos would give;
those over videos are not, and need several.

Axes: S samples, F frames, V videos, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ccnet3d.errors import UserError
from ccnet3d.evaluation.evaluation import Evaluation
from ccnet3d.metrics import (
    boundary_f,
    class_accuracy,
    class_iou,
    frequency_weighted_iou,
    mean_iou,
    pixel_accuracy,
)

RESAMPLES = 2000
CONFIDENCE = 0.95
UNITS = ("frames", "videos")
_SEED = 0
_CHUNK = 200
"""Samples at a time, of which memory holds pooled confusion matrices."""


class Interval(NamedTuple):
    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """One score of two runs on the same frames."""

    first: float
    second: float
    intervals: Mapping[str, Interval | None]
    """Of second - first, by unit; None where there are not two units."""
    p_values: Mapping[str, float | None]
    """Two-sided, by unit."""

    @property
    def value(self) -> float:
        return self.second - self.first


def weighted_scores(evaluation: Evaluation, frames: Tensor, videos: Tensor) -> dict[str, Tensor]:
    """The scores of samples, float64 ``[S]`` each, NaN where a sample has nothing to score.

    With weights of 1 they are the evaluation's own, under the names of :meth:`Evaluation.to_table`; the IoU of class
    ``c`` is ``iou c``.

    Args:
        evaluation: the counts.
        frames: float64 ``[S, F]``, how often each frame is in each sample.
        videos: float64 ``[S, V]``, how often each video counts in means over videos.
    """

    def pool(counts: Tensor, weights: Tensor = frames) -> Tensor:
        return (weights @ counts.double().flatten(1)).unflatten(1, counts.shape[1:])

    def over_videos(counts: Tensor) -> Tensor:
        parts = [pool(counts[members], frames[:, members]) for members in evaluation.videos.values()]
        return _weighted_mean(torch.stack([mean_iou(part) for part in parts], dim=1), videos)

    pooled = pool(evaluation.confusions)
    iou = class_iou(pooled)
    scores = {
        "miou": iou.nanmean(-1),
        "per_frame_miou": _weighted_mean(mean_iou(evaluation.confusions).expand_as(frames), frames),
        "video_miou": over_videos(evaluation.confusions),
        "pixel_accuracy": pixel_accuracy(pooled),
        "class_accuracy": class_accuracy(pooled).nanmean(-1),
        "frequency_weighted_iou": frequency_weighted_iou(pooled),
    }
    if evaluation.boundaries is not None:
        by_class = boundary_f(evaluation.boundaries)  # [F, K]
        means = [_weighted_mean(column.expand_as(frames), frames) for column in by_class.unbind(1)]
        scores["boundary_f"] = torch.stack(means, dim=1).nanmean(-1)
    for name in evaluation.consistency:
        if name in evaluation.flow_confusions:
            scores[name] = over_videos(evaluation.flow_confusions[name])
        elif name == "flicker":
            flickers, pixels = pool(evaluation.series[name]).unbind(-1)
            scores[name] = flickers / pixels
        else:
            scores[name] = _weighted_mean(evaluation.shares(name).expand_as(frames), frames)
    return scores | {f"iou {name}": iou[:, k] for k, name in enumerate(evaluation.class_names)}


def scores_of(evaluation: Evaluation) -> dict[str, float]:
    """The scores themselves, under the names of :func:`weighted_scores`."""
    ones = torch.ones(1, len(evaluation.frames)).double(), torch.ones(1, len(evaluation.videos)).double()
    return {name: float(value) for name, value in weighted_scores(evaluation, *ones).items()}


def confidence_intervals(evaluation: Evaluation, unit: str) -> dict[str, Interval | None]:
    """Percentile bootstrap intervals of every score (Efron, 1979), the same at each call.

    Args:
        evaluation: the counts.
        unit: what is drawn with replacement, ``frames`` or ``videos``.

    Returns:
        The middle 95 % of 2000 samples; None where there are not two units, or nothing to score.
    """
    samples: dict[str, list[Tensor]] = {}
    for weights in _bootstrap(evaluation, unit):
        for name, values in weighted_scores(evaluation, *weights).items():
            samples.setdefault(name, []).append(values)
    return {name: _interval(samples[name]) if samples else None for name in scores_of(evaluation)}


def compare(first: Evaluation, second: Evaluation) -> dict[str, Difference]:
    """The differences of two runs that were evaluated on the same frames, in every score that both have.

    Intervals are from a paired bootstrap: both runs are scored on the same sample. P-values are from a paired
    permutation test: in each of 2000 samples the two runs' frames (or videos) are exchanged at random, one by one, and
    it counts how often the difference is as large as it was (the observed order is counted among them).

    Raises:
        ValueError: the runs have other frames or classes.
    """
    check_comparable(first, second)
    scores = scores_of(first), scores_of(second)
    names = [name for name in scores[0] if name in scores[1]]
    found = {name: scores[1][name] - scores[0][name] for name in names}
    intervals: dict[str, dict[str, Interval | None]] = {name: {} for name in names}
    p_values: dict[str, dict[str, float | None]] = {name: {} for name in names}
    both = _stacked(first, second)
    for unit in UNITS:
        drawn: dict[str, list[Tensor]] = {name: [] for name in names}
        for weights in _bootstrap(first, unit):
            samples = [weighted_scores(run, *weights) for run in (first, second)]
            for name in names:
                drawn[name].append(samples[1][name] - samples[0][name])
        extreme = dict.fromkeys(names, 0)
        for own in _exchanges(first, unit):  # bool [S, F]: the run keeps its own count of a frame
            ones = torch.ones(len(own), len(first.videos)).double()
            sides = [torch.cat([mine, ~mine], dim=1).double() for mine in (own, ~own)]
            samples = [weighted_scores(both, side, ones) for side in sides]
            for name in names:
                size = (samples[1][name] - samples[0][name]).abs()
                extreme[name] += int((size >= abs(found[name]) - 1e-12).sum())
        for name in names:
            known = bool(drawn[name]) and not np.isnan(found[name])
            intervals[name][unit] = _interval(drawn[name]) if known else None
            p_values[name][unit] = (1 + extreme[name]) / (1 + RESAMPLES) if known else None
    return {name: Difference(scores[0][name], scores[1][name], intervals[name], p_values[name]) for name in names}


def check_comparable(first: Evaluation, second: Evaluation) -> None:
    """Refuse runs that were not evaluated on the same frames with the same classes.

    Raises:
        ValueError: they were not.
    """
    if first.class_names != second.class_names:
        raise UserError(
            f"runs with other classes cannot be compared: {', '.join(first.class_names)} and "
            f"{', '.join(second.class_names)}"
        )
    frames = [[(frame.sequence, frame.number) for frame in run.frames] for run in (first, second)]
    labelled = [run.confusions.sum(-1) for run in (first, second)]
    if frames[0] != frames[1]:
        only = sorted(set(frames[0]) ^ set(frames[1]))[:1]
        which = f"; frame {only[0][1]} of {only[0][0]} is in one only" if only else " in the same order"
        raise UserError(
            f"only runs on the same frames can be compared, got {len(frames[0])} and {len(frames[1])} frames{which}"
        )
    if not torch.equal(*labelled):
        frame = first.frames[int((labelled[0] != labelled[1]).any(-1).nonzero()[0])]
        raise UserError(
            f"only runs with the same labels can be compared; those of frame {frame.number} of {frame.sequence} differ"
        )


def _bootstrap(evaluation: Evaluation, unit: str) -> Iterator[tuple[Tensor, Tensor]]:
    """Weights of frames ``[S, F]`` and videos ``[S, V]``, chunk by chunk; nothing where there are not two units."""
    video_of = _video_of_frame(evaluation)
    count = {"frames": len(evaluation.frames), "videos": len(evaluation.videos)}[unit]
    if count < 2:
        return
    random = np.random.default_rng(_SEED)
    for _ in range(RESAMPLES // _CHUNK):
        drawn = torch.from_numpy(random.multinomial(count, np.full(count, 1 / count), size=_CHUNK)).double()
        if unit == "videos":
            yield drawn[:, video_of], drawn
        else:
            yield drawn, torch.ones(_CHUNK, len(evaluation.videos)).double()


def _exchanges(evaluation: Evaluation, unit: str) -> Iterator[Tensor]:
    """Which frames keep their order, bool ``[S, F]``, chunk by chunk; nothing where there are not two units."""
    video_of = _video_of_frame(evaluation)
    count = {"frames": len(evaluation.frames), "videos": len(evaluation.videos)}[unit]
    if count < 2:
        return
    random = np.random.default_rng(_SEED)
    for _ in range(RESAMPLES // _CHUNK):
        kept = torch.from_numpy(random.integers(2, size=(_CHUNK, count))).bool()
        yield kept[:, video_of] if unit == "videos" else kept


def _video_of_frame(evaluation: Evaluation) -> Tensor:
    numbers = torch.empty(len(evaluation.frames), dtype=torch.long)
    for number, members in enumerate(evaluation.videos.values()):
        numbers[members] = number
    return numbers


def _stacked(first: Evaluation, second: Evaluation) -> Evaluation:
    """Both runs' frames as one evaluation ``[2F]``, of which a run is a choice."""
    boundaries = None
    if first.boundaries is not None and second.boundaries is not None:
        boundaries = torch.cat([first.boundaries, second.boundaries])
    return Evaluation(
        first.class_names,
        first.frames + second.frames,
        torch.cat([first.confusions, second.confusions]),
        {
            name: torch.cat([counts, second.series[name]])
            for name, counts in first.series.items()
            if name in second.series
        },
        {
            name: torch.cat([counts, second.flow_confusions[name]])
            for name, counts in first.flow_confusions.items()
            if name in second.flow_confusions
        },
        boundaries,
    )


def _weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    """Mean over the last axis of what is not NaN, NaN where all weights are 0."""
    known = torch.where(values.isnan(), 0, weights)
    return (known * values.nan_to_num(0)).sum(-1) / known.sum(-1)


def _interval(samples: list[Tensor]) -> Interval | None:
    values = torch.cat(samples)
    values = values[~values.isnan()]
    if not len(values):
        return None
    tail = (1 - CONFIDENCE) / 2
    low, high = torch.quantile(values, torch.tensor([tail, 1 - tail]).double()).tolist()
    return Interval(low, high)
