"""Evaluation metrics."""

from ccnet3d.metrics.confusion import class_iou, confusion_matrix, mean_iou

__all__ = ["class_iou", "confusion_matrix", "mean_iou"]
