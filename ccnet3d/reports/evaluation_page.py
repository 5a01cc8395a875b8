"""The report's page: sections of HTML around the charts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from importlib.resources import files
from string import Template
from typing import Any

import torch

from ccnet3d.evaluation import CONFIDENCE, RESAMPLES, UNITS, EvaluationSummary, find_score
from ccnet3d.metrics import mean_iou
from ccnet3d.reports import charts
from ccnet3d.reports.charts import Bar, Line, between, escape, percent
from ccnet3d.reports.worst_frames import ERROR_COLORS, Strip

SERIES_NAMES = {
    "kept": "Share predicted alike, of the pixels labelled as in the frame before",
    "vc8_strict": "VC8 strict, of the eight frames up to this one",
    "flicker": "Flicker: share of pixels that change and change back",
}
_MOST_VIDEOS = 12
_DIFFERING_FRAMES = 6


def report_page(runs: Sequence[EvaluationSummary], strips: Sequence[Strip], palette: Sequence[Any]) -> str:
    first = runs[0].evaluation
    settings = first.settings
    subject = " ".join(str(settings[key]) for key in ("dataset", "split") if key in settings) or "Evaluation"
    title = subject if len(runs) == 1 else f"{subject}: {' and '.join(run.name for run in runs)}"
    counts = {"labelled frame": len(first.frames), "video": len(first.videos), "class": len(first.class_names)}
    facts = [f"{n} {what}{'' if n == 1 else 'es' if what.endswith('s') else 's'}" for what, n in counts.items()]
    if len(runs) == 1:
        masks = str(settings.get("masks", ""))
        facts += [masks] if runs[0].name in masks else [runs[0].name, masks]
    sections = {
        "Scores": _scores(runs),
        "IoU of each class": _classes(runs),
        "mIoU over time": _over_time(runs, None),
        "Consistency over time": "".join(_over_time(runs, name) for name in SERIES_NAMES),
        "What is taken for what": _confusions(runs),
        "Frames that differ most": _differing_frames(runs),
        "Worst frames": _strips(first.class_names, strips, palette),
    }
    colored = charts.key([run.name for run in runs])
    keys = dict.fromkeys(("IoU of each class", "mIoU over time", "Consistency over time"), colored)
    return Template(_resource("evaluation.html")).substitute(
        title=escape(title),
        facts=escape(" \u00b7 ".join(filter(None, facts))),
        style=_resource("theme.css") + _resource("evaluation.css"),
        sections="".join(
            f"<section><h2>{heading}</h2>\n{keys.get(heading, '')}{text}</section>\n"
            for heading, text in sections.items()
            if text
        ),
        footer=_footer(runs),
        script=_resource("evaluation.js"),
    )


def _scores(runs: Sequence[EvaluationSummary]) -> str:
    names = [name for name in runs[0].scores if not name.startswith("iou ")]
    if len(runs) > 1:
        return _difference_table(runs, {name: _name(name) for name in names})
    (run,) = runs
    units = _units(runs)
    cards = "".join(
        f'<div class="card"><small>{escape(_name(name))}</small><b>{percent(run.scores[name])}</b>'
        f"<small>{CONFIDENCE:.0%}: {between(run.intervals['frames'][name])}</small></div>\n"
        for name in names
        if find_score(name).headline
    )
    rows = [
        [escape(_name(name)), percent(run.scores[name]), *(between(run.intervals[unit][name]) for unit in units)]
        for name in names
    ]
    return f'<div class="cards">{cards}</div>' + charts.table(
        ["in %", "score", *(f"{CONFIDENCE:.0%} over {unit}" for unit in units)], rows
    )


def _difference_table(runs: Sequence[EvaluationSummary], names: Mapping[str, str]) -> str:
    """Of each score, the value of every run, and of all but the first the difference from it."""
    parts, units = "", _units(runs)
    for run in runs[1:]:
        assert run.differences is not None
        rows = []
        for name, shown in names.items():
            if name not in run.differences:
                continue
            found = run.differences[name]
            change = percent(found.value, signed=True)
            sure = (found.p_values["frames"] or 1) < 1 - CONFIDENCE
            rows.append([
                escape(shown), percent(found.first), percent(found.second), f"<b>{change}</b>" if sure else change,
                *(between(found.intervals[unit], signed=True) for unit in units),
                *(_p_value(found.p_values[unit]) for unit in units),
            ])  # fmt: skip
        head = ["in %", escape(runs[0].name), escape(run.name), "difference"]
        head += [f"{CONFIDENCE:.0%} over {unit}" for unit in units] + [f"p over {unit}" for unit in units]
        parts += charts.table(head, rows)
    return parts


def _classes(runs: Sequence[EvaluationSummary]) -> str:
    first = runs[0].evaluation
    shares = (first.pooled.sum(1) / first.pooled.sum()).tolist()
    rows = []
    for name, part in zip(first.class_names, shares, strict=True):
        group = [Bar(run.scores[f"iou {name}"], run.intervals["frames"][f"iou {name}"]) for run in runs]
        rows.append((name, f"{percent(part, 1)} % of pixels", group))
    note = f'<p class="note">In percent, with {CONFIDENCE:.0%} intervals over frames.</p>'
    differences = "" if len(runs) == 1 else _difference_table(runs, {f"iou {n}": n for n in first.class_names})
    return note + charts.bars(rows) + differences


def _over_time(runs: Sequence[EvaluationSummary], series: str | None) -> str:
    """A chart for each video: the frames' mIoU, or a series that all runs have."""
    if series and any(series not in run.evaluation.frame_scores for run in runs):
        return ""
    first = runs[0].evaluation
    values = [run.evaluation.frame_scores[series or "miou"].tolist() for run in runs]
    by_video = {
        video: [float(mean_iou(run.evaluation.confusions[members].sum(0))) for run in runs]
        for video, members in first.videos.items()
    }
    shown = sorted(by_video, key=lambda video: (math.isnan(by_video[video][0]), by_video[video][0]))[:_MOST_VIDEOS]
    parts = ""
    for video in (video for video in first.videos if video in shown):
        members = first.videos[video]
        frames = [first.frames[position] for position in members]
        breaks = {i for i in range(1, len(frames)) if frames[i].segment != frames[i - 1].segment}
        lines = [Line(run.name, n, [values[n][p] for p in members]) for n, run in enumerate(runs)]
        values_text = " and ".join(f"{percent(miou)} %" for miou in by_video[video])
        title = f"<b>{escape(video)}</b>" + ("" if series else f" mIoU {values_text}")
        parts += charts.time_chart(title, [frame.number for frame in frames], breaks, lines)
    if not parts:
        return ""
    heading = f"<h3>{escape(SERIES_NAMES[series])}</h3>" if series else ""
    left_out = len(by_video) - len(shown)
    note = f'<p class="note">The {len(shown)} videos with the lowest mIoU of {len(by_video)}.</p>' if left_out else ""
    return f'{heading}{note}<div class="charts">{parts}</div>'


