"""The page of an evaluation report: values of its sections for ``templates/evaluation.html``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ccnet3d.evaluation import (
    CONFIDENCE,
    RESAMPLES,
    UNITS,
    Difference,
    EvaluatedFrame,
    EvaluationSummary,
    Interval,
    find_score,
)
from ccnet3d.metrics import mean_iou
from ccnet3d.reports._templates import load_template
from ccnet3d.reports.charts import Bar, BarRow, Line, TimeChart, confusion_table, time_chart
from ccnet3d.reports.worst_frames import ERROR_COLORS, Strip
from ccnet3d.wording import count_of

__all__ = ["report_page"]

_SERIES = {
    "kept": "Share of constant predictions where the label is constant",
    "vc8_strict": "{title} over the eight frames up to this one",
    "flicker": "{title}: share of pixels that change and change back",
}
"""Headings of the series charted over time; ``title`` is the score's."""
_MOST_VIDEOS = 12
_DIFFERING_FRAMES = 6
_LOWEST_CLASSES = 3


class _ScoreRow(NamedTuple):
    title: str
    value: float
    intervals: Mapping[str, Interval | None]
    """By unit."""


class _DifferenceRow(NamedTuple):
    title: str
    difference: Difference
    is_significant: bool


class _VideoChart(NamedTuple):
    name: str
    mious: Sequence[float]
    """One per run."""
    chart: TimeChart


class _ChangedFrame(NamedTuple):
    frame: EvaluatedFrame
    before: float
    """mIoU of the first run."""
    after: float


def report_page(runs: Sequence[EvaluationSummary], strips: Sequence[Strip], palette: Sequence[Any]) -> str:
    """Return the page as HTML; see :func:`ccnet3d.reports.write_evaluation_report`."""
    first = runs[0].evaluation
    units = [unit for unit in UNITS if unit == "frames" or len(first.videos) > 1]
    scores = {name: _score_title(name) for name in runs[0].scores if not name.startswith("iou ")}
    rows = {name: _score_row(runs[0], name, title) for name, title in scores.items()}
    frame_scores = [run.evaluation.frame_scores for run in runs]
    mious = [scores["miou"] for scores in frame_scores]
    return load_template("evaluation.html").render(
        title=_title(runs),
        facts=_facts(runs),
        names=[run.name for run in runs],
        units=units,
        interval_heads=[f"{CONFIDENCE:.0%} CI over {unit}" for unit in units],
        p_value_heads=[f"p over {unit}" for unit in units],
        confidence=f"{CONFIDENCE:.0%}",
        significance=f"{1 - CONFIDENCE:.2f}",
        resamples=RESAMPLES,
        cards=[row for name, row in rows.items() if find_score(name).headline],
        score_unit=" or ".join(dict.fromkeys(find_score(name).unit for name in scores)),
        scores=rows.values(),
        score_differences={run.name: _differences(run, scores) for run in runs[1:]},
        classes=_classes(runs),
        class_differences={
            run.name: _differences(run, {f"iou {name}": name for name in first.class_names}) for run in runs[1:]
        },
        miou_charts=_charts(runs, mious),
        series_charts=_series_charts(runs, frame_scores),
        charted_videos=min(len(first.videos), _MOST_VIDEOS),
        video_count=len(first.videos),
        confusions={run.name: confusion_table(first.class_names, run.evaluation.pooled) for run in runs},
        changed_frames={
            run.name: _changed_frames(first.frames, mious[0], after)
            for run, after in zip(runs[1:], mious[1:], strict=True)
        },
        strips=[(strip, _lowest_classes(first.class_names, strip)) for strip in strips],
        colors=dict(zip(first.class_names, palette, strict=True)) if strips else {},
        error_colors={f"error map: {name}": color for name, color in ERROR_COLORS.items()},
        settings={run.name: run.evaluation.settings for run in runs},
    )


def _title(runs: Sequence[EvaluationSummary]) -> str:
    settings = runs[0].evaluation.settings
    subject = " ".join(str(settings[key]) for key in ("dataset", "split") if key in settings) or "Evaluation"
    return subject if len(runs) == 1 else f"{subject}: {' and '.join(run.name for run in runs)}"


