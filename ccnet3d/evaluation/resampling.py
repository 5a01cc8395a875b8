"""Confidence intervals of scores, and tests whether two runs differ, by resampling frames or videos.

Everything is computed from the counts of an :class:`Evaluation`, with frames and videos weighted: a bootstrap sample is
how often each frame (or video) was drawn. Scores that pool pixels, as mIoU does, are pooled again in each sample.

Frames of one video resemble each other, so intervals over frames underestimate how much scores vary between
videos; intervals over videos do not, and need several videos.

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
from ccnet3d.metrics import Samples, find_score

__all__ = [
    "CONFIDENCE",
    "RESAMPLES",
    "UNITS",
    "Difference",
    "Interval",
    "check_comparable",
    "compare",
    "confidence_intervals",
    "scores_of",
    "weighted_scores",
]

RESAMPLES = 2000
CONFIDENCE = 0.95
UNITS = ("frames", "videos")
_SEED = 0
_CHUNK = 200
"""Samples scored at once; memory contains a pooled confusion matrix of each."""


class Interval(NamedTuple):
    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """One score of two runs on the same frames."""

    first: float
    second: float
    intervals: Mapping[str, Interval | None]
    """Of second - first, by unit; None with fewer than two units."""
    p_values: Mapping[str, float | None]
    """Two-sided, by unit."""

    @property
    def value(self) -> float:
        return self.second - self.first


def weighted_scores(evaluation: Evaluation, frames: Tensor, videos: Tensor) -> dict[str, Tensor]:
    """Return the scores of samples, float64 ``[S]`` each, NaN where a sample has nothing to score.

    With weights of 1 they are the evaluation's own scores, up to rounding. The IoU of class ``c`` is ``iou c``.

    Args:
        evaluation: the counts.
        frames: float64 ``[S, F]``, how often each frame is in each sample.
        videos: float64 ``[S, V]``, how often each video counts in means over videos.
    """
    samples = Samples(list(evaluation.videos.values()), frames, videos)
    classes = find_score("miou").class_values(evaluation.confusions, samples)
    scores = evaluation.sample_scores(samples)
    return scores | {f"iou {name}": classes[:, k] for k, name in enumerate(evaluation.class_names)}


def scores_of(evaluation: Evaluation) -> dict[str, float]:
    """Return the scores of the whole evaluation, under the names and with the arithmetic of :func:`weighted_scores`."""
    ones = torch.ones(1, len(evaluation.frames)).double(), torch.ones(1, len(evaluation.videos)).double()
    return {name: float(value) for name, value in weighted_scores(evaluation, *ones).items()}


def confidence_intervals(evaluation: Evaluation, unit: str) -> dict[str, Interval | None]:
    """Return percentile bootstrap intervals of every score (Efron, 1979), the same in each call.

    Args:
        evaluation: the counts.
        unit: what is drawn with replacement, ``frames`` or ``videos``.

    Returns:
        The middle 95 % of 2000 samples; None with fewer than two units, or nothing to score.
    """
    samples: dict[str, list[Tensor]] = {}
    for weights in _bootstrap(evaluation, unit):
        for name, values in weighted_scores(evaluation, *weights).items():
            samples.setdefault(name, []).append(values)
    return {name: _interval(samples[name]) if samples else None for name in scores_of(evaluation)}


def compare(first: Evaluation, second: Evaluation) -> dict[str, Difference]:
    """Return the differences of two runs on the same frames, in every score that both have.

    Intervals are from a paired bootstrap: both runs are scored on the same sample. P-values are from a paired
    permutation test: in each of 2000 samples the two runs' frames (or videos) are exchanged at random, and the p-value
    is how often the difference is at least as large as the observed one, which is counted as a sample too.

    Raises:
        UserError: the runs have other frames or classes.
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
        for own in _exchanges(first, unit):  # bool [S, F]: each run keeps its own counts of a frame
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
    """Check that two runs were evaluated on the same frames with the same classes.

    Raises:
        UserError: they were not.
    """
    if first.class_names != second.class_names:
        raise UserError(
            f"runs with different classes cannot be compared: {', '.join(first.class_names)} and "
            f"{', '.join(second.class_names)}"
        )
    frames = [[(frame.sequence, frame.number) for frame in run.frames] for run in (first, second)]
    labeled = [run.confusions.sum(-1) for run in (first, second)]
    if frames[0] != frames[1]:
        only = sorted(set(frames[0]) ^ set(frames[1]))[:1]
        which = f"; frame {only[0][1]} of {only[0][0]} is in only one of them" if only else " in the same order"
        raise UserError(
            f"only runs on the same frames can be compared, got {len(frames[0])} and {len(frames[1])} frames{which}"
        )
    if not torch.equal(*labeled):
        frame = first.frames[int((labeled[0] != labeled[1]).any(-1).nonzero()[0])]
        raise UserError(
            f"only runs with the same labels can be compared; the labels of frame {frame.number} of {frame.sequence} "
            "differ"
        )


def _bootstrap(evaluation: Evaluation, unit: str) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield weights of frames ``[S, F]`` and videos ``[S, V]`` in chunks; none with fewer than two units."""
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
    """Yield which frames are not exchanged, bool ``[S, F]`` in chunks; none with fewer than two units."""
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
    """Return both runs' frames as one evaluation of ``2F`` frames, with the counts that both have."""
    counts = {
        name: torch.cat([own, second.counts[name]]) for name, own in first.counts.items() if name in second.counts
    }
    return Evaluation(first.class_names, first.frames + second.frames, counts)


def _interval(samples: list[Tensor]) -> Interval | None:
    values = torch.cat(samples)
    values = values[~values.isnan()]
    if not len(values):
        return None
    tail = (1 - CONFIDENCE) / 2
    low, high = torch.quantile(values, torch.tensor([tail, 1 - tail]).double()).tolist()
    return Interval(low, high)