def _confusions(runs: Sequence[EvaluationSummary]) -> str:
    parts = '<p class="note">Percent of the true class\u2019s pixels; rows add up to 100.</p>'
    for run in runs:
        heading = f"<h3>{escape(run.name)}</h3>" if len(runs) > 1 else ""
        names, pooled = run.evaluation.class_names, run.evaluation.pooled
        largest = [
            [f"{escape(true)} taken for {escape(wrong)}", percent(part, 1), f"{pixels:,}"]
            for true, wrong, part, pixels in charts.largest_confusions(names, pooled)
        ]
        beside = charts.table(["most pixels", "% of the class", "pixels"], largest) if largest else ""
        parts += f'{heading}<div class="beside">{charts.confusion_table(names, pooled)}{beside}</div>'
    return parts


def _differing_frames(runs: Sequence[EvaluationSummary]) -> str:
    """The frames whose mIoU a run changed most for the worse and for the better."""
    parts = ""
    before = mean_iou(runs[0].evaluation.confusions)
    for run in runs[1:]:
        after = mean_iou(run.evaluation.confusions)
        order = [i for i in (after - before).argsort().tolist() if not torch.isnan(after[i] - before[i])]
        count = min(_DIFFERING_FRAMES, len(order) // 2)
        rows = []
        for i in [*order[:count], *order[len(order) - count :]]:
            frame, change = run.evaluation.frames[i], float(after[i] - before[i])
            where = f"{escape(frame.sequence)} {frame.number}"
            rows.append([where, percent(before[i].item()), percent(after[i].item()), percent(change, signed=True)])
        parts += charts.table(["mIoU in %", escape(runs[0].name), escape(run.name), "difference"], rows) if rows else ""
    return parts


def _strips(class_names: Sequence[str], strips: Sequence[Strip], palette: Sequence[Any]) -> str:
    if not strips:
        return ""
    colors = dict(zip(class_names, palette, strict=True))
    parts = _swatches(colors) + _swatches({f"error: {name}": color for name, color in ERROR_COLORS.items()})
    for strip in strips:
        poorest = sorted((value, name) for name, value in zip(class_names, strip.iou, strict=True) if value == value)[
            :3
        ]
        which = ", ".join(f"{escape(name)} {percent(value, 1)}" for value, name in poorest)
        pictures = "".join(
            f'<figure><img src="{uri}" alt="{name} of {escape(strip.frame.name)}" loading="lazy">'
            f"<figcaption>{name}</figcaption></figure>"
            for name, uri in strip.pictures.items()
        )
        parts += (
            f'<div class="strip"><h3>{escape(strip.frame.sequence)} {strip.frame.number}: mIoU {percent(strip.miou)} % '
            f'<small>lowest {which}</small></h3><div class="pictures">{pictures}</div></div>\n'
        )
    return parts


def _swatches(colors: Mapping[str, Any]) -> str:
    shown = "".join(
        f'<span><i style="background:rgb({r} {g} {b})"></i>{escape(n)}</span>' for n, (r, g, b) in colors.items()
    )
    return f'<p class="key">{shown}</p>\n'


def _footer(runs: Sequence[EvaluationSummary]) -> str:
    units = _units(runs)
    text = (
        f"<p>Intervals are the middle {CONFIDENCE:.0%} of {RESAMPLES} bootstrap samples of {' or of '.join(units)}, "
        "pooled anew in each. Frames of one video resemble each other: over frames they are too narrow for what other "
        f"videos would give{'' if 'videos' in units else ', and there is one video'}.</p>"
    )
    if len(runs) > 1:
        one_by_one = " or ".join(f"{unit[:-1]} by {unit[:-1]}" for unit in units)
        text += (
            f"<p>Differences are from the first run, on the same frames; bold with p below {1 - CONFIDENCE:.2f} over "
            f"frames, which a difference too small to matter can have. P-values are of a two-sided permutation test "
            f"that exchanges the runs at random, {one_by_one}, {RESAMPLES} times; they are not corrected for how many "
            "scores there are.</p>"
        )
    for run in runs:
        name = f"{run.name}: " if len(runs) > 1 else ""
        facts = ", ".join(f"{key} {value}" for key, value in run.evaluation.settings.items())
        text += f"<p>{escape(name + facts)}</p>"
    return text


def _units(runs: Sequence[EvaluationSummary]) -> list[str]:
    """What intervals are over: videos only where there are two."""
    return [unit for unit in UNITS if unit == "frames" or len(runs[0].evaluation.videos) > 1]


def _name(name: str) -> str:
    score = find_score(name)
    return score.title if score.higher_is_better else f"{score.title} (less is better)"


def _p_value(p: float | None) -> str:
    if p is None:
        return "\u2013"
    return "&lt; 0.001" if p < 0.001 else f"{p:.3f}"


def _resource(name: str) -> str:
    return files("ccnet3d.reports").joinpath("templates", name).read_text(encoding="utf-8")