def _facts(runs: Sequence[EvaluationSummary]) -> str:
    first = runs[0].evaluation
    facts = [
        count_of(len(first.frames), "labeled frame"),
        count_of(len(first.videos), "video"),
        count_of(len(first.class_names), "class", "classes"),
    ]
    if len(runs) == 1:
        masks = str(first.settings.get("masks", ""))
        facts += [masks] if runs[0].name in masks else [runs[0].name, masks]
    return " \u00b7 ".join(filter(None, facts))


def _score_title(name: str) -> str:
    score = find_score(name)
    return score.title if score.higher_is_better else f"{score.title} (lower is better)"


def _score_row(run: EvaluationSummary, name: str, title: str) -> _ScoreRow:
    return _ScoreRow(title, run.scores[name], {unit: run.intervals[unit][name] for unit in UNITS})


def _differences(run: EvaluationSummary, titles: Mapping[str, str]) -> list[_DifferenceRow]:
    """Return the differences from the first run, in the scores that both have."""
    assert run.differences is not None
    found = [(title, run.differences[name]) for name, title in titles.items() if name in run.differences]
    return [_DifferenceRow(title, one, (one.p_values["frames"] or 1) < 1 - CONFIDENCE) for title, one in found]


def _classes(runs: Sequence[EvaluationSummary]) -> list[BarRow]:
    first = runs[0].evaluation
    shares = (first.pooled.sum(1) / first.pooled.sum()).tolist()
    return [
        BarRow(name, share, [Bar(run.scores[f"iou {name}"], run.intervals["frames"][f"iou {name}"]) for run in runs])
        for name, share in zip(first.class_names, shares, strict=True)
    ]


def _series_charts(
    runs: Sequence[EvaluationSummary], frame_scores: Sequence[Mapping[str, Tensor]]
) -> dict[str, list[_VideoChart]]:
    """Return the charts of each series that all runs have, by heading."""
    charts = {}
    for name, heading in _SERIES.items():
        if all(name in scores for scores in frame_scores):
            title = find_score(name).title if "{title}" in heading else ""
            videos = _charts(runs, [scores[name] for scores in frame_scores])
            charts[heading.format(title=title[:1].upper() + title[1:])] = videos
    return {heading: videos for heading, videos in charts.items() if videos}


def _charts(runs: Sequence[EvaluationSummary], values: Sequence[Tensor]) -> list[_VideoChart]:
    """Return a chart for each video, of those with the lowest mIoU where there are many.

    Args:
        runs: on the same frames.
        values: of each run, float64 ``[F]``.
    """
    first = runs[0].evaluation
    mious = {
        video: [float(mean_iou(run.evaluation.confusions[members].sum(0))) for run in runs]
        for video, members in first.videos.items()
    }
    shown = sorted(mious, key=lambda video: (math.isnan(mious[video][0]), mious[video][0]))[:_MOST_VIDEOS]
    charts = []
    for video, members in first.videos.items():
        if video not in shown:
            continue
        frames = [first.frames[index] for index in members]
        breaks = {i for i in range(1, len(frames)) if frames[i].segment != frames[i - 1].segment}
        lines = [Line(run.name, n, values[n][members].tolist()) for n, run in enumerate(runs)]
        chart = time_chart([frame.number for frame in frames], breaks, lines)
        if chart:
            charts.append(_VideoChart(video, mious[video], chart))
    return charts


def _changed_frames(frames: Sequence[EvaluatedFrame], before: Tensor, after: Tensor) -> list[_ChangedFrame]:
    """Return the frames whose mIoU dropped most, then those whose mIoU rose most."""
    order = [i for i in (after - before).argsort().tolist() if not torch.isnan(after[i] - before[i])]
    count = min(_DIFFERING_FRAMES, len(order) // 2)
    return [
        _ChangedFrame(frames[i], float(before[i]), float(after[i]))
        for i in [*order[:count], *order[len(order) - count :]]
    ]


def _lowest_classes(class_names: Sequence[str], strip: Strip) -> list[tuple[float, str]]:
    known = [(iou, name) for iou, name in zip(strip.iou, class_names, strict=True) if not math.isnan(iou)]
    return sorted(known)[:_LOWEST_CLASSES]
