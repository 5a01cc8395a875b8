"""Values of the report's charts: bars, lines over time, confusion matrices.

``templates/charts.html`` draws them. Drawings stretch with the page, and all text is HTML, which stays readable on a
phone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from ccnet3d.evaluation import Interval

__all__ = [
    "Bar",
    "BarRow",
    "Confusion",
    "ConfusionCell",
    "ConfusionTable",
    "Line",
    "Tick",
    "TimeChart",
    "confusion_table",
    "largest_confusions",
    "time_chart",
]

_MOST_POINTS = 600
_MOST_NUMBERED_CLASSES = 32
"""Confusion matrices of more classes have no numbers in their cells."""


class Bar(NamedTuple):
    """One run's bar."""

    value: float
    """In [0, 1], or NaN."""
    interval: Interval | None = None

    @property
    def length(self) -> float:
        """Share of the track's width."""
        return 0.0 if math.isnan(self.value) else self.value


class BarRow(NamedTuple):
    """One class's bars, one per run."""

    name: str
    share: float
    """Of all pixels."""
    bars: Sequence[Bar]


class Line(NamedTuple):
    """One run's values over the frames of a video."""

    name: str
    run: int
    """Index of the run, which decides the color."""
    values: Sequence[float]
    """One per frame in [0, 1], NaN where there is none."""


class Tick(NamedTuple):
    """A mark of a chart's scale."""

    value: float
    height: float
    """In percent of the chart's."""


class TimeChart(NamedTuple):
    """Lines over the frames of one video."""

    numbers: Sequence[int]
    """Frame numbers, ascending."""
    ticks: Sequence[Tick]
    digits: int
    """Decimals of the ticks in percent."""
    paths: Sequence[str]
    """SVG path of each line, x in 0 to 1000, y in 0 (top) to 100."""
    lines: Sequence[Line]

    @property
    def data(self) -> dict[str, object]:
        """What the page's script shows under the pointer."""
        lines = [
            {"name": line.name, "values": [None if math.isnan(value) else round(value, 5) for value in line.values]}
            for line in self.lines
        ]
        return {"x": list(self.numbers), "lines": lines}


class ConfusionCell(NamedTuple):
    """One true class against one predicted class."""

    name: str
    """Of the predicted class."""
    share: float
    """Of the true class's pixels."""
    is_hit: bool

    @property
    def shade(self) -> float:
        """In [0, 1]; the root, so that small shares show."""
        return math.sqrt(self.share)


class Confusion(NamedTuple):
    """Pixels of one class that were predicted as another."""

    true: str
    predicted: str
    share: float
    """Of the true class's pixels."""
    pixels: int


class ConfusionTable(NamedTuple):
    """A confusion matrix by shares of each true class."""

    class_names: Sequence[str]
    rows: Sequence[Sequence[ConfusionCell | None]]
    """One per true class; None where that class has no pixels."""
    is_numbered: bool
    largest: Sequence[Confusion]


def time_chart(numbers: Sequence[int], breaks: set[int], lines: Sequence[Line]) -> TimeChart | None:
    """Return a chart whose scale fits its lines; None if they have no value.

    Args:
        numbers: of the frames, ascending.
        breaks: offsets in ``numbers`` before which there is a gap.
        lines: their values.

    >>> chart = time_chart([3, 4, 5], set(), [Line("run", 0, [0.5, 0.6, 0.55])])
    >>> chart.paths
    ['M0.0 100.00h0L500.0 0.00L1000.0 50.00']
    """
    known = [value for line in lines for value in line.values if not math.isnan(value)]
    if not known:
        return None
    numbers, breaks, lines = _thin_out(numbers, breaks, lines)
    low, high, step = _scale(min(known), max(known))
    values = [low + step * n for n in range(round((high - low) / step) + 1)]
    ticks = [Tick(value, 100 * (value - low) / (high - low)) for value in values]
    paths = [_path(numbers, breaks, line.values, low, high) for line in lines]
    return TimeChart(numbers, ticks, 1 if step < 0.0099 else 0, paths, lines)


def confusion_table(class_names: Sequence[str], confusion: Tensor) -> ConfusionTable:
    """Return the shares of each true class's pixels by predicted class.

    Args:
        class_names: K names.
        confusion: integers ``[K, K]``, pixels by true class (row) and predicted class (column).
    """
    counts = confusion.double()
    shares = (counts / counts.sum(1, keepdim=True)).tolist()
    rows = [
        [
            None if math.isnan(share) else ConfusionCell(name, share, i == j)
            for j, (name, share) in enumerate(zip(class_names, row, strict=True))
        ]
        for i, row in enumerate(shares)
    ]
    is_numbered = len(class_names) <= _MOST_NUMBERED_CLASSES
    return ConfusionTable(class_names, rows, is_numbered, largest_confusions(class_names, confusion))


def largest_confusions(class_names: Sequence[str], confusion: Tensor, count: int = 8) -> list[Confusion]:
    """Return the confusions of the most pixels, at most ``count``, largest first.

    >>> largest_confusions(["car", "road"], torch.tensor([[6, 2], [0, 9]]))
    [Confusion(true='car', predicted='road', share=0.25, pixels=2)]
    """
    wrong = confusion.clone().fill_diagonal_(0)
    found = []
    for cell in wrong.flatten().argsort(descending=True, stable=True)[:count].tolist():
        i, j = divmod(cell, len(class_names))
        pixels = int(wrong[i, j])
        if pixels:
            found.append(Confusion(class_names[i], class_names[j], pixels / int(confusion[i].sum()), pixels))
    return found


def _path(numbers: Sequence[int], breaks: set[int], values: Sequence[float], low: float, high: float) -> str:
    first, span = numbers[0], max(1, numbers[-1] - numbers[0])
    steps, pen_down = "", False
    for offset, (number, value) in enumerate(zip(numbers, values, strict=True)):
        if math.isnan(value):
            pen_down = False
            continue
        pen_down = pen_down and offset not in breaks
        x, y = 1000 * (number - first) / span, 100 - 100 * (value - low) / (high - low)
        # An isolated point is a line of length zero, which has round ends.
        steps += f"{'L' if pen_down else 'M'}{x:.1f} {y:.2f}{'' if pen_down else 'h0'}"
        pen_down = True
    return steps


def _scale(low: float, high: float) -> tuple[float, float, float]:
    """Return the ends of a scale in [0, 1] around two shares, and the step between its 2 to 6 marks."""
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
    """Return at most 600 points: means over neighboring frames, across which gaps are not drawn."""
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
