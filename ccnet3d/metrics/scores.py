"""The table of metrics: what each counts in a frame, and which scores its counts become.

A new metric is a file in this folder and an entry in :func:`metric_table`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from torch import Tensor

from ccnet3d.errors import UserError
from ccnet3d.metrics.aggregation import Aggregation, Samples
from ccnet3d.metrics.boundary import BoundaryF, boundary_f
from ccnet3d.metrics.boundary_iou import BoundaryIou
from ccnet3d.metrics.confusion import (
    ConfusionMeter,
    class_accuracy,
    class_iou,
    frequency_weighted_iou,
    mean_class_accuracy,
    mean_iou,
    pixel_accuracy,
)
from ccnet3d.metrics.consistency import ChangedPixels, KeptPixels, OpticalFlow, TemporalConsistency, VideoConsistency
from ccnet3d.metrics.flicker import Flicker
from ccnet3d.metrics.meter import Meter, share

__all__ = [
    "MeterOptions",
    "Metric",
    "Score",
    "choose_metrics",
    "find_metric",
    "find_score",
    "metric_table",
    "scores_of_options",
]

_DEFAULT_WINDOWS = (8, 16)
"""Frames n of the VC_n that commands compute."""

_WINDOW_SCORE = re.compile(r"vc(\d+)_(strict|reference)")

_Function = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Score:
    """One score of an evaluation, in [0, 1], NaN where there is nothing to score.

    Example:
        >>> import torch
        >>> counts = torch.tensor([[0, 0], [3, 4], [1, 2]])  # of three frames of one video
        >>> find_score("vc8_strict").value(counts, Samples.whole([[0, 1, 2]])).item()
        0.625
    """

    name: str
    """Key in files and tables, such as ``per_frame_miou``."""
    title: str
    """Shown to people, everywhere under this name: on the console, in reports, tables and logs."""
    over: Aggregation | None
    """What it averages over; None for a value that only single frames have."""
    function: _Function | None = None
    """From counts ``[..., *shape]`` to scores ``[...]``; None for the mean of the classes' scores."""
    of_classes: _Function | None = None
    """From counts ``[..., *shape]`` to scores of classes ``[..., K]``, for scores that have them."""
    classes_name: str = ""
    """Name of the classes' scores: ``iou`` is ``per_class_iou`` in files."""
    unit: str = "%"
    higher_is_better: bool = True
    per_frame: bool = False
    """Whether ``frames.csv`` has it for each frame."""
    headline: bool = False
    """Whether reports show it above their tables."""

    def value(self, counts: Tensor, samples: Samples) -> Tensor:
        """Return the score of each sample.

        Args:
            counts: of each frame, int64 ``[F, *shape]``.
            samples: which frames and videos count how often.

        Returns:
            float64 ``[S]``.
        """
        assert self.over is not None
        if self.function is None:
            return samples.mean_of_classes(self.class_values(counts, samples))
        return samples.aggregate(counts, self.function, self.over)

    def class_values(self, counts: Tensor, samples: Samples) -> Tensor:
        """Return the score of each class in each sample, float64 ``[S, K]``; see :meth:`value`."""
        assert self.over is not None
        assert self.of_classes is not None
        return samples.aggregate(counts, self.of_classes, self.over)

    def frame_values(self, counts: Tensor) -> Tensor:
        """Return the score of each frame alone, float64 ``[F]``, from counts ``[F, *shape]``."""
        if self.function is not None:
            return self.function(counts)
        assert self.of_classes is not None
        return self.of_classes(counts).nanmean(-1)


@dataclass(frozen=True)
class MeterOptions:
    """What meters need to know about an evaluation."""

    num_classes: int
    flow: OpticalFlow | None = None
    """For scores along the optical flow."""


@dataclass(frozen=True)
class Metric:
    """What is counted in each frame, and the scores that the counts become."""

    name: str
    """Key of the counts."""
    shape: Callable[[int], tuple[int, ...]]
    """Shape of a frame's counts for K classes."""
    meter: Callable[[MeterOptions], Meter]
    scores: tuple[Score, ...]
    option: str = ""
    """Option of ``ccnet3d-evaluate`` that computes it; if empty, every evaluation does."""
    section: str = ""
    """Table of ``evaluation.json`` that contains the scores; if empty, they are at its top."""


