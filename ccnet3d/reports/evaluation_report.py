"""Evaluations as one self-contained HTML page, and their scores as CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ccnet3d.evaluation import RECORD, UNITS, EvaluationSummary, Interval
from ccnet3d.files import write_atomically
from ccnet3d.journal import check_files, claimed_folder
from ccnet3d.reports.evaluation_page import report_page
from ccnet3d.reports.worst_frames import Strip

__all__ = ["check_report_folder", "write_evaluation_report"]

_PAGE = "report.html"
_FILES = ("scores.csv", "scores.json", "frames.csv", RECORD, _PAGE)


def check_report_folder(folder: Path) -> None:
    """Check that a report can be written to a folder, before the scores are computed.

    Raises:
        UserError: the folder has a file of one of its names that no report wrote.
    """
    check_files(folder, _FILES)


def write_evaluation_report(
    folder: Path, runs: Sequence[EvaluationSummary], strips: Sequence[Strip] = (), palette: Sequence[Any] = ()
) -> Path:
    """Write ``report.html`` with ``scores.csv``, ``scores.json`` and ``frames.csv``; of a single run its record too.

    The record is ``evaluation.json``; see :meth:`ccnet3d.evaluation.Evaluation.load`.

    Args:
        folder: created if missing; the files of an earlier report are replaced.
        runs: one run, or several on the same frames; the others are compared with the first.
        strips: the worst frames of a single run; see :meth:`WorstFrames.strips`.
        palette: RGB of each class in the pictures of ``strips``.

    Returns:
        The path of the page.

    Raises:
        UserError: the folder has a file of these names that no report wrote, or another process writes to it.
        OutputError: a file cannot be written.

    Example:
        >>> from ccnet3d.evaluation import evaluate_masks, summarize
        >>> evaluation = evaluate_masks(masks_of, dataset)  # doctest: +SKIP
        >>> write_evaluation_report(Path("report"), summarize({"my masks": evaluation}))  # doctest: +SKIP
        PosixPath('report/report.html')
    """
    rows = _score_rows(runs)
    settings = {run.name: dict(run.evaluation.settings) for run in runs}
    with claimed_folder(folder, _FILES):
        write_atomically(folder / "scores.csv", _csv(rows))
        write_atomically(
            folder / "scores.json", (json.dumps({"settings": settings, "scores": rows}, indent=1) + "\n").encode()
        )
        write_atomically(folder / "frames.csv", _csv([row for run in runs for row in _frame_rows(run)]))
        if len(runs) == 1:
            runs[0].evaluation.save(folder / RECORD)
        write_atomically(folder / _PAGE, report_page(runs, strips, palette).encode())
    return folder / _PAGE


def _score_rows(runs: Sequence[EvaluationSummary]) -> list[dict[str, Any]]:
    rows = []
    for run in runs:
        for name, value in run.scores.items():
            row: dict[str, Any] = {"run": run.name, "score": name, "value": _number(value)}
            for unit in UNITS:
                row |= _ends(unit, run.intervals[unit][name])
            if len(runs) > 1:
                found = (run.differences or {}).get(name)
                row["difference"] = _number(found.value) if found else None
                for unit in UNITS:
                    row |= _ends(f"difference_{unit}", found.intervals[unit] if found else None)
                    row[f"p_{unit}"] = found.p_values[unit] if found else None
            rows.append(row)
    return rows


def _frame_rows(run: EvaluationSummary) -> list[dict[str, Any]]:
    evaluation = run.evaluation
    values = {name: column.tolist() for name, column in evaluation.frame_scores.items()}
    return [
        {"run": run.name, "sequence": frame.sequence, "number": frame.number, "name": frame.name}
        | {name: _number(column[index]) for name, column in values.items()}
        for index, frame in enumerate(evaluation.frames)
    ]


def _csv(rows: Sequence[Mapping[str, Any]]) -> bytes:
    buffer = io.StringIO(newline="")
    columns = dict.fromkeys(name for row in rows for name in row)
    writer = csv.DictWriter(buffer, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue().encode()


def _ends(prefix: str, interval: Interval | None) -> dict[str, float | None]:
    low, high = interval if interval else (None, None)
    return {f"{prefix}_low": low, f"{prefix}_high": high}


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
