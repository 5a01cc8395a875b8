"""Pieces of the report as HTML and inline SVG: tables, bars, lines over time, confusion matrices.

What is drawn stretches with the page, and all text is HTML, so that it can be read on a phone. Colours are the style
sheet's, of which the runs have one each.
"""

from __future__ import annotations

import html
import json
import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from ccnet3d.evaluation import Interval

RUN_COLORS = 6
"""Runs that the style sheet has colours for."""
_MOST_POINTS = 600
_MOST_NUMBERED_CLASSES = 32
"""Of more classes, cells of a confusion matrix hold no numbers."""


class Bar(NamedTuple):
    value: float
    interval: Interval | None = None


class Line(NamedTuple):
    name: str
    run: int
    values: Sequence[float]
    """One a frame, NaN where there is none."""


def escape(text: object) -> str:
    return html.escape(str(text))


def percent(share: float | None, digits: int = 2, *, signed: bool = False) -> str:
    """A share as text in percent, a dash for None and NaN."""
    if share is None or math.isnan(share):
        return "\u2013"
    rounded = round(100 * share, digits) + 0.0  # no -0.0
    return f"{rounded:{'+' if signed and rounded else ''}.{digits}f}".replace("-", "\u2212")


def between(interval: Interval | None, *, signed: bool = False) -> str:
    """An interval as text in percent."""
    return "\u2013" if interval is None else " to ".join(percent(end, 1, signed=signed) for end in interval)


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, of_text: int = 1) -> str:
    """A table that scrolls by itself where it is too wide; cells are HTML, the first ``of_text`` columns are words."""

    def cells(row: Sequence[str], tag: str) -> str:
        return "".join(f"<{tag}{' class=text' if i < of_text else ''}>{cell}</{tag}>" for i, cell in enumerate(row))

    body = "".join(f"<tr>{cells(row, 'td')}</tr>\n" for row in rows)
    return (
        f'<div class="scroll"><table><thead><tr>{cells(head, "th")}</tr></thead><tbody>\n{body}</tbody></table></div>\n'
    )


def key(names: Sequence[str]) -> str:
    """Which colour is which run; nothing where there is one."""
    if len(names) < 2:
        return ""
    shown = "".join(f'<span><i class="run-{i % RUN_COLORS}"></i>{escape(name)}</span>' for i, name in enumerate(names))
    return f'<p class="key">{shown}</p>\n'


def bars(rows: Iterable[tuple[str, str, Sequence[Bar]]]) -> str:
    """Horizontal bars from 0 to 100 %, one group a row: (name, a remark, a bar for each run)."""
    parts = []
    for name, remark, group in rows:
        tracks, values = "", ""
        for run, bar in enumerate(group):
            known = 0.0 if math.isnan(bar.value) else bar.value
            whisker = ""
            if bar.interval:
                low, high = bar.interval
                whisker = f'<i class="whisker" style="left:{100 * low:.2f}%;width:{100 * (high - low):.2f}%"></i>'
            solid = f'<i class="bar run-{run % RUN_COLORS}" style="width:{100 * known:.2f}%"></i>'
            tracks += f'<div class="track">{solid}{whisker}</div>'
            values += f"<div>{percent(bar.value, 1)}</div>"
        parts.append(
            f'<div class="row"><div class="name">{escape(name)}<small>{escape(remark)}</small></div>'
            f'<div class="tracks">{tracks}</div><div class="values">{values}</div></div>\n'
        )
    return f'<div class="bars">\n{"".join(parts)}</div>\n'


