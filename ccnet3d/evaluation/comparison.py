"""Evaluations to compare, and what is said of each as a whole."""

from __future__ import annotations

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

RECORD = "evaluation.json"
"""In the folder of a report."""


@dataclass(frozen=True)
class EvaluationSummary:
    """An evaluation with all that the page says of it as a whole."""

    name: str
    evaluation: Evaluation
    scores: Mapping[str, float]
    intervals: Mapping[str, Mapping[str, Interval | None]]
    """By unit, then by score."""
    differences: Mapping[str, Difference] | None
    """From the first run; None for the first."""


def load_runs(paths: Sequence[Path]) -> dict[str, Evaluation]:
    """Evaluations by name, from the files or report folders that ``scripts/evaluate.py`` wrote.

    Raises:
        ValueError: less than two, one that cannot be read, or two that cannot be compared.
    """
    if len(paths) < 2:
        raise UserError(f"a comparison needs at least two runs, got {len(paths)}")
    whole = [path / RECORD if path.is_dir() else path for path in paths]
    names = [path.parent.name if path.name == RECORD else path.stem for path in whole]
    if len(set(names)) < len(names) or "" in names:
        names = [str(path) for path in paths]
    if len(set(names)) < len(names):
        raise UserError(f"the runs to compare must be different files, got {', '.join(names)}")
    runs = {name: Evaluation.load(path) for name, path in zip(names, whole, strict=True)}
    first, *others = runs.values()
    for other in others:
        check_comparable(first, other)
    return runs


def summarize(evaluations: Mapping[str, Evaluation]) -> list[EvaluationSummary]:
    """Scores, intervals and, from the first run, differences.

    Raises:
        ValueError: runs that cannot be compared, or nothing to report.
    """
    runs: list[EvaluationSummary] = []
    for name, evaluation in evaluations.items():
        if not evaluation.frames:
            raise UserError(f"{name} holds no frame; there is nothing to report")
        intervals = {unit: confidence_intervals(evaluation, unit) for unit in UNITS}
        differences = compare(runs[0].evaluation, evaluation) if runs else None
        runs.append(EvaluationSummary(name, evaluation, scores_of(evaluation), intervals, differences))
    return runs


def differences_text(runs: Sequence[EvaluationSummary]) -> str:
    """A line a score for each run but the first: both values and their difference in percent, and how sure it is."""
    first, *others = runs
    lines = []
    for run in others:
        lines.append(f"{run.name} against {first.name}, {len(run.evaluation.frames)} frames")
        for name, found in (run.differences or {}).items():
            shares = f"{100 * found.first:6.2f}{100 * found.second:7.2f}{100 * found.value:+7.2f}"
            p_values = [f"p over {unit} {p:.4f}" for unit, p in found.p_values.items() if p is not None]
            lines.append("  ".join([f"{name:<24}{shares}", *p_values]))
    return "\n".join(lines)
