"""Evaluation of a model, or of masks, on labeled sequences."""

from __future__ import annotations

from ccnet3d.evaluation.comparison import RECORD, EvaluationSummary, differences_text, load_runs, scores_text, summarize
from ccnet3d.evaluation.evaluate import MasksOf, Segmenter, Timing, evaluate, evaluate_masks
from ccnet3d.evaluation.evaluation import EvaluatedFrame, Evaluation
from ccnet3d.evaluation.parallel import gather, processes, split_segments
from ccnet3d.evaluation.predictions import open_predictions
from ccnet3d.evaluation.resampling import CONFIDENCE, RESAMPLES, UNITS, Difference, Interval
from ccnet3d.evaluation.robustness import (
    evaluate_corrupted,
    robustness_scores,
    robustness_text,
    save_robustness,
)
from ccnet3d.evaluation.scores_file import check_scores_file
from ccnet3d.metrics import Score, find_score

__all__ = [
    "CONFIDENCE",
    "RECORD",
    "RESAMPLES",
    "UNITS",
    "Difference",
    "EvaluatedFrame",
    "Evaluation",
    "EvaluationSummary",
    "Interval",
    "MasksOf",
    "Score",
    "Segmenter",
    "Timing",
    "check_scores_file",
    "differences_text",
    "evaluate",
    "evaluate_corrupted",
    "evaluate_masks",
    "find_score",
    "gather",
    "load_runs",
    "open_predictions",
    "processes",
    "robustness_scores",
    "robustness_text",
    "save_robustness",
    "scores_text",
    "split_segments",
    "summarize",
]
