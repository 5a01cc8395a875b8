"""Evaluation of a model on labelled sequences."""

from ccnet3d.evaluation.evaluate import Evaluation, evaluate

__all__ = ["Evaluation", "evaluate"]
