"""Evaluation of a model, or of masks, on labelled sequences."""

from ccnet3d.evaluation.evaluate import MasksOf, Segmenter, Timing, evaluate, evaluate_masks
from ccnet3d.evaluation.masks import open_predictions
from ccnet3d.evaluation.result import EvaluatedFrame, Evaluation

__all__ = [
    "EvaluatedFrame",
    "Evaluation",
    "MasksOf",
    "Segmenter",
    "Timing",
    "evaluate",
    "evaluate_masks",
    "open_predictions",
]
