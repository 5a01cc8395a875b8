"""Evaluation metrics."""

from ccnet3d.metrics.confusion import class_iou, confusion_matrix, mean_iou
from ccnet3d.metrics.consistency import OpticalFlow, TemporalConsistency, VideoConsistency
from ccnet3d.metrics.flicker import Flicker
from ccnet3d.metrics.flow import raft_flow

__all__ = [
    "Flicker",
    "OpticalFlow",
    "TemporalConsistency",
    "VideoConsistency",
    "class_iou",
    "confusion_matrix",
    "mean_iou",
    "raft_flow",
]
