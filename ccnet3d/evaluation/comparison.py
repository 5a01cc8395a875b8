"""Evaluations summarized: scores, intervals and differences, as values and as text."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ccnet3d.errors import UserError
from ccnet3d.evaluation.evaluation import Evaluation
from ccnet3d.evaluation.resampling import (
    UNITS,
    Difference,
    Interval,
    check_comparable,
    compare,
    confidence_intervals,
    scores_of,
)
from ccnet3d.metrics import find_score
from ccnet3d.wording import count_of

__all__ = ["RECORD", "EvaluationSummary", "differences_text", "load_runs", "scores_text", "summarize"]

RECORD = "evaluation.json"
"""Name of the evaluation in the folder of a report."""


@dataclass(frozen=True)
class EvaluationSummary:
    """An evaluation with its scores and how certain they are."""

    name: str
    evaluation: Evaluation
    scores: Mapping[str, float]
    """Every score, and the IoU of class ``c`` as ``iou c``."""
    intervals: Mapping[str, Mapping[str, Interval | None]]
    """By unit, then by score."""
    differences: Mapping[str, Difference] | None
    """From the first run; None for the first."""


def load_runs(paths: Sequence[Path]) -> dict[str, Evaluation]:
    """Return evaluations by name, from files or report folders that ``ccnet3d-evaluate`` wrote.

    Raises:
        UserError: fewer than two, one that cannot be read, or two that cannot be compared.
    """
    if len(paths) < 2:
        raise UserError(f"a comparison needs at least two runs, got {len(paths)}")
    files = [path / RECORD if path.is_dir() else path for path in paths]
    names = [path.parent.name if path.name == RECORD else path.stem for path in files]
    if len(set(names)) < len(names) or "" in names:
        names = [str(path) for path in paths]
    if len(set(names)) < len(names):
        raise UserError(f"the runs to compare must be different files, got {', '.join(names)}")
    runs = {name: Evaluation.load(path) for name, path in zip(names, files, strict=True)}
    first, *others = runs.values()
    for other in others:
        check_comparable(first, other)
    return runs


def summarize(evaluations: Mapping[str, Evaluation]) -> list[EvaluationSummary]:
    """Return scores, intervals and differences from the first run.

    Raises:
        UserError: runs that cannot be compared, or a run without frames.

    Example:
        >>> import torch
        >>> from ccnet3d.evaluation import EvaluatedFrame
        >>> frames = (EvaluatedFrame("walk", 1, "0001", 0), EvaluatedFrame("walk", 2, "0002", 0))
        >>> confusions = {"old": [[3, 1], [0, 4]], "new": [[4, 0], [0, 4]]}
        >>> runs = summarize({
        ...     name: Evaluation(("ground", "box"), frames, {"confusion": torch.tensor([counts] * 2)})
        ...     for name, counts in confusions.items()
        ... })
        >>> round(runs[1].differences["miou"].value, 3)
        0.225
        >>> differences_text(runs).splitlines()[0]
        'new against old, 2 frames'
    """
    runs: list[EvaluationSummary] = []
    for name, evaluation in evaluations.items():
        if not evaluation.frames:
            raise UserError(f"{name} has no frames; there is nothing to report")
        intervals = {unit: confidence_intervals(evaluation, unit) for unit in UNITS}
        differences = compare(runs[0].evaluation, evaluation) if runs else None
        runs.append(EvaluationSummary(name, evaluation, scores_of(evaluation), intervals, differences))
    return runs


def scores_text(evaluation: Evaluation) -> str:
    """Return one line per class's IoU and per score, in percent.

    Example:
        >>> import torch
        >>> from ccnet3d.evaluation import EvaluatedFrame
        >>> frame = EvaluatedFrame("walk", 1, "0001", 0)
        >>> evaluation = Evaluation(("ground", "box"), (frame,), {"confusion": torch.tensor([[[3, 1], [0, 4]]])})
        >>> scores_text(evaluation).splitlines()[:3]
        ['ground                   75.00', 'box                      80.00', 'mIoU                     77.50']
    """
    rows = evaluation.class_scores("miou")
    values = evaluation.scores
    for metric, _ in evaluation.metrics:
        shown = [score for score in metric.scores if score.over]
        for score in sorted(shown, key=lambda score: score.name.endswith("accuracy")):  # IoU first
            rows[score.title] = values[score.name]
    return "\n".join(f"{name:<24}{_percent(value)}" for name, value in rows.items())


def differences_text(runs: Sequence[EvaluationSummary]) -> str:
    """Return one line per score for each run after the first: both values and their difference in percent, p-values."""
    first, *others = runs
    lines = []
    for run in others:
        lines.append(f"{run.name} against {first.name}, {count_of(len(run.evaluation.frames), 'frame')}")
        for name, found in (run.differences or {}).items():
            shares = f"{100 * found.first:6.2f}{100 * found.second:7.2f}{100 * found.value:+7.2f}"
            p_values = [f"p over {unit} {p:.4f}" for unit, p in found.p_values.items() if p is not None]
            lines.append("  ".join([f"{_title(name):<24}{shares}", *p_values]))
    return "\n".join(lines)


def _title(name: str) -> str:
    """Return the title of a score, or of a class's IoU."""
    return f"IoU of {name.removeprefix('iou ')}" if name.startswith("iou ") else find_score(name).title


def _percent(value: float) -> str:
    return "     -" if math.isnan(value) else f"{100 * value:6.2f}"