def metric_table(windows: Iterable[int] = _DEFAULT_WINDOWS) -> tuple[Metric, ...]:
    """Return all metrics, in the order of files and tables.

    Args:
        windows: frames n of the VC_n.
    """
    return (
        Metric(
            "confusion",
            lambda k: (k, k),
            lambda options: ConfusionMeter(options.num_classes),
            (
                Score("miou", "mIoU", "pixels", mean_iou, class_iou, "iou", per_frame=True, headline=True),
                Score("per_frame_miou", "per-frame mIoU", "frames", mean_iou, headline=True),
                Score("video_miou", "video mIoU", "videos", mean_iou, headline=True),
                Score("pixel_accuracy", "pixel accuracy", "pixels", pixel_accuracy, per_frame=True, headline=True),
                Score("class_accuracy", "class accuracy", "pixels", mean_class_accuracy, class_accuracy, "accuracy"),
                Score(
                    "frequency_weighted_iou",
                    "frequency-weighted IoU",
                    "pixels",
                    frequency_weighted_iou,
                ),
            ),
        ),
        Metric(
            "boundary_f",
            lambda k: (k, 4),
            lambda options: BoundaryF(options.num_classes),
            (
                Score(
                    "boundary_f",
                    "boundary F-score",
                    "frames",
                    of_classes=boundary_f,
                    classes_name="boundary_f",
                    per_frame=True,
                    headline=True,
                ),
            ),
            option="boundary",
        ),
        Metric(
            "boundary_iou",
            lambda k: (k, 2),
            lambda options: BoundaryIou(options.num_classes),
            (Score("boundary_iou", "boundary IoU", "pixels", None, share, "boundary_iou", per_frame=True),),
            option="boundary",
        ),
        Metric(
            "kept",
            lambda _: (2,),
            lambda _: KeptPixels(),
            (Score("kept", "constant predictions where the label is constant", None, share, per_frame=True),),
        ),
        Metric(
            "changed",
            lambda _: (2,),
            lambda _: ChangedPixels(),
            (Score("changed", "changed predictions", None, share, per_frame=True, higher_is_better=False),),
        ),
        *(_video_consistency(n, strict=strict) for n in windows for strict in (True, False)),
        Metric(
            "flicker",
            lambda _: (2,),
            lambda _: Flicker(),
            (Score("flicker", "flicker", "pixels", share, per_frame=True, higher_is_better=False),),
            option="consistency",
            section="consistency",
        ),
        _temporal_consistency("tc", "TC", count_occluded=False),
        _temporal_consistency("tc_all", "TC, occluded pixels too", count_occluded=True),
    )


def _video_consistency(window_frames: int, *, strict: bool) -> Metric:
    form = "strict" if strict else "reference"
    name, title = f"vc{window_frames}_{form}", f"VC{window_frames} {form}"
    headline = strict and window_frames == 8
    return Metric(
        name,
        lambda _: (2,),
        lambda _: VideoConsistency(window_frames, strict=strict),
        (Score(name, title, "frames", share, per_frame=True, headline=headline),),
        option="consistency",
        section="consistency",
    )


def _temporal_consistency(name: str, title: str, *, count_occluded: bool) -> Metric:
    def meter(options: MeterOptions) -> Meter:
        if options.flow is None:
            raise ValueError(f"the score {name} needs an optical flow, got None; give dis_flow() or raft_flow(weights)")
        return TemporalConsistency(options.num_classes, options.flow, count_occluded=count_occluded)

    return Metric(
        name,
        lambda k: (k, k),
        meter,
        (Score(name, title, "videos", mean_iou, headline=not count_occluded),),
        option="count_occluded" if count_occluded else "flow",
        section="consistency",
    )


def find_metric(name: str) -> Metric:
    """Return the metric that counts under a name; see :func:`find_score` for ``vc<N>_...``.

    Raises:
        UserError: no such metric.
    """
    for metric in metric_table(_windows([name]) or _DEFAULT_WINDOWS):
        if metric.name == name:
            return metric
    raise UserError(f"there is no metric {name!r}; choose one of {', '.join(m.name for m in metric_table())}")


def find_score(name: str) -> Score:
    """Return a score by name; ``vc<N>_strict`` and ``vc<N>_reference`` exist for every window length N of at least 2.

    Raises:
        UserError: no such score.

    Example:
        >>> find_score("vc8_strict").title
        'VC8 strict'
    """
    known = [score for metric in metric_table(_windows([name]) or _DEFAULT_WINDOWS) for score in metric.scores]
    for score in known:
        if score.name == name:
            return score
    raise UserError(f"there is no score {name!r}; choose one of {', '.join(score.name for score in known)}")


def choose_metrics(names: Iterable[str] = ()) -> list[Metric]:
    """Return the metrics to count for some scores, in the order of the table.

    Args:
        names: scores in addition to those that every evaluation has.

    Raises:
        UserError: no such score.

    Example:
        >>> [metric.name for metric in choose_metrics(["flicker", "vc3_strict"])]
        ['confusion', 'kept', 'changed', 'vc3_strict', 'flicker']
    """
    chosen = {find_score(name).name: None for name in names}
    table = metric_table(_windows(chosen))
    return [metric for metric in table if not metric.option or any(score.name in chosen for score in metric.scores)]


def scores_of_options(options: Collection[str]) -> list[str]:
    """Return the names of the scores that options of ``ccnet3d-evaluate`` compute.

    Example:
        >>> scores_of_options(["boundary"])
        ['boundary_f', 'boundary_iou']
    """
    return [score.name for metric in metric_table() if metric.option in options for score in metric.scores]


def _windows(names: Iterable[str]) -> list[int]:
    """Return the window lengths that names of scores contain."""
    matches = (_WINDOW_SCORE.fullmatch(name) for name in names)
    return list(dict.fromkeys(n for match in matches if match and (n := int(match[1])) >= 2))
