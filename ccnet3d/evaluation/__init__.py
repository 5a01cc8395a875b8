"""Evaluation of a model, or of masks, on labelled sequences."""

from ccnet3d.evaluation.evaluate import Segmenter, Timing, evaluate, evaluate_masks
from ccnet3d.evaluation.result import EvaluatedFrame, Evaluation

__all__ = ["EvaluatedFrame", "Evaluation", "Segmenter", "Timing", "evaluate", "evaluate_masks"]