def time_chart(title: str, numbers: Sequence[int], breaks: set[int], lines: Sequence[Line]) -> str:
    """Lines over the frames of one video.

    Args:
        title: HTML.
        numbers: of the frames, ascending.
        breaks: positions before which there is a gap.
        lines: of shares; the scale is fitted to them.
    """
    known = [value for line in lines for value in line.values if not math.isnan(value)]
    if not known:
        return ""
    numbers, breaks, lines = _thin_out(numbers, breaks, lines)
    low, high, step = _scale(min(known), max(known))
    ticks = [low + step * n for n in range(round((high - low) / step) + 1)]
    digits = 1 if step < 0.0099 else 0
    labels = "".join(
        f'<span style="bottom:{100 * (tick - low) / (high - low):.2f}%">{percent(tick, digits)} %</span>'
        for tick in ticks
    )
    grid = "".join(
        f'<path class="grid" d="M0 {y:.2f}H1000"/>' for y in (100 - 100 * (tick - low) / (high - low) for tick in ticks)
    )
    first, span = numbers[0], max(1, numbers[-1] - numbers[0])
    paths = ""
    for line in lines:
        steps, pen_down = "", False
        for position, (number, value) in enumerate(zip(numbers, line.values, strict=True)):
            if math.isnan(value):
                pen_down = False
                continue
            pen_down = pen_down and position not in breaks
            x, y = 1000 * (number - first) / span, 100 - 100 * (value - low) / (high - low)
            # A point by itself is a line of no length, which has round ends.
            steps += f"{'L' if pen_down else 'M'}{x:.1f} {y:.2f}{'' if pen_down else 'h0'}"
            pen_down = True
        paths += f'<path class="line run-{line.run % RUN_COLORS}" d="{steps}"/>'
    shown = [
        {"name": line.name, "values": [None if math.isnan(v) else round(v, 5) for v in line.values]} for line in lines
    ]
    data = escape(json.dumps({"x": list(numbers), "lines": shown}, separators=(",", ":")))
    return (
        f'<figure class="chart" data-lines="{data}"><figcaption><span>{title}</span><output></output></figcaption>'
        f'<div class="plot"><div class="scale">{labels}</div><svg viewBox="0 0 1000 100" preserveAspectRatio="none" '
        f'role="img" aria-label="lines over time">{grid}{paths}</svg><div class="cursor" hidden></div></div>'
        f'<div class="ends"><span>frame {numbers[0]}</span><span>{numbers[-1]}</span></div></figure>\n'
    )


def confusion_table(class_names: Sequence[str], confusion: Tensor) -> str:
    """The shares of each true class's pixels by predicted class, in percent, as a table of shades."""
    counts = confusion.double()
    shares = (counts / counts.sum(1, keepdim=True)).tolist()
    numbered = len(class_names) <= _MOST_NUMBERED_CLASSES
    head = "".join(f"<th><span>{escape(name)}</span></th>" for name in class_names)
    body = ""
    for i, (name, row) in enumerate(zip(class_names, shares, strict=True)):
        cells = ""
        for j, share in enumerate(row):
            if math.isnan(share):
                cells += "<td></td>"
                continue
            text = f"{100 * share:.0f}" if numbered and share >= 0.005 else ""
            kind = ("hit" if i == j else "miss") + (" deep" if math.sqrt(share) > 0.7 else "")
            hint = f"{name} taken for {class_names[j]}: {100 * share:.2f} %"
            cells += f'<td class="{kind}" style="--s:{100 * math.sqrt(share):.0f}%" title="{escape(hint)}">{text}</td>'
        body += f'<tr><th class="text">{escape(name)}</th>{cells}</tr>\n'
    return (
        f'<div class="scroll"><table class="confusion{"" if numbered else " dense"}">'
        f'<thead><tr><th class="text">true \u2193 predicted \u2192</th>{head}</tr></thead>'
        f"<tbody>\n{body}</tbody></table></div>\n"
    )


def largest_confusions(
    class_names: Sequence[str], confusion: Tensor, count: int = 8
) -> list[tuple[str, str, float, int]]:
    """(true class, predicted class, share of the true class's pixels, pixels), by pixels."""
    wrong = confusion.clone().fill_diagonal_(0)
    found = []
    for place in wrong.flatten().argsort(descending=True, stable=True)[:count].tolist():
        i, j = divmod(place, len(class_names))
        pixels = int(wrong[i, j])
        if pixels:
            found.append((class_names[i], class_names[j], pixels / int(confusion[i].sum()), pixels))
    return found


def _scale(low: float, high: float) -> tuple[float, float, float]:
    """The ends of a scale in [0, 1] around two shares, and the step between its marks, of which there are 2 to 6."""
    for step in (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.25):
        bottom, top = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
        if top - bottom <= 4:
            break
    if top == bottom:
        top, bottom = (top + 1, bottom) if top * step < 1 else (top, bottom - 1)
    return bottom * step, top * step, step


def _thin_out(
    numbers: Sequence[int], breaks: set[int], lines: Sequence[Line]
) -> tuple[Sequence[int], set[int], Sequence[Line]]:
    """At most 600 points: means over neighbours, among which gaps are not drawn."""
    count = len(numbers)
    if count <= _MOST_POINTS:
        return numbers, breaks, lines
    edges = [count * n // _MOST_POINTS for n in range(_MOST_POINTS + 1)]
    parts = [slice(a, b) for a, b in pairwise(edges)]
    return (
        [numbers[part.start] for part in parts],
        set(),
        [
            line._replace(values=[float(torch.tensor(line.values[p]).double().nanmean()) for p in parts])
            for line in lines
        ],
    )
