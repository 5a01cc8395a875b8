"""Evaluation metrics."""

from ccnet3d.metrics.boundary import BoundaryScore, boundary_f
from ccnet3d.metrics.confusion import (
    class_accuracy,
    class_iou,
    confusion_matrix,
    frequency_weighted_iou,
    mean_iou,
    pixel_accuracy,
)
from ccnet3d.metrics.consistency import OpticalFlow, TemporalConsistency, VideoConsistency, pair_counts
from ccnet3d.metrics.flow import dis_flow, raft_flow

__all__ = [
    "BoundaryScore",
    "OpticalFlow",
    "TemporalConsistency",
    "VideoConsistency",
    "boundary_f",
    "class_accuracy",
    "class_iou",
    "confusion_matrix",
    "dis_flow",
    "frequency_weighted_iou",
    "mean_iou",
    "pair_counts",
    "pixel_accuracy",
    "raft_flow",
]
